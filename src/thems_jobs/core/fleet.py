"""What provisioning and scaling plan alike: bring tiers to their targets, losing nobody's request on the way."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from thems_jobs.core import backups, databases, gates
from thems_jobs.core.capacity import leaving_order, place, room_refusals, rooms, serves
from thems_jobs.core.facts import Balancer, Facts, Machine, Phase, Unknown
from thems_jobs.core.identity import address_of, free_names, tier_of
from thems_jobs.core.machine import (
    RESERVE_KEY,
    clone_slot,
    failed,
    front,
    is_dying,
    relied_on,
    retries,
    steps_to_remove,
    steps_to_serve,
)
from thems_jobs.core.plan import Action, Change, Plan, Refusal, Step, behind
from thems_jobs.core.platform import Platform, Tier


@dataclass(frozen=True)
class TierPlan:
    """What one tier needs. `placed` are the nodes that its new machines take room on."""

    steps: tuple[Step, ...] = ()
    changes: tuple[Change, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    placed: tuple[str, ...] = ()


def plan_tiers(
    platform: Platform, facts: Facts, targets: Mapping[str, int], replaced: frozenset[str] = frozenset()
) -> Plan:
    """Given the target of each tier to bring there and machines to be replaced, return the whole remaining plan."""
    parts, promised, coming = dict[str, TierPlan](), dict[str, list[Tier]](), dict[str, frozenset[str]]()
    for name in sorted(targets, key=partial(_rank, platform)):
        part = _plan_tier(platform, facts, name, targets[name], replaced, promised)
        coming[name] = _coming(platform, facts, name, part.steps)
        parts[name] = replace(part, steps=_behind_front(platform, facts, name, part.steps, coming))
        for node in part.placed:
            promised.setdefault(node, []).append(platform.tiers[name])
    parts |= _places_given_back(platform, facts, targets)
    strays = [
        step for name in _behind_something(platform) for step in
        _behind_front(platform, facts, name, _strays(platform, facts, name), coming)
    ]  # fmt: skip
    steps = [*(step for part in parts.values() for step in part.steps), *strays]
    steps = sorted(_database_first(platform, steps), key=lambda s: s.action is not Action.RESTORE)
    guarded = backups.before_leaving(platform, facts, steps)
    steps = list(guarded.steps)
    refusals = [*(refusal for part in parts.values() for refusal in part.refusals), *guarded.refusals]
    checks = databases.checks(platform, facts, databases.of_database(platform, steps), targets)
    refusals += gates.closed(platform, facts, steps, checks)
    if any(refusal.reference == "no-balancer" for refusal in refusals):
        steps = [step for step in steps if step.action is not Action.RESTORE]
    new = [step.target for step in steps if step.action is Action.CLONE]
    needs_id = [name for name in new if not _reserved(facts, name)]
    if needs_id:
        steps.insert(0, Step(Action.RESERVE, "record", note=", ".join(needs_id)))
        refusals += gates.identifiers(platform, facts, needs_id)
    if (needs_id or facts.known_record.intents) and not any(refusal.machine for refusal in refusals):
        everything = frozenset(step.key for step in steps)
        steps.append(Step(Action.SETTLE, "record", after=everything))
    slots = {clone_slot(platform, name): platform.proxmox.clones_per_storage for name in platform.tiers}
    changes = backups.shown(facts, steps, [change for part in parts.values() for change in part.changes])
    warnings = (*_remains(facts), *_out_of_reach(facts, refusals), *guarded.warnings)
    return Plan(tuple(steps), tuple(refusals), changes, slots, warnings=warnings, checks=checks)


def _remains(facts: Facts) -> tuple[str, ...]:
    """Return a sentence for each VM that a lost clone left and that no token may unlock."""
    return tuple(
        f"VM {left.vmid} ({left.name}) is what a lost clone left: {left.why}. "
        f"Only root can remove it: qm unlock {left.vmid} && qm destroy {left.vmid}."
        for left in facts.remains
    )


def _out_of_reach(facts: Facts, refusals: Sequence[Refusal]) -> tuple[str, ...]:
    """Return a sentence for each VM that may be ours and cannot be seen, where no gate is closed for it."""
    if any(refusal.reference == "node-offline" for refusal in refusals):
        return ()
    return tuple(
        f"VM {vm.vmid} ({vm.name or 'its name is not known'}) is out of reach: {vm.why}." for vm in facts.cut_off
    )


def _behind_something(platform: Platform) -> dict[str, str]:
    """Return each tier that stands behind another, with that one: web behind balancers, database behind proxies."""
    settings = databases.settings_of(platform)
    return {platform.balancing.web_tier: platform.balancing.balancer_tier} | (
        {settings.tier: settings.proxy_tier} if settings else {}
    )


def _rank(platform: Platform, name: str) -> tuple[bool, bool]:
    """Given a tier, return where it comes in the plan: what stands before others first, the web last."""
    return name in _behind_something(platform), name == platform.balancing.web_tier


def _coming(platform: Platform, facts: Facts, name: str, steps: Sequence[Step]) -> frozenset[str]:
    """Given the steps of balancers or proxies, return those after which every one that there is answers: what serves,
    serves, and what does not answer and leaves is gone; and one that leaves has no VRRP address any more."""
    views = databases.views(facts) if databases.is_proxy(platform, name) else facts.balancers
    silent = {name for name, view in views.items() if isinstance(view, Unknown)}
    return frozenset(
        step.key
        for step in steps
        if step.action is Action.SERVE
        or (step.action is Action.AWAIT_DESTROY and step.target in silent)
        or (step.action is Action.WITHDRAW and step.target in facts.holders and step.target not in views)
    )


def _behind_front(
    platform: Platform, facts: Facts, name: str, steps: Sequence[Step], coming: Mapping[str, frozenset[str]]
) -> tuple[Step, ...]:
    """Given a tier's steps, return them with those that change the tables of its balancers or proxies, or rest on what
    these tell, behind those that are being made.

    Capacity is given back at once where one answers.
    """
    first = coming.get(_behind_something(platform).get(name, ""), frozenset())
    if not first:
        return tuple(steps)
    any_answers = any(isinstance(view, Balancer) for view in front(platform, facts, name).values())
    later = {Action.ADMIT, Action.SERVE, Action.WITHDRAW, Action.RETIRE, Action.STOP}
    later |= set() if any_answers else {Action.RESTORE}
    return tuple(behind(step, first) if step.action in later else step for step in steps)


def _database_first(platform: Platform, steps: Sequence[Step]) -> list[Step]:
    """Given all steps, return them so that new web machines find the database they need, and it shrinks after them."""
    settings = databases.settings_of(platform)
    if settings is None:
        return list(steps)
    tier = {step.target: tier_of(platform, step.target) for step in steps}
    web = platform.balancing.web_tier
    ready = frozenset(s.key for s in steps if tier[s.target] == settings.tier and s.action is Action.SERVE)
    gone = frozenset(s.key for s in steps if tier[s.target] == web and s.action is Action.RETIRE)
    return [
        behind(step, ready) if tier[step.target] == web and step.action in (Action.ADMIT, Action.SERVE)
        else behind(step, gone) if tier[step.target] == settings.tier and step.action is Action.WITHDRAW
        else step
        for step in steps
    ]  # fmt: skip


def _reserved(facts: Facts, name: str) -> bool:
    machine = facts.machines.get(name)
    return machine is not None and machine.vmid > 0 and not failed(machine.clone)


def _plan_tier(
    platform: Platform,
    facts: Facts,
    name: str,
    target: int,
    replaced: frozenset[str],
    promised: Mapping[str, Sequence[Tier]],
) -> TierPlan:
    tier = platform.tiers[name]
    writers = databases.writers(facts) if databases.is_database(platform, name) else frozenset[str]()
    leaving, staying = _choose(facts, name, target, replaced, writers)
    steps, changes = list[Step](), list[Change]()
    refusals = gates.size(name, tier, target) + [given for machine in staying if (given := _given_up(machine))]
    hopeless = {refusal.machine for refusal in refusals}
    unmade = [m for m in staying if not m.exists and m.clone != "cloning" and m.name not in hopeless]
    for machine in staying:
        todo = steps_to_serve(platform, facts, machine) if machine.exists or machine.clone == "cloning" else ()
        if todo and machine.name not in hopeless:
            steps += todo
            changes.append(_change_of(machine, todo))
    made = _make(platform, facts, name, unmade, max(0, target - len(staying)), replaced, promised)
    steps, changes, refusals = [*steps, *made.steps], [*changes, *made.changes], [*refusals, *made.refusals]
    named = frozenset({RESERVE_KEY})  # before a name becomes free, the new machines have theirs
    up_first = named | {s.key for s in steps if s.action in (Action.SERVE, Action.RESTORE)}
    for machine in leaving:
        counts = relied_on(facts, machine) or databases.joined(facts, machine.name)  # a member does before it serves
        if given_up := _given_up(machine):
            refusals.append(given_up)
        elif todo := steps_to_remove(platform, facts, machine, up_first if counts else named):
            steps += [] if hopeless and counts and machine.phase is not Phase.DRAINING else todo
            why = "to be replaced" if machine.name in replaced else f"{len(staying)} stay"
            changes.append(Change("remove", machine.name, machine.node, why))
    if any(serves(machine) for machine in leaving):
        refusals += gates.survivors(name, tier, staying, target)
    steps = databases.in_turn(platform, facts, name, steps, [machine.name for machine in leaving])
    return TierPlan(tuple(steps), tuple(changes), tuple(refusals), made.placed)


def _choose(
    facts: Facts, name: str, target: int, replaced: frozenset[str], writers: frozenset[str]
) -> tuple[list[Machine], list[Machine]]:
    """Given a target, return which machines of the tier leave, in that order, and which stay. A writer goes last."""
    machines = facts.of_tier(name)
    leaving = [machine for machine in machines if machine.name in replaced or is_dying(machine)]
    rest = [machine for machine in machines if not (machine.name in replaced or is_dying(machine))]
    leaving += leaving_order(rest, writers)[: max(0, len(rest) - target)]
    leaving.sort(key=lambda machine: machine.name in writers)
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


def _change_of(machine: Machine, steps: tuple[Step, ...]) -> Change:
    """Given what remains to be done to a machine that exists, return it in words."""
    if steps[0].action is Action.RESTORE:
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
    platform: Platform,
    facts: Facts,
    name: str,
    unmade: list[Machine],
    count: int,
    replaced: frozenset[str],
    promised: Mapping[str, Sequence[Tier]],
) -> TierPlan:
    """Given machines that are only reserved and how many more a tier lacks, return what makes them all.

    A machine to be replaced is not replaced by its own name. Where there is no room or no free address, it is refused.
    """
    names = free_names(platform, name, facts, count, replaced)
    new = [Machine(machine_name, name, 0, address_of(platform, machine_name)) for machine_name in names]
    wanted = len(unmade) + count
    gone = frozenset() if platform.tiers[name].placement == "strict-spread" else replaced
    nodes = place(platform.tiers[name], wanted, rooms(platform, facts, name, promised, gone)) if wanted else []
    refusals = room_refusals(name, platform.tiers[name], wanted, len(nodes), facts)
    refusals += gates.free_addresses(platform, name, count, len(names))
    steps, changes = list[Step](), list[Change]()
    for machine, node in zip([*unmade, *new], nodes, strict=False):
        steps += steps_to_serve(platform, facts, machine, node)
        changes.append(Change("make", machine.name, node, "to reach the target"))
    return TierPlan(tuple(steps), tuple(changes), tuple(refusals), tuple(nodes))


def _places_given_back(platform: Platform, facts: Facts, targets: Mapping[str, int]) -> dict[str, TierPlan]:
    """Given targets for the database's proxies but not for its members, return what gives these back their places in
    the proxies' lists: one that was changed by hand closes the proxies' gates, and none of their own steps mends it.
    """
    settings = databases.settings_of(platform)
    if settings is None or settings.proxy_tier not in targets or settings.tier in targets:
        return {}
    if not any(isinstance(view, Balancer) for view in front(platform, facts, settings.tier).values()):
        return {}
    serving = [machine for machine in facts.of_tier(settings.tier) if machine.phase is Phase.SERVING]
    first = [(machine, steps_to_serve(platform, facts, machine)[:1]) for machine in serving]
    short = [(machine, todo) for machine, todo in first if todo and todo[0].action is Action.RESTORE]
    steps = tuple(step for _, todo in short for step in todo)
    return {settings.tier: TierPlan(steps, tuple(_change_of(machine, todo) for machine, todo in short))}


def _strays(platform: Platform, facts: Facts, tier: str) -> list[Step]:
    """Given a tier, return the steps that take servers without a machine out of its balancers or proxies."""
    views = front(platform, facts, tier).values()
    names = {name for view in views if isinstance(view, Balancer) for name in view.servers}
    return [
        Step(Action.RETIRE, name, frozenset({RESERVE_KEY}), batch=f"{Action.RETIRE} {tier}")
        for name in sorted(names)
        if name not in facts.machines and tier_of(platform, name) == tier
    ]
