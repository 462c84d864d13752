"""template build: make what a tier's machines are cloned from, out of its image and its Ansible role."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from thems_jobs.clients.proxmox import VmConfig
from thems_jobs.core.facts import Facts, ImageStamp, Machine, Making, Unknown
from thems_jobs.core.image import (
    build_address,
    choose_image_vmid,
    fresh_since,
    image_vmids,
    is_current,
    is_image,
    of_no_use,
    plan_build,
    read_image_stamp,
    write_image_stamp,
)
from thems_jobs.core.job import Done, Job, Look
from thems_jobs.core.plan import Action, Plan, Step
from thems_jobs.core.platform import Platform
from thems_jobs.core.record import Record
from thems_jobs.errors import EffectFailed, IdentityMismatch, Refused, ThemsError, Transient
from thems_jobs.jobs.belonging import nodes_besides
from thems_jobs.jobs.clients import Clients
from thems_jobs.jobs.images import TAG, find_images, newest_template, old_templates
from thems_jobs.jobs.perform import converge_variables

HOST_KEY = "/etc/ssh/ssh_host_ed25519_key.pub"
IN_USE = re.compile(r"base volume '.*' is still in use")  # from Proxmox, before it removed anything
GIB_IN = {"K": 1024**-2, "M": 1024**-1, "G": 1.0, "T": 1024.0}


@dataclass(frozen=True)
class Parameters:
    """`asked_at`: a template built before then will not do; None takes one that is fresh and of today's roles."""

    tier: str
    asked_at: float | None = None


def mistakes(platform: Platform, parameters: Parameters) -> list[str]:
    """Given parameters, return one sentence for each that cannot be meant."""
    if parameters.tier in platform.tiers:
        return []
    return [f"Unknown tier {parameters.tier!r}: the platform has {', '.join(platform.tiers)}."]


def job(platform: Platform, parameters: Parameters, clients: Clients) -> Job:
    """Given a platform and its clients, return the job for the runner."""
    return Job(
        name="template-build",
        platform=platform,
        observe=partial(observe, platform, parameters, clients),
        plan=partial(plan, platform, parameters),
        perform=partial(perform, platform, clients),
        change_record=clients.proxmox.change_record,
        cancel=clients.ansible.cancel,
    )


def plan(platform: Platform, parameters: Parameters, facts: Facts) -> Plan:
    """Given the facts, return what remains until there is a template as asked for."""
    return plan_build(platform, parameters.tier, _since(platform, parameters, facts.at), facts)


def _since(platform: Platform, parameters: Parameters, now: float) -> float:
    asked_at = parameters.asked_at
    return fresh_since(platform.tiers[parameters.tier], now) if asked_at is None else asked_at


# Looking


def observe(platform: Platform, parameters: Parameters, clients: Clients, previous: Facts | None, look: Look) -> Facts:
    """Given the facts before and what to look at again, return the facts now.

    While a step is under way and nothing is waited for, nothing is asked: its own changes are not read half-made.
    Raise EffectFailed if a task that this run began has failed.
    """
    if previous is None or look.anew:
        return _everything(platform, parameters, clients, previous)
    facts = replace(previous, at=clients.clock.now())
    names = {*look.touched, *(step.target for step in look.waits)} & set(facts.machines)
    machines = {name: _again(platform, clients, facts.machines[name]) for name in names}
    facts = replace(facts, machines={**facts.machines, **machines})
    if any(machine.image and not machine.exists for machine in machines.values()):  # gone, or a template now
        return _everything(platform, parameters, clients, facts)
    return facts


