"""doctor: look at everything a first run needs, change nothing, and say of each whether it is there."""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from thems_jobs.clients.proxmox import Proxmox, Resources, VmRow
from thems_jobs.clients.ssh import Ssh
from thems_jobs.core import role
from thems_jobs.core.identity import address_of, has_place, resembles
from thems_jobs.core.platform import Platform, Tier, addresses_of
from thems_jobs.errors import Refused, ThemsError

OLDEST = (9, 0)  # the release that brought VM.GuestAgent.* and import-from without root


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. `remedy` is the next thing to do, "" where all is well."""

    name: str
    ok: bool
    measured: str
    required: str
    remedy: str = ""


def examine(platform: Platform, base: Path, proxmox: Proxmox) -> tuple[Check, ...]:
    """Given a platform, the folder of its file and its cluster, return every check; nothing is changed.

    When the cluster lets nobody in, what can be known only from it is left out.
    """
    checks = [_reach(platform, base), *_ssh(platform, base)]
    checks += [_endpoint(platform, base, url) for url in platform.proxmox.endpoints]
    try:
        checks.append(_version(proxmox))
        resources = proxmox.resources()
    except ThemsError as error:
        return (*checks, _failed("token", error, f"{platform.proxmox.token_id} is let in"))
    checks += _asked("privileges", lambda: _privileges(platform, proxmox))
    checks += _asked("quorum", lambda: [_quorum(proxmox)])
    checks += _nodes(platform, resources)
    checks += _storages(platform, resources)
    checks += _asked("pool", lambda: [_pool(platform, proxmox)])
    checks += _asked("record", lambda: [_record(platform, proxmox)])
    for name, tier in platform.tiers.items():
        checks.append(_template(platform, name, tier, resources))
        checks += _asked("image", lambda tier=tier: [_image(platform, tier, proxmox)])  # type: ignore[misc]
    return (*checks, _strangers(platform, resources), _addresses(platform, base, resources))


def _asked(name: str, checks: Callable[[], Iterable[Check]]) -> list[Check]:
    """Given checks that ask the cluster, return them, or that the answer was an error."""
    try:
        return list(checks())
    except ThemsError as error:
        return [_failed(name, error, "an answer")]


def _check(name: str, ok: bool, measured: str, required: str, remedy: str) -> Check:
    return Check(name, ok, measured, required, "" if ok else remedy)


def _failed(name: str, error: ThemsError, required: str) -> Check:
    return Check(name, False, f"{error.subject}: {error.detail}", required, error.remedy)


# This host


def _reach(platform: Platform, base: Path) -> Check:
    """The network the machines are in: this host's, or the namespace that the platform file names."""
    required = "this process is in the machines' network"
    if not platform.reach.netns:
        return Check("reach", True, "directly from this host", required)
    path = base / platform.reach.netns
    try:
        inside = path.stat().st_ino == Path("/proc/thread-self/ns/net").stat().st_ino
    except OSError as error:
        return Check("reach", False, f"{path}: {error.strerror}", required, "Is the lab up? thems-jobs lab up")
    measured = f"{'in' if inside else 'not in'} network namespace {path}"
    return _check("reach", inside, measured, required, "Run it as root, which may enter the namespace.")


def _ssh(platform: Platform, base: Path) -> Iterator[Check]:
    """The operators' key and the program that uses it."""
    key = base / platform.ssh.key_file
    readable = key.is_file() and os.access(key, os.R_OK)
    private = readable and not key.stat().st_mode & 0o077
    measured = "readable" if private else "open to others" if readable else "cannot be read"
    remedy = f"ssh-keygen -t ed25519 -N '' -f {key}, or chmod 600 {key}"
    yield _check(f"ssh {key.name}", private, f"{key}: {measured}", "a private key that only its owner can read", remedy)
    program = shutil.which("ssh")
    yield _check(
        "ssh program", bool(program), program or "none found", "OpenSSH's client", "apt install openssh-client"
    )


# The way in


def _endpoint(platform: Platform, base: Path, url: str) -> Check:
    """Every endpoint on its own: failover would hide one that is down."""
    required = "an answer over TLS with a certificate that ca_file vouches for"
    alone = replace(platform.proxmox, endpoints=(url,))
    try:
        Proxmox(alone, platform.name, base, platform.timeouts.api_s).version()
    except ThemsError as error:
        if error.reference == "token-refused":  # it answered; the token is a check of its own
            return Check(f"endpoint {url}", True, "answers", required)
        return _failed(f"endpoint {url}", error, required)
    return Check(f"endpoint {url}", True, "answers, its certificate is valid", required)


def _version(proxmox: Proxmox) -> Check:
    version = proxmox.version()
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    required = f"Proxmox VE {OLDEST[0]}.{OLDEST[1]} or newer"
    return _check("version", numbers >= OLDEST, f"Proxmox VE {version}", required, "Upgrade the cluster.")


def _privileges(platform: Platform, proxmox: Proxmox) -> Iterator[Check]:
    """Exactly the privileges that are used, on each path where they are used."""
    user = platform.proxmox.token_id.partition("!")[0]
    for path, grant in role.granted_paths(platform):
        held = proxmox.permissions(path)
        missing = sorted(set(grant.privileges) - held)
        grants = [f"pveum role modify {grant.role} --append 1 --privs '{' '.join(missing)}'"]
        grants.append(f"pveum acl modify {path} --users {user} --roles {grant.role}")
        yield _check(
            f"privileges {path}", not missing, f"missing: {', '.join(missing)}" if missing else "all held",
            ", ".join(sorted(grant.privileges)), f"{'; '.join(grants)} (docs/proxmox-role.md says why and how)",
        )  # fmt: skip


