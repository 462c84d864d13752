"""How many machines a tier should have, which ones go first, and where new ones find room."""

import heapq
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from thems_jobs.core.facts import Facts, Machine, Phase, Storage, number_of
from thems_jobs.core.plan import Refusal
from thems_jobs.core.platform import Platform, Tier
from thems_jobs.core.record import Claim, live_claims


def target(tier_name: str, tier: Tier, claims: Sequence[Claim]) -> int:
    """Given the live claims, return how many machines the tier should have: its baseline or the highest claim."""
    return max(tier.baseline, *(claim.tiers.get(tier_name, 0) for claim in claims), 0)


def targets(platform: Platform, facts: Facts) -> dict[str, int]:
    """Given the record's live claims, return the target of every tier; the baseline where the record is unknown."""
    claims = live_claims(facts.known_record, facts.at)
    return {name: target(name, tier, claims) for name, tier in platform.tiers.items()}


def serves(machine: Machine) -> bool:
    """True if visitors rely on the machine now."""
    runs_on = machine.running and machine.power != "stopping"
    return machine.phase is Phase.SERVING and runs_on and machine.health in ("", "ok")


def leaving_order(machines: Sequence[Machine], last: Collection[str] = ()) -> list[Machine]:
    """Given a tier's machines, return them in the order in which they go when there are too many; some go last.

    First those that leave already, then those that never served, then those that are down or unwell, then the rest.
    Of those that serve, one from the node that holds the most of them goes first, so that the others stay spread.
    Among equals the highest number goes first. What a plan does to the others never changes whom it chose.
    """
    placed = [machine for machine in machines if machine.phase is Phase.SERVING or machine.name in last]
    idle = [machine for machine in machines if machine.phase is not Phase.SERVING and machine.name not in last]
    order = sorted(idle, key=lambda m: (m.phase is not Phase.DRAINING, -number_of(m.name)))
    groups: dict[tuple[bool, bool], dict[str, list[Machine]]] = {}
    for machine in sorted(placed, key=lambda m: number_of(m.name)):
        group = (machine.name in last, serves(machine) and machine.reachable)
        groups.setdefault(group, {}).setdefault(machine.node, []).append(machine)
    crowd = Counter(machine.node for machine in placed)  # who goes last is there, too
    for by_node in (groups[group] for group in sorted(groups)):
        while by_node:
            node = max(by_node, key=lambda node: (crowd[node], number_of(by_node[node][-1].name)))
            order.append(by_node[node].pop())
            crowd[node] -= 1
            if not by_node[node]:
                del by_node[node]
    return order


@dataclass(frozen=True)
class Room:
    """What is left on one node."""

    node: str
    memory_mib: int
    cores: float
    of_tier: int

    def fits(self, tier: Tier) -> bool:
        strict = tier.placement == "strict-spread" and self.of_tier > 0
        return self.memory_mib >= tier.memory_mib and self.cores >= tier.cores and not strict


def rooms(
    platform: Platform,
    facts: Facts,
    tier_name: str,
    promised: Mapping[str, Sequence[Tier]],
    replaced: frozenset[str] = frozenset(),
) -> list[Room]:
    """Given what this plan promised to each node already, return what is left on each of ours that a clone can go to.

    That is a node that is online and sees the template's storage; one that is not shared, only the template's node.
    What our machines there have, or will have, is taken. Those to be replaced crowd no node: they will be gone.
    """
    proxmox = platform.proxmox
    there = [m for m in facts.of_tier(tier_name) if m.exists or m.clone == "cloning"]
    crowd = Counter(m.node for m in there if m.name not in replaced)
    home = facts.templates[tier_name].node if tier_name in facts.templates else ""
    name = platform.tiers[tier_name].template.storage
    seen = {s.node for s in facts.storages if s.name == name and s.active and (s.shared or s.node == home)}
    memory_mib, cores = Counter[str](), Counter[str]()
    for machine in facts.machines.values():
        if (machine.exists and not machine.template) or machine.clone == "cloning":
            memory_mib[machine.node] += machine.memory_mib or platform.tiers[machine.tier].memory_mib
            cores[machine.node] += machine.cores or platform.tiers[machine.tier].cores
    for node_name, tiers in promised.items():
        memory_mib[node_name] += sum(tier.memory_mib for tier in tiers)
        cores[node_name] += sum(tier.cores for tier in tiers)
    return [
        Room(
            node.name,
            node.memory_mib - node.memory_used_mib - proxmox.memory_reserve_mib - memory_mib[node.name],
            node.cores * proxmox.cpu_overcommit_ratio - node.cores_used - cores[node.name],
            crowd[node.name],
        )
        for node in facts.nodes.values()
        if node.online and node.name in proxmox.nodes and node.name in seen
    ]  # fmt: skip


def place(tier: Tier, count: int, free: Sequence[Room]) -> list[str]:
    """Given what is left, return the nodes for up to `count` new machines.

    The node with the fewest machines of the tier comes first, then the one with the most memory left.
    """
    left = [(room.of_tier, -room.memory_mib, room.node, room) for room in free]
    heapq.heapify(left)
    chosen = list[str]()
    while left and len(chosen) < count:
        room = heapq.heappop(left)[3]
        if not room.fits(tier):
            continue  # nor will it later: room only shrinks
        chosen.append(room.node)
        room = Room(room.node, room.memory_mib - tier.memory_mib, room.cores - tier.cores, room.of_tier + 1)
        heapq.heappush(left, (room.of_tier, -room.memory_mib, room.node, room))
    return chosen


def storage_left_mib(storages: Sequence[Storage], name: str) -> int | None:
    """Given the storages as every node sees them, return the free space of the named one, or None if none is active."""
    free = [storage.free_mib for storage in storages if storage.name == name and storage.active]
    return min(free) if free else None


def room_refusals(tier_name: str, tier: Tier, wanted: int, placed: int, facts: Facts) -> list[Refusal]:
    """Given how many machines found a place, return the refusal for those that did not."""
    if placed >= wanted:
        return []
    offline = sorted(node.name for node in facts.nodes.values() if not node.online)
    why = f"; offline: {', '.join(offline)}" if offline else ""
    if storage_left_mib(facts.storages, tier.template.storage) is None:
        why += f"; no node sees storage {tier.template.storage}"
    return [
        Refusal(
            "node-capacity", f"tier {tier_name}",
            f"room for {placed} more machines of {tier.memory_mib} MiB and {tier.cores} cores{why}",
            f"room for {wanted}", "Ask for fewer, free memory or cores on the nodes, or bring a node back.",
        )
    ]  # fmt: skip
