"""Whose is which: the VMs of a cluster that are ours, those that stand in our way, and what lost clones left."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from thems_jobs.clients.proxmox import Resources, VmConfig, VmRow
from thems_jobs.core.facts import Machine, Node, Phase, Stranger, Unknown
from thems_jobs.core.identity import address_of, doubts, has_place, read_stamp, resembles, tags_of, tier_of
from thems_jobs.core.image import is_image
from thems_jobs.core.platform import Platform
from thems_jobs.core.record import Record

CLONE_LOST = "its task is gone, its lock stays"
CONTAINER = "it is a container"  # ours are all VMs, so it is not asked who made it


def rows_of_interest(
    platform: Platform, resources: Resources, record: Record | Unknown
) -> tuple[list[VmRow], list[Stranger]]:
    """Return the VMs that are ours or stand where ours would, and those of them that are on nodes which are offline.

    Templates and the record VM are neither.
    """
    intents = {} if isinstance(record, Unknown) else record.intents
    promised = {intent.vmid for intent in intents.values()}
    offline = {node.name for node in resources.nodes.values() if not node.online}
    rows = [
        row
        for row in resources.vms
        if not row.template
        and row.vmid != platform.proxmox.record_vmid
        and (row.vmid in promised or resembles(platform, row.vmid, row.name, row.pool, row.tags))
    ]
    cut_off = [Stranger(r.vmid, r.name, r.pool, f"node {r.node} is offline") for r in rows if r.node in offline]
    return [row for row in rows if row.node not in offline], cut_off


def sort_out(
    platform: Platform, record: Record | Unknown, configs: Mapping[VmRow, VmConfig | None]
) -> tuple[dict[str, Machine], list[Stranger], list[Stranger]]:
    """Given the VMs of interest, return our machines, and the strangers and remains of lost clones among them.

    An intent for a name that the platform file has no place for any more says nothing.
    """
    intents = {} if isinstance(record, Unknown) else record.intents
    intents = {name: intent for name, intent in intents.items() if has_place(platform, name)}
    names = {intent.vmid: name for name, intent in intents.items()}
    found, strangers, remains = list[Machine](), list[Stranger](), list[Stranger]()

    def turn_away(row: VmRow, name: str, why: str) -> None:
        if row.vmid in names:
            taken = f"VM {row.vmid} was taken: {why}"
            found.append(replace(reserved(platform, names[row.vmid], row.vmid), clone=taken))
        else:
            strangers.append(Stranger(row.vmid, name, row.pool, why))

    for row, config in configs.items():
        if row.kind != "qemu":
            turn_away(row, row.name, CONTAINER)
            continue
        if config is None:
            continue  # it went away between two questions
        if is_image(platform, row.vmid, row.pool, config.description):
            continue  # a template that is being built, or was until a moment ago
        ours_but_for_pool = _joins_pool_next(platform, row, config)
        if row.vmid in names and (config.lock == "clone" or ours_but_for_pool):
            name = names[row.vmid]
            found.append(replace(reserved(platform, name, row.vmid), exists=True, locked="clone", node=row.node))
            continue
        why = doubts(platform, row.vmid, config.name, row.pool, read_stamp(config.description))
        if not why:
            found.append(_ours(platform, row, config))
        elif config.lock == "clone" and ours_but_for_pool and row.vmid not in names:
            remains.append(Stranger(row.vmid, config.name, row.pool, CLONE_LOST))
        else:
            turn_away(row, config.name, why)
    machines, seconds = one_of_each(platform, found)
    for name, intent in intents.items():
        if name not in machines:
            machines[name] = reserved(platform, name, intent.vmid)
    return machines, [*strangers, *seconds], remains


def one_of_each(platform: Platform, found: Iterable[Machine]) -> tuple[dict[str, Machine], list[Stranger]]:
    """Given machines, return one of each name, and any second one as a stranger.

    A run that was held up for longer than its lease may have made one that another run had made, too: it is for a
    person to look at. What serves counts, then what has come further, then what was made first.
    """
    machines: dict[str, Machine] = {}
    seconds = []

    def order(machine: Machine) -> tuple[bool, bool, bool, int]:
        phase = machine.phase
        return phase is not Phase.SERVING, phase is not Phase.DRAINING, not machine.configured, machine.vmid

    for machine in sorted(found, key=order):
        first = machines.setdefault(machine.name, machine)
        if first is not machine and machine.exists:
            why = f"it is a second {machine.name}, beside VM {first.vmid}"
            seconds.append(Stranger(machine.vmid, machine.name, platform.proxmox.pool, why))
    return machines, seconds


def nodes_besides(resources: Resources, machines: Iterable[Machine]) -> dict[str, Node]:
    """Given our machines, return the nodes with what all others are promised there."""
    ours = {m.vmid for m in machines if (m.exists and not m.template) or m.clone == "cloning"}
    nodes = dict(resources.nodes)
    for row in resources.vms:
        if row.vmid in ours and not row.template and (node := nodes.get(row.node)):
            memory_mib, cores = node.memory_used_mib - row.memory_mib, node.cores_used - row.cores
            nodes[row.node] = replace(node, memory_used_mib=memory_mib, cores_used=cores)
    return nodes


def _joins_pool_next(platform: Platform, row: VmRow, config: VmConfig) -> bool:
    """True if a VM is ours but for its pool: Proxmox puts a clone there last, when it is unlocked already."""
    return not row.pool and not doubts(
        platform, row.vmid, config.name, platform.proxmox.pool, read_stamp(config.description)
    )


def reserved(platform: Platform, name: str, vmid: int) -> Machine:
    """Given a name of ours and the id reserved for it, return the machine that is to be."""
    return Machine(name, tier_of(platform, name) or "", vmid, address_of(platform, name))


def _ours(platform: Platform, row: VmRow, config: VmConfig) -> Machine:
    """Given a VM that proved to be ours, return it as a machine."""
    stamp = read_stamp(config.description)
    assert stamp is not None  # noqa: S101 - `doubts` found none, so there is a stamp
    configured = set(tags_of(stamp)) <= set(config.tags)
    return Machine(
        name=config.name,
        tier=stamp.tier,
        vmid=row.vmid,
        address=address_of(platform, config.name),
        exists=True,
        node=row.node,
        stamp=stamp,
        digest=config.digest,
        configured=configured,
        memory_mib=config.memory_mib if configured else 0,
        cores=config.cores if configured else 0,
        locked=config.lock,
        running=row.status == "running",
        host_key=stamp.host_key,
        converged=stamp.converged,
    )