def _everything(platform: Platform, parameters: Parameters, clients: Clients, before: Facts | None) -> Facts:
    """Look at all there is. What cannot be finished is known by its id, what can be by the template's name."""
    tier, now, resources = parameters.tier, clients.clock.now(), clients.proxmox.resources()
    name, address = platform.tiers[tier].template.name, build_address(platform.tiers[tier])
    images = list(find_images(platform, tier, resources, clients.proxmox))
    building = [f for f in images if f.stamp and f.stamp.tier == tier and not f.is_template]
    machines, since = {name: Machine(name, tier, 0, address)}, _since(platform, parameters, now)
    for found in sorted(building, key=lambda found: found.row.vmid):
        useless = machines[name].exists or of_no_use(found.stamp, clients.roles[tier], since)  # type: ignore[arg-type]
        key = f"{name}-{found.row.vmid}" if useless else name
        blank = Machine(key, tier, found.row.vmid, address, node=found.row.node)
        machines[key] = _seen(clients, blank, found.config, found.stamp)
    if not building:
        machines[name] = _being_created(platform, tier, clients, machines[name])
    for key, old in old_templates(platform, tier, images, resources, clients.proxmox).items():
        known = before.machines.get(key) if before else None
        if known and known.task:
            machines[key] = known  # it is being removed: `_again` follows that
        elif not old.locked:
            machines[key] = replace(old, in_use=known.in_use) if known else old
    newest = newest_template(platform, tier, resources, clients.proxmox)
    knock = clients.ssh.answers if before else clients.ssh.finds  # looked at again, it is our own that has just gone
    needed = not building and not is_current(newest, clients.roles[tier], since)
    taken = needed and knock(address)
    return Facts(
        at=now,
        record=_record(clients),
        machines=machines,
        nodes=nodes_besides(resources, machines.values()),
        storages=resources.storages,
        templates={tier: newest} if newest else {},
        taken_vmids=frozenset(row.vmid for row in resources.vms),
        taken_addresses={address: "a machine answers there"} if taken else {},
        quorate=clients.proxmox.quorate(),
        roles=clients.roles,
    )


def _record(clients: Clients) -> Record | Unknown:
    try:
        return clients.proxmox.read_record()[0]
    except Refused as error:
        return Unknown(error.detail)


def _being_created(platform: Platform, tier: str, clients: Clients, machine: Machine) -> Machine:
    """Given that no VM is there, return the machine with the creation that a run before this one may have begun.

    While Proxmox creates a VM it is in no pool and may have no name: only the task tells that it is ours.
    """
    ids, owner = set(image_vmids(platform.tiers[tier])), platform.proxmox.token_id
    for task in clients.proxmox.tasks():
        if task.kind == "qmcreate" and task.ended_at is None and task.user == owner and task.vmid in ids:
            begun = {"power": "creating", "task": task.upid, "task_at": task.started_at}
            return replace(machine, vmid=task.vmid or 0, node=task.node, **begun)  # type: ignore[arg-type]
    return machine


def _seen(clients: Clients, machine: Machine, config: VmConfig, stamp: ImageStamp | None) -> Machine:
    """Given a VM that becomes a template, return it as a machine, with its host key if it lets us in."""
    ssh_open = clients.ssh.answers(machine.address)
    running = clients.proxmox.running(machine.node, machine.vmid)
    key = clients.proxmox.agent_read(machine.node, machine.vmid, HOST_KEY) if running and ssh_open else None
    host_key = " ".join(key.split()[:2]) if key else ""
    if host_key:
        clients.ssh.know({machine.address: host_key})
    return replace(
        machine, exists=True, image=stamp, digest=config.digest, locked=config.lock, running=running,
        ssh_open=ssh_open, host_key=host_key, disk_gib=_disk_gib(config),
    )  # fmt: skip


def _is_template(config: VmConfig) -> bool:
    return config.options.get("template", "0") == "1"


def _disk_gib(config: VmConfig) -> int:
    """Given a configuration, return the size of its disk, or 0 where it does not say."""
    size = config.options.get("scsi0", "").rpartition("size=")[2].partition(",")[0]
    return int(float(size[:-1]) * GIB_IN[size[-1]]) if size[-1:] in GIB_IN else 0


def _again(platform: Platform, clients: Clients, machine: Machine) -> Machine:
    """Given a machine, return it as it is now. Raise EffectFailed if the task it waited for has failed."""
    if machine.task:
        task = clients.proxmox.task(machine.task)
        if task.ended_at is None:
            return machine
        if machine.template and IN_USE.search(task.error):
            return replace(machine, task="", power="", in_use="a VM that is not ours still rests on it")
        if task.error:
            raise EffectFailed(
                machine.name, f"{task.kind} of VM {machine.vmid} on {task.node} failed: {task.error}.",
                "Read the task's log in Proxmox, mend the cause and run the same command again.", "task-failed",
            )  # fmt: skip
        machine = replace(machine, task="", power="")
    config = clients.proxmox.config(machine.node, machine.vmid) if machine.vmid else None
    pool = platform.proxmox.pool  # where it was made; only an administrator's hand takes it elsewhere
    if machine.template and config and _is_template(config):
        return replace(machine, locked=config.lock)
    if config is None or _is_template(config) or not is_image(platform, machine.vmid, pool, config.description):
        return replace(machine, exists=False, running=False, locked="", power="")
    return _seen(clients, machine, config, read_image_stamp(config.description))


