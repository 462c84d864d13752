"""What provisioning and scaling plan alike: bring tiers to their targets, losing nobody's request on the way."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from thems_jobs.core import gates
from thems_jobs.core.capacity import leaving_order, place, room_refusals, rooms, serves
from thems_jobs.core.facts import Facts, Machine, Phase
from thems_jobs.core.identity import address_of, free_names, tier_of
from thems_jobs.core.machine import (
    answering,
    balanced,
    clone_slot,
    failed,
    retries,
    steps_to_remove,
    steps_to_serve,
)
from thems_jobs.core.plan import Action, Change, Plan, Refusal, Step
from thems_jobs.core.platform import Platform


@dataclass(frozen=True)
class TierPlan:
    """What one tier needs."""

    steps: tuple[Step, ...] = ()
    changes: tuple[Change, ...] = ()
    refusals: tuple[Refusal, ...] = ()


def plan_tiers(
    platform: Platform, facts: Facts, targets: Mapping[str, int], replaced: frozenset[str] = frozenset()
) -> Plan:
    """Given the target of each tier to bring there and machines to be replaced, return the whole remaining plan."""
    balancer_tier, parts = platform.balancing.balancer_tier, list[TierPlan]()
    balancers_first = frozenset[str]()
    for name in sorted(targets, key=lambda name: name != balancer_tier):
        part = _plan_tier(platform, facts, name, targets[name], replaced, balancers_first)
        parts.append(part)
        if name == balancer_tier:
            balancers_first = frozenset(s.key for s in part.steps if s.action is Action.SERVE)
    steps = [step for part in parts for step in part.steps] + _strays(platform, facts)
    refusals = [refusal for part in parts for refusal in part.refusals]
    forward = [step for step in steps if step.action is not Action.RESTORE]
    if forward:
        refusals += gates.closed(platform, facts, forward)
    new = [step.target for step in steps if step.action is Action.CLONE]
    needs_id = [name for name in new if not _reserved(facts, name)]
    if needs_id:
        steps.insert(0, Step(Action.RESERVE, "record", note=", ".join(needs_id)))
        refusals += gates.identifiers(platform, facts, needs_id)
    if needs_id or stale_intents(facts, new):
        everything = frozenset(step.key for step in steps)
        steps.append(Step(Action.SETTLE, "record", after=everything))
    slots = {clone_slot(platform, name): platform.proxmox.clones_per_storage for name in platform.tiers}
    changes = tuple(change for part in parts for change in part.changes)
    return Plan(tuple(steps), tuple(refusals), changes, slots)


def _reserved(facts: Facts, name: str) -> bool:
    machine = facts.machines.get(name)
    return machine is not None and machine.vmid > 0 and not failed(machine.clone)


def stale_intents(facts: Facts, wanted: list[str]) -> list[str]:
    """Given the names still to be cloned, return the intents that have done their duty."""
    return [name for name in facts.known_record.intents if name not in wanted]


def _plan_tier(
    platform: Platform,
    facts: Facts,
    name: str,
    target: int,
    replaced: frozenset[str],
    balancers_first: frozenset[str],
) -> TierPlan:
    tier = platform.tiers[name]
    leaving, staying = _choose(facts, name, target, replaced)
    steps, changes, refusals = list[Step](), list[Change](), list[Refusal]()
    unmade = [machine for machine in staying if not machine.exists and machine.clone != "cloning"]
    for machine in staying:
        given_up = _given_up(machine)
        if given_up:
            refusals.append(given_up)
        elif machine not in unmade:
            todo = steps_to_serve(platform, facts, machine)
            steps += _behind(todo, balancers_first)
            changes += [_change_of(machine, todo)] if todo else []
    retried = [machine for machine in unmade if not _given_up(machine)]
    made, new_changes, no_room = _make(platform, facts, name, retried, target - len(staying))
    steps += _behind(made, balancers_first)
    refusals += no_room
    up_first = frozenset(s.key for s in steps if s.action in (Action.SERVE, Action.RESTORE))
    for machine in leaving:
        before = up_first if machine.phase in (Phase.SERVING, Phase.DRAINING) else frozenset[str]()
        steps += steps_to_remove(platform, facts, machine, before)
        why = "to be replaced" if machine.name in replaced else f"{len(staying)} stay"
        changes.append(Change("remove", machine.name, machine.node, why))
    if any(serves(machine) for machine in leaving):
        refusals += gates.survivors(name, tier, staying, target)
    return TierPlan(tuple(steps), (*changes, *new_changes), tuple(refusals))


def _choose(facts: Facts, name: str, target: int, replaced: frozenset[str]) -> tuple[list[Machine], list[Machine]]:
    """Given a target, return which machines of the tier leave and which stay."""
    machines = facts.of_tier(name)
    leaving = [machine for machine in machines if machine.name in replaced]
    rest = [machine for machine in machines if machine.name not in replaced]
    leaving += leaving_order(rest)[: max(0, len(rest) - target)]
    gone = {machine.name for machine in leaving}
    return leaving, [machine for machine in rest if machine.name not in gone]


def _given_up(machine: Machine) -> Refusal | None:
    """Given a machine, return why it cannot be brought up any more, if so."""
    trouble = machine.clone if failed(machine.clone) else machine.power if failed(machine.power) else ""
    if not trouble or retries(machine):
        return None
    return Refusal(
        "task-failed", machine.name, trouble, "the task to succeed",
        "Read the task's log in Proxmox, mend the cause and run the same command again.", machine.name,
    )  # fmt: skip


def _behind(steps: tuple[Step, ...], balancers_first: frozenset[str]) -> list[Step]:
    """Given a web machine's steps, return them with its admission behind the balancers that are being made."""
    return [
        replace(step, after=step.after | balancers_first) if step.action is Action.ADMIT else step for step in steps
    ]


