"""Every mistake that a platform file of the right types can hold."""

import ipaddress
import math
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass

from thems_jobs.core.platform import DatabaseCluster, Mistake, Platform, Tier, addresses_of, vmids_of

# A DNS label that leaves room for "-<tier>-<number>" in 63 characters (RFC 1035).
NAME = re.compile(r"^[a-z]([a-z0-9-]{0,28}[a-z0-9])?$")
ACCOUNT = re.compile(r"^[A-Za-z_][A-Za-z0-9_]{0,31}$")  # MySQL's limit is 32, the signs are ours
SCHEMA = re.compile(r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")
# What Proxmox takes for a node, a host, a pool, a storage, a volume and a bridge; Linux cuts a bridge at 15 signs.
LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
HOST = re.compile(rf"{LABEL.pattern}(\.{LABEL.pattern})*")
ENDPOINT = re.compile(rf"https://({HOST.pattern}|\[(?P<v6>[0-9A-Fa-f:.]+)\])(:(?P<port>[0-9]{{1,5}}))?/?")
POOL = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+){0,2}")
STORAGE = re.compile(r"[A-Za-z][A-Za-z0-9._-]*[A-Za-z0-9]")
VOLUME = re.compile(rf"{STORAGE.pattern}:\S+")
BRIDGE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}")
TOKEN = re.compile(r"[^@!\s]+@[^@!\s]+![^@!\s]+")
LOGIN = re.compile(r"[a-z_][a-z0-9_-]{0,31}")  # as useradd takes it
PAGE = re.compile(r"/[A-Za-z0-9._~%&=+,:;@/?-]*")  # stands in haproxy's configuration, where # begins a comment
TIMEOUT_LIMIT_S = 604800.0  # a week; whoever waits for longer waits for nothing


def _is_address(text: str, version: int = 4) -> bool:
    try:
        return ipaddress.ip_address(text).version == version
    except ValueError:
        return False


def _is_endpoint(url: str) -> bool:
    """True if a URL is https://HOST or https://HOST:PORT; the host is a name or an address."""
    match = ENDPOINT.fullmatch(url)
    if match is None or not 1 <= int(match["port"] or 1) <= 65535:
        return False
    return match["v6"] is None or _is_address(match["v6"], 6)