# Doing


def perform(platform: Platform, clients: Clients, steps: Sequence[Step], facts: Facts) -> Mapping[str, Done]:
    """Given a step, do it and return what became of it."""
    step = steps[0]
    try:
        learned = _EFFECTS[step.action](platform, clients, facts, step)
    except ThemsError as error:
        return {step.key: Done(error)}
    return {step.key: Done(learned=learned)}


def _identified(clients: Clients, machine: Machine) -> tuple[VmConfig, ImageStamp]:
    """Given a machine, return its configuration as it is now. Raise IdentityMismatch if it is not what we made."""
    config = clients.proxmox.config(machine.node, machine.vmid)
    if config is None:
        raise Transient(machine.name, f"VM {machine.vmid} is not there.")
    stamp = read_image_stamp(config.description)
    if stamp is None or stamp != machine.image or _is_template(config) != machine.template:
        raise IdentityMismatch(machine.name, f"VM {machine.vmid} is not the one that was seen.", "It was left alone.")
    return config, stamp


def _create(platform: Platform, clients: Clients, facts: Facts, step: Step) -> Mapping[str, Any]:
    machine = facts.machines[step.target]
    tier, storage = platform.tiers[machine.tier], platform.tiers[machine.tier].template.storage
    taken = {row.vmid for row in clients.proxmox.resources().vms}
    vmid = choose_image_vmid(tier, taken)
    if vmid is None:
        raise EffectFailed(step.target, f"no id is free in {tier.vmids}.", "Widen the tier's vmids.", "vmids-used-up")
    stamp = ImageStamp(platform.name, tier.template.name, vmid, machine.tier, Making.MADE)
    gateway = f",gw={tier.network.gateway}" if tier.network.gateway else ""
    options: dict[str, str | int] = {
        "ostype": "l26",
        "cores": tier.cores,
        "memory": tier.memory_mib,
        "agent": "enabled=1",
        "scsihw": "virtio-scsi-single",
        "scsi0": f"{storage}:0,import-from={tier.template.image}",
        "ide2": f"{storage}:cloudinit",
        "boot": "order=scsi0",
        "serial0": "socket",  # cloud images write their console there and some do not boot without it
        "net0": f"virtio,bridge={tier.network.bridge}",
        "ipconfig0": f"ip={machine.address}/{tier.network.prefix}{gateway}",
        "ciuser": platform.ssh.user,
        "sshkeys": clients.ssh.public_key,
        "ciupgrade": 1,
        "tags": TAG,
    }
    try:
        task = clients.proxmox.create(
            step.node, vmid, name=tier.template.name, pool=platform.proxmox.pool,
            description=write_image_stamp(stamp), options=options,
        )  # fmt: skip
    except EffectFailed as error:
        if error.reference == "vmid-taken":
            raise Transient(step.target, error.detail) from error
        raise
    return {"vmid": vmid, "node": step.node, **_begun(clients, "creating", task)}


def _begun(clients: Clients, power: str, task: str) -> dict[str, Any]:
    return {"power": power, "task": task, "task_at": clients.clock.now()}


def _grow(platform: Platform, clients: Clients, facts: Facts, step: Step) -> Mapping[str, Any]:
    """Give the disk the size that machines shall have: linked clones inherit it."""
    machine = facts.machines[step.target]
    _identified(clients, machine)
    size_gib = platform.tiers[machine.tier].disk_gib
    return _begun(clients, "growing", clients.proxmox.resize(machine.node, machine.vmid, "scsi0", size_gib))


def _start(platform: Platform, clients: Clients, facts: Facts, step: Step) -> Mapping[str, Any]:
    del platform
    machine = facts.machines[step.target]
    _identified(clients, machine)
    return _begun(clients, "starting", clients.proxmox.start(machine.node, machine.vmid))