def _change_of(machine: Machine, steps: tuple[Step, ...]) -> Change:
    """Given what remains to be done to a machine that exists, return it in words."""
    if steps[-1].action is Action.RESTORE:
        return Change("restore", machine.name, machine.node, "the balancers send it too few visitors")
    if machine.phase is not Phase.SERVING:
        return Change("finish", machine.name, machine.node, "an earlier run left it half-made")
    if not machine.running:
        why = "it is switched off"
    elif not machine.reachable:
        why = "it does not answer"
    else:
        why = machine.health if machine.health not in ("", "ok") else "its configuration is out of date"
    return Change("repair", machine.name, machine.node, why)


def _make(
    platform: Platform, facts: Facts, name: str, unmade: list[Machine], count: int
) -> tuple[tuple[Step, ...], list[Change], list[Refusal]]:
    """Given machines that are only reserved and how many more a tier lacks, return the steps that make them all.

    Where there is no room or no free address, the refusals say so.
    """
    count = max(0, count)
    names = free_names(platform, name, facts, count)
    new = [Machine(machine_name, name, 0, address_of(platform, machine_name)) for machine_name in names]
    wanted = len(unmade) + count
    nodes, _ = place(platform.tiers[name], wanted, rooms(platform, facts, name))
    refusals = room_refusals(name, platform.tiers[name], wanted, len(nodes), facts.nodes)
    refusals += gates.free_addresses(platform, name, count, len(names))
    steps, changes = list[Step](), list[Change]()
    for machine, node in zip([*unmade, *new], nodes, strict=False):
        steps += steps_to_serve(platform, facts, machine, node)
        changes.append(Change("make", machine.name, node, "to reach the target"))
    return tuple(steps), changes, refusals


def _strays(platform: Platform, facts: Facts) -> list[Step]:
    """Return the steps that take servers without a machine out of the balancers."""
    names = {name for view in answering(facts).values() for name in view.servers}
    return [
        Step(Action.RETIRE, name)
        for name in sorted(names)
        if name not in facts.machines and balanced(platform, tier_of(platform, name) or "")
    ]