# The cluster


def _quorum(proxmox: Proxmox) -> Check:
    quorate = proxmox.quorate()
    measured = "quorate" if quorate else "no quorum"
    return _check("quorum", quorate, measured, "a quorate cluster", "Bring nodes back: pvecm status.")


def _nodes(platform: Platform, resources: Resources) -> Iterator[Check]:
    known = ", ".join(sorted(resources.nodes))
    for name in platform.proxmox.nodes:
        node = resources.nodes.get(name)
        measured = f"the cluster has {known}" if node is None else "online" if node.online else "offline"
        remedy = "Correct proxmox.nodes in the platform file." if node is None else "Bring it back, or do without it."
        yield _check(f"node {name}", node is not None and node.online, measured, "online", remedy)


def _storages(platform: Platform, resources: Resources) -> Iterator[Check]:
    """A template's storage must be shared and active on every node that machines are placed on."""
    for name in sorted({tier.template.storage for tier in platform.tiers.values()}):
        seen = {storage.node: storage for storage in resources.storages if storage.name == name}
        lacking = [node for node in platform.proxmox.nodes if node not in seen or not seen[node].active]
        private = [node for node in seen if not seen[node].shared]
        measured = (
            f"not active on {', '.join(lacking)}" if lacking else "not shared" if private else "active everywhere"
        )
        yield _check(
            f"storage {name}", not lacking and not private, measured, f"shared, active on all of {_list(platform)}",
            "Templates are cloned to every node: use a shared storage and mend it where it is not active.",
        )  # fmt: skip


def _list(platform: Platform) -> str:
    return ", ".join(platform.proxmox.nodes)


def _pool(platform: Platform, proxmox: Proxmox) -> Check:
    pool = platform.proxmox.pool
    found = pool in proxmox.pools()
    return _check(f"pool {pool}", found, "there" if found else "not there", "it exists", f"pveum pool add {pool}")


def _record(platform: Platform, proxmox: Proxmox) -> Check:
    vmid, name = platform.proxmox.record_vmid, f"{platform.name}-record"
    required = f"a VM {name} without disk in pool {platform.proxmox.pool}"
    make = role.record_command(platform)
    foreign = "If it is another platform's: mend name, proxmox.record_vmid or proxmox.pool in the platform file."
    try:
        proxmox.read_record()
    except Refused as error:
        return Check(f"record {vmid}", False, error.detail, required, f"{foreign} If it was never made: {make}")
    except ThemsError as error:
        return _failed(f"record {vmid}", error, required)
    return Check(f"record {vmid}", True, "readable", required)


def _template(platform: Platform, name: str, tier: Tier, resources: Resources) -> Check:
    wanted, pool = tier.template.name, platform.proxmox.pool
    there = [str(vm.vmid) for vm in resources.vms if vm.template and vm.name == wanted and vm.pool == pool]
    measured = f"VM {', '.join(there)}" if there else "not there"
    return _check(
        f"template {wanted}", bool(there), measured, f"a template in pool {pool}", f"thems-jobs template build {name}"
    )


def _image(platform: Platform, tier: Tier, proxmox: Proxmox) -> Check:
    """What the tier's template is built from."""
    image, node = tier.template.image, platform.proxmox.nodes[0]
    if image is None:
        return Check(f"image of {tier.template.name}", True, "none declared", "an image, if thems-jobs is to build it")
    found = proxmox.volume_exists(node, image)
    return _check(
        f"image of {tier.template.name}", found, f"{image} is {'there' if found else 'not there'}", f"on node {node}",
        "Download a cloud image to that storage as content type import.",
    )  # fmt: skip


def _strangers(platform: Platform, resources: Resources) -> Check:
    """Nobody else's VM or container may have an id of our ranges or a name like ours, and ours must have a place."""
    foreign = [
        f"{vm.vmid} ({vm.name or 'no name'}, pool {vm.pool or 'none'})"
        for vm in resources.vms
        if resembles(platform, vm.vmid, vm.name, vm.pool, vm.tags) and _foreign(platform, vm)
    ]
    return _check(
        "strangers", not foreign, ", ".join(foreign) or "none", "no foreign VM with an id or name of ours",
        "Move or rename them, or change tiers and ranges in the platform file.",
    )  # fmt: skip


def _foreign(platform: Platform, vm: VmRow) -> bool:
    """True if a VM that looks like one of ours cannot be: in another pool, a container, or without a place."""
    homeless = "thems" in vm.tags and vm.name != "" and not has_place(platform, vm.name)
    return vm.pool != platform.proxmox.pool or vm.kind != "qemu" or homeless


def _addresses(platform: Platform, base: Path, resources: Resources) -> Check:
    """No address of ours may answer unless a machine of ours has it."""
    ours = {
        address_of(platform, vm.name)
        for vm in resources.vms
        if vm.pool == platform.proxmox.pool and has_place(platform, vm.name)
    }
    free = sorted({address for tier in platform.tiers.values() for address in addresses_of(tier.network)} - ours)
    ssh = Ssh(platform.ssh.user, base / platform.ssh.key_file, base)
    with ThreadPoolExecutor(max_workers=64) as pool:
        answers = pool.map(ssh.answers, free)
        taken = [address for address, answer in zip(free, answers, strict=True) if answer]
    ssh.close()
    return _check(
        "addresses", not taken, f"SSH answers at {', '.join(taken)}" if taken else f"{len(free)} free",
        "no address of our ranges answers that is not a machine of ours",
        "Find out whose it is, or change the ranges in the platform file.",
    )  # fmt: skip