def _bake(platform: Platform, clients: Clients, facts: Facts, step: Step) -> Mapping[str, Any]:
    """Put everything into it that machines of the tier share."""
    machine, roles = facts.machines[step.target], facts.roles[facts.machines[step.target].tier]
    variables = {**converge_variables(platform, machine.tier), "thems_roles_digest": roles}
    _expect_done(step, clients.ansible.bake({machine.name: (machine.address, machine.host_key)}, variables))
    _stamp(clients, machine, Making.BAKED, roles=roles)
    return {}


def _seal(platform: Platform, clients: Clients, facts: Facts, step: Step) -> Mapping[str, Any]:
    """Make it forget who it is. That is written down first: nobody can log in afterwards to see how far it came."""
    del platform
    machine = facts.machines[step.target]
    machine = replace(machine, image=_stamp(clients, machine, Making.SEALING))
    _expect_done(step, clients.ansible.seal({machine.name: (machine.address, machine.host_key)}))
    _stamp(clients, machine, Making.SEALED, built_at=clients.clock.now())
    return {}


def _expect_done(step: Step, errors: Mapping[str, str]) -> None:
    for error in errors.values():
        raise EffectFailed(step.target, f"{error}.", "Its log is beside the report.", f"{step.action}-failed")


def _stamp(clients: Clients, machine: Machine, making: Making, **changes: Any) -> ImageStamp:
    """Write into the VM how far its making has come, and return its stamp."""
    config, stamp = _identified(clients, machine)
    stamp = replace(stamp, making=making, **changes)
    clients.proxmox.configure(
        machine.node, machine.vmid, config.digest, {"description": write_image_stamp(stamp)},
        delete=["ipconfig0"] if making is Making.SEALED else (),  # a clone must not come up with its address
    )  # fmt: skip
    return stamp


def _stop(platform: Platform, clients: Clients, facts: Facts, step: Step) -> Mapping[str, Any]:
    machine = facts.machines[step.target]
    _identified(clients, machine)
    task = clients.proxmox.shutdown(machine.node, machine.vmid, platform.timeouts.stop_s / 2)
    return _begun(clients, "stopping", task)


def _convert(platform: Platform, clients: Clients, facts: Facts, step: Step) -> Mapping[str, Any]:
    del platform
    machine = facts.machines[step.target]
    _identified(clients, machine)
    return _begun(clients, "converting", clients.proxmox.convert_to_template(machine.node, machine.vmid))


def _destroy(platform: Platform, clients: Clients, facts: Facts, step: Step) -> Mapping[str, Any]:
    """Remove what an earlier build left over, or a template that is old; never the one that is cloned now."""
    machine = facts.machines[step.target]
    config, _ = _identified(clients, machine)
    if machine.template:
        _expect_old(platform, clients, machine, config)
    return _begun(clients, "destroying", clients.proxmox.destroy(machine.node, machine.vmid))


def _expect_old(platform: Platform, clients: Clients, machine: Machine, config: VmConfig) -> None:
    """Raise IdentityMismatch if a template is not, as of now, an old one of ours by pool, name, tag and age."""
    resources, name = clients.proxmox.resources(), platform.tiers[machine.tier].template.name
    row = next((row for row in resources.vms if row.vmid == machine.vmid), None)
    newest = newest_template(platform, machine.tier, resources, clients.proxmox)
    ours = row is not None and is_image(platform, machine.vmid, row.pool, config.description)
    tagged = config.name == name and TAG in config.tags and not config.protection
    if not ours or not tagged or newest is None or newest.vmid == machine.vmid:
        raise IdentityMismatch(
            machine.name, f"VM {machine.vmid} is not an old template of ours any more.", "It was left alone."
        )


_EFFECTS: Mapping[Action, Callable[[Platform, Clients, Facts, Step], Mapping[str, Any]]] = {
    Action.CREATE: _create,
    Action.GROW: _grow,
    Action.START: _start,
    Action.BAKE: _bake,
    Action.SEAL: _seal,
    Action.STOP: _stop,
    Action.CONVERT: _convert,
    Action.DESTROY: _destroy,
}