def _texts(value: object, path: str = "") -> Iterator[tuple[str, str]]:
    """Given a platform or a part of it, return every text in it with its path."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, tuple):
        for index, item in enumerate(value):
            yield from _texts(item, f"{path}[{index}]")
    else:
        names = [f.name for f in fields(value)] if is_dataclass(value) else value if isinstance(value, dict) else []
        for name in names:
            item = value[name] if isinstance(value, dict) else getattr(value, name)
            yield from _texts(item, f"{path}.{name}".removeprefix("."))


def _spelling_mistakes(platform: Platform) -> list[Mistake]:
    """What Proxmox, a machine or a program would not take as a name, a path or a page."""
    proxmox, shaped = platform.proxmox, [("ssh.user", platform.ssh.user, LOGIN, "the name of a Linux account")]
    shaped.append(("proxmox.pool", proxmox.pool, POOL, "the name of a pool"))
    shaped += [(f"proxmox.nodes[{n}]", node, LABEL, "the name of a node") for n, node in enumerate(proxmox.nodes)]
    for name, tier in platform.tiers.items():
        path, template = f"tiers.{name}", tier.template
        shaped.append((f"{path}.template.name", template.name, HOST, "letters, digits and dashes"))
        shaped.append((f"{path}.template.storage", template.storage, STORAGE, "the name of a storage"))
        if template.image is not None:
            words = "a volume, for example local:import/debian-12-genericcloud-amd64.qcow2"
            shaped.append((f"{path}.template.image", template.image, VOLUME, words))
        shaped.append((f"{path}.network.bridge", tier.network.bridge, BRIDGE, "the name of a bridge"))
        shaped.append((f"{path}.health.path", tier.health.path, PAGE, "a path that starts with /, as in a URL"))
    found = [Mistake(path, repr(text), words) for path, text, shape, words in shaped if not shape.fullmatch(text)]
    return found + [
        Mistake(path, repr(text), "text without control characters")
        for path, text in _texts(platform)
        if any(ord(sign) < 32 or ord(sign) == 127 for sign in text) and path not in {wrong.path for wrong in found}
    ]


def mistakes(platform: Platform) -> list[Mistake]:
    """Given a platform of the right types, return every rule it breaks; [] means it can be used."""
    found = _spelling_mistakes(platform)

    def expect(ok: bool, path: str, value: object, expected: str) -> None:
        if not ok:
            found.append(Mistake(path, repr(value), expected))

    expect(
        bool(NAME.fullmatch(platform.name)),
        "name",
        platform.name,
        "lower-case letters, digits and dashes, at most 30",
    )
    proxmox = platform.proxmox
    expect(bool(proxmox.endpoints), "proxmox.endpoints", proxmox.endpoints, "at least one https:// address")
    for index, endpoint in enumerate(proxmox.endpoints):
        words = "an https:// address, for example https://pve1.example.com:8006"
        expect(_is_endpoint(endpoint), f"proxmox.endpoints[{index}]", endpoint, words)
    token_id = proxmox.token_id  # goes into a header, which is ASCII
    expect(token_id.isascii() and bool(TOKEN.fullmatch(token_id)), "proxmox.token_id", token_id, "user@realm!token")
    expect(bool(proxmox.nodes), "proxmox.nodes", proxmox.nodes, "at least one node name")
    expect(
        100 <= proxmox.record_vmid <= 999_999_999,
        "proxmox.record_vmid",
        proxmox.record_vmid,
        "a VMID from 100 to 999999999",
    )
    expect(
        proxmox.clones_per_storage >= 1,
        "proxmox.clones_per_storage",
        proxmox.clones_per_storage,
        "at least 1",
    )
    expect(proxmox.memory_reserve_mib >= 0, "proxmox.memory_reserve_mib", proxmox.memory_reserve_mib, "0 or more")
    expect(
        0 < proxmox.cpu_overcommit_ratio < math.inf,
        "proxmox.cpu_overcommit_ratio",
        proxmox.cpu_overcommit_ratio,
        "a number above 0",
    )
    for name, tier in platform.tiers.items():
        found += _tier_mistakes(f"tiers.{name}", name, tier)
    found += _balancing_mistakes(platform) + _database_mistakes(platform)
    found += _overlaps(platform)
    for name, value in vars(platform.timeouts).items():
        words = f"a number of seconds above 0, at most {TIMEOUT_LIMIT_S:g} (a week)"
        expect(0 < value <= TIMEOUT_LIMIT_S, f"timeouts.{name}", value, words)
    expect(platform.timeouts.lease_s >= 30, "timeouts.lease_s", platform.timeouts.lease_s, "at least 30 seconds")
    return found


def _tier_mistakes(path: str, name: str, tier: Tier) -> list[Mistake]:
    found: list[Mistake] = []

    def expect(ok: bool, key: str, value: object, expected: str) -> None:
        if not ok:
            found.append(Mistake(f"{path}{key}", repr(value), expected))

    expect(bool(NAME.fullmatch(name)), "", name, "a tier name of lower-case letters, digits and dashes")
    expect(tier.minimum >= 1, ".minimum", tier.minimum, "at least 1")
    expect(tier.baseline >= tier.minimum, ".baseline", tier.baseline, f"at least the minimum, {tier.minimum}")
    expect(tier.maximum >= tier.baseline, ".maximum", tier.maximum, f"at least the baseline, {tier.baseline}")
    for key, least in (("cores", 1), ("memory_mib", 64), ("disk_gib", 1)):
        expect(getattr(tier, key) >= least, f".{key}", getattr(tier, key), f"at least {least}")
    expect(tier.php_workers >= 0, ".php_workers", tier.php_workers, "0 or more")
    expect(1 <= tier.health.port <= 65535, ".health.port", tier.health.port, "a port from 1 to 65535")
    status = tier.health.status
    expect(100 <= status <= 599, ".health.status", status, "a status of HTTP, from 100 to 599")
    vmid = tier.template.vmid
    expect(100 <= vmid <= 999_999_999, ".template.vmid", vmid, "a VMID from 100 to 999999999")
    expect(
        tier.template.max_age_days >= 1,
        ".template.max_age_days",
        tier.template.max_age_days,
        "at least 1 day",
    )
    kept = tier.template.keep_templates
    expect(kept >= 1, ".template.keep_templates", kept, "at least 1")
    spare = tier.maximum + 1  # a replacement exists beside the machine it replaces
    try:
        count = len(vmids_of(tier))
        expect(
            count >= spare and vmids_of(tier).start >= 100,
            ".vmids",
            tier.vmids,
            f"FIRST-LAST from 100 up with room for {spare} machines",
        )
    except ValueError:
        expect(False, ".vmids", tier.vmids, "FIRST-LAST, for example 1100-1199")
    try:
        count = len(addresses_of(tier.network))
        expect(
            count >= spare,
            ".network.addresses",
            tier.network.addresses,
            f"room for {spare} machines (one above the maximum, for replacements)",
        )
    except ValueError:
        expect(False, ".network.addresses", tier.network.addresses, "FIRST-LAST, for example 10.0.1.11-10.0.1.60")
    expect(8 <= tier.network.prefix <= 30, ".network.prefix", tier.network.prefix, "a prefix length from 8 to 30")
    gateway = tier.network.gateway
    expect(gateway is None or _is_address(gateway), ".network.gateway", gateway, "an IPv4 address")
    return found


def _balancing_mistakes(platform: Platform) -> list[Mistake]:
    balancing, found = platform.balancing, []
    for key, role in (("balancer_tier", "balancer"), ("web_tier", "web")):
        name = getattr(balancing, key)
        if name not in platform.tiers:
            found.append(Mistake(f"balancing.{key}", repr(name), f"one of the tiers {', '.join(platform.tiers)}"))
        elif platform.tiers[name].role != role:
            found.append(Mistake(f"balancing.{key}", repr(name), f"a tier with role {role}"))
    if not _is_address(balancing.address):
        found.append(Mistake("balancing.address", repr(balancing.address), "an IPv4 address"))
    if not 1 <= balancing.port <= 65535:
        found.append(Mistake("balancing.port", repr(balancing.port), "a port from 1 to 65535"))
    if not 1 <= balancing.router_id <= 255:
        found.append(Mistake("balancing.router_id", repr(balancing.router_id), "a VRRP router id from 1 to 255"))
    if not 1 <= balancing.admit_weight <= 100:
        found.append(Mistake("balancing.admit_weight", repr(balancing.admit_weight), "a weight from 1 to 100"))
    return found


def _database_mistakes(platform: Platform) -> list[Mistake]:
    database, found = platform.database, list[Mistake]()
    cluster = database.cluster if database else None
    named = {cluster.tier: "database", cluster.proxy_tier: "proxy"} if cluster else {}
    for name, tier in platform.tiers.items():
        if tier.role in ("database", "proxy") and named.get(name) != tier.role:
            key = {"database": "tier", "proxy": "proxy_tier"}[tier.role]
            found.append(Mistake(f"tiers.{name}.role", repr(tier.role), f"database.cluster.{key} to name this tier"))
    if database:
        most, kept = database.max_connections, database.reserved_connections
        if most < 1:
            found.append(Mistake("database.max_connections", repr(most), "at least 1"))
        if not 0 <= kept < max(1, most):
            path = "database.reserved_connections"
            found.append(Mistake(path, repr(kept), "0 or more, and less than max_connections"))
    return found + (_cluster_mistakes(platform, cluster) if cluster else [])


def _cluster_mistakes(platform: Platform, cluster: DatabaseCluster) -> list[Mistake]:
    found: list[Mistake] = []

    def expect(ok: bool, key: str, value: object, expected: str) -> None:
        if not ok:
            found.append(Mistake(f"database.cluster.{key}", repr(value), expected))

    for key, role in (("tier", "database"), ("proxy_tier", "proxy")):
        name = getattr(cluster, key)
        tier = platform.tiers.get(name)
        expect(tier is not None, key, name, f"one of the tiers {', '.join(platform.tiers)}")
        expect(tier is None or tier.role == role, key, name, f"a tier with role {role}")
    if (tier := platform.tiers.get(cluster.tier)) is not None:
        path = f"tiers.{cluster.tier}"
        if tier.minimum < 3:  # of two members, neither is a majority without the other
            found.append(Mistake(f"{path}.minimum", repr(tier.minimum), "at least 3 machines in a database tier"))
        if tier.baseline % 2 == 0:
            found.append(Mistake(f"{path}.baseline", repr(tier.baseline), "an odd number: halves of a cluster stop"))
    expect(_is_address(cluster.address), "address", cluster.address, "an IPv4 address")
    expect(1 <= cluster.router_id <= 255, "router_id", cluster.router_id, "a VRRP router id from 1 to 255")
    same = cluster.router_id == platform.balancing.router_id
    expect(not same, "router_id", cluster.router_id, "another VRRP router id than balancing.router_id")
    expect(1 <= cluster.port <= 65535, "port", cluster.port, "a port from 1 to 65535")
    for key, account in (("user", cluster.user), ("application.user", cluster.application.user)):
        expect(bool(ACCOUNT.match(account)), key, account, "letters, digits and _, at most 32, not a digit first")
    expect(cluster.application.user != cluster.user, "application.user", cluster.user, "another account than the jobs'")
    schema = cluster.application.database
    expect(bool(SCHEMA.match(schema)), "application.database", schema, "letters, digits and _, at most 64")
    expect(
        cluster.proxy != "proxysql" or bool(cluster.proxysql_password_file),
        "proxysql_password_file", cluster.proxysql_password_file, "a file: ProxySQL's admin interface asks for it",
    )  # fmt: skip
    expect(cluster.gcache_mib >= 1, "gcache_mib", cluster.gcache_mib, "at least 1")
    expect(0.1 <= cluster.sample_s <= 60, "sample_s", cluster.sample_s, "0.1 to 60 seconds")
    limit, ratio = cluster.receive_queue_limit, cluster.flow_control_limit_ratio
    expect(0 < limit < math.inf, "receive_queue_limit", limit, "a number above 0")
    expect(0 < ratio <= 1, "flow_control_limit_ratio", ratio, "a share of the time, above 0 and at most 1")
    if (backup := cluster.backup) is not None:
        expect(bool(backup.folder.strip()), "backup.folder", backup.folder, "a folder, for example /srv/backups/shop")
        expect(60 <= backup.fresh_s < math.inf, "backup.fresh_s", backup.fresh_s, "at least 60 seconds")
        expect(backup.keep >= 1, "backup.keep", backup.keep, "at least 1")
    return found


def _overlaps(platform: Platform) -> list[Mistake]:
    """Two tiers that share a VMID or an address would take each other's machines for strangers."""
    found: list[Mistake] = []
    vmids: dict[int, str] = {platform.proxmox.record_vmid: "proxmox.record_vmid"}
    addresses: dict[str, str] = {platform.balancing.address: "balancing.address"}
    if platform.database and (cluster := platform.database.cluster):
        if cluster.address in addresses:
            path = "database.cluster.address"
            found.append(Mistake(path, repr(cluster.address), "another address than balancing.address"))
        addresses[cluster.address] = "database.cluster.address"
    for name, tier in platform.tiers.items():
        path, vmid = f"tiers.{name}.template.vmid", tier.template.vmid
        if vmid == platform.proxmox.record_vmid:
            found.append(Mistake(path, repr(vmid), "another id than proxmox.record_vmid"))
        vmids.setdefault(vmid, path)  # two tiers may share a template
    for name, tier in platform.tiers.items():
        try:
            mine = (
                (f"tiers.{name}.vmids", tier.vmids, vmids, tuple(vmids_of(tier))),
                (
                    f"tiers.{name}.network.addresses",
                    tier.network.addresses,
                    addresses,
                    addresses_of(tier.network),
                ),
            )
        except ValueError:
            continue  # already reported as malformed
        for path, text, taken, values in mine:
            shared = next((taken[value] for value in values if value in taken), None)  # type: ignore[index]
            if shared:
                found.append(Mistake(path, repr(text), f"nothing in common with {shared}"))
            taken.update(dict.fromkeys(values, path))  # type: ignore[arg-type]
    return found
