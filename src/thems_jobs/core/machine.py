"""The life of one machine: given what is seen of it, the steps that remain until it serves, or until it is gone."""

from thems_jobs.core.facts import UNDER_WAY, Balancer, Facts, Machine, Phase, Server
from thems_jobs.core.plan import Action, Step, Wait, chain
from thems_jobs.core.platform import Platform

FULL_WEIGHT = 100
DRAIN_QUIET_S = 2.0  # a machine is let go when no look has seen a connection for so long
ATTEMPTS = 3  # of one clone, start or stop before the machine is given up


def balanced(platform: Platform, tier: str) -> bool:
    """True if machines of this tier stand behind the balancers."""
    return tier == platform.balancing.web_tier


def answering(facts: Facts) -> dict[str, Balancer]:
    """Return the balancers that answered, by name."""
    return {name: view for name, view in facts.balancers.items() if isinstance(view, Balancer)}


def registrations(facts: Facts, name: str) -> list[Server | None]:
    """Given a machine, return how each answering balancer sees it; None where it is not registered."""
    return [view.servers.get(name) for view in answering(facts).values()]


def registered(facts: Facts, name: str) -> bool:
    """True if every balancer there is has the machine in its table."""
    seen = registrations(facts, name)
    return bool(seen) and len(seen) == len(facts.balancers) and None not in seen


def up(facts: Facts, name: str) -> bool:
    """True if every balancer's own check finds the machine well."""
    return registered(facts, name) and all(server is not None and server.up for server in registrations(facts, name))


def drained(facts: Facts, name: str) -> bool:
    """True if nobody has had a connection to the machine for long enough."""
    since = facts.quiet_since.get(name)
    return since is not None and facts.at - since >= DRAIN_QUIET_S


def retries(machine: Machine) -> bool:
    """True if what failed on this machine may be tried again."""
    return machine.clone_attempt < ATTEMPTS and machine.power_attempt < ATTEMPTS


def failed(state: str) -> bool:
    """Given the state of a task, return True if it is an error text."""
    return state != "" and state not in UNDER_WAY


def _wait(platform: Platform, action: Action, name: str, slot: str = "") -> Step:
    limits = platform.timeouts
    reason, poll_s, deadline_s = {
        Action.AWAIT_CLONE: ("Proxmox clones its disk", 2.0, limits.clone_s),
        Action.AWAIT_BOOT: ("it boots", 1.0, limits.boot_s),
        Action.AWAIT_UP: ("the balancers check it themselves", 0.5, limits.up_s),
        Action.AWAIT_DRAIN: ("visitors finish what they began", 1.0, limits.drain_s),
        Action.AWAIT_STOP: ("it shuts down", 1.0, limits.stop_s),
        Action.AWAIT_DESTROY: ("Proxmox removes it", 1.0, limits.destroy_s),
    }[action]
    return Step(action, name, wait=Wait(reason, poll_s, deadline_s), slot=slot)


def _together(action: Action, name: str, tier: str = "") -> Step:
    """Given a step that costs little more for several machines than for one, return it as part of a batch."""
    return Step(action, name, batch=f"{action} {tier}".strip())


def clone_slot(platform: Platform, tier: str) -> str:
    """Given a tier, return the slot its clones share: Proxmox clones one after another on a storage's lock."""
    return f"clone {platform.tiers[tier].template.storage}"


def steps_to_serve(platform: Platform, facts: Facts, machine: Machine, node: str = "") -> tuple[Step, ...]:
    """Given a machine and, for one that must be cloned, its node, return what remains until it serves; () if it does."""
    name, tier = machine.name, machine.tier
    if machine.phase is Phase.SERVING:
        return _steps_to_repair(platform, facts, machine)
    if machine.phase is Phase.DRAINING and machine.reachable and registered(facts, name):
        return (_together(Action.RESTORE, name),)
    steps = _steps_to_exist(platform, machine, node)
    if not machine.reachable:
        steps.append(_wait(platform, Action.AWAIT_BOOT, name))
    if steps or machine.converged != facts.roles.get(tier, ""):
        steps.append(_together(Action.CONVERGE, name, tier))
    if steps or not machine.warm:
        steps.append(Step(Action.CHECK, name))
    if balanced(platform, tier):
        if not registered(facts, name):
            steps.append(_together(Action.ADMIT, name))
        if not up(facts, name):
            steps.append(_wait(platform, Action.AWAIT_UP, name))
    return chain([*steps, _together(Action.SERVE, name)])


def _steps_to_exist(platform: Platform, machine: Machine, node: str) -> list[Step]:
    """Given a machine, return what remains until it is switched on."""
    name, slot, steps = machine.name, clone_slot(platform, machine.tier), list[Step]()
    cloning = machine.clone == "cloning" or (machine.exists and machine.locked == "clone")
    if not machine.exists and not cloning:
        reserve = frozenset({f"{Action.RESERVE} record"})
        steps.append(Step(Action.CLONE, name, node=node, slot=slot, after=reserve))
    if steps or cloning:
        steps.append(_wait(platform, Action.AWAIT_CLONE, name, slot))
    if steps or not machine.configured:
        steps.append(Step(Action.CONFIGURE, name))
    if not machine.running and machine.power != "starting":
        steps.append(Step(Action.START, name))
    return steps


def _steps_to_repair(platform: Platform, facts: Facts, machine: Machine) -> tuple[Step, ...]:
    """Given a serving machine, return what it needs to serve as it should; () if it is well.

    Weight it lost on a balancer is restored; stopped, it is started; unwell or outdated, it is configured anew.
    """
    name, steps = machine.name, list[Step]()
    if not machine.running and machine.power != "starting":
        steps.append(Step(Action.START, name))
    if not machine.reachable:
        steps.append(_wait(platform, Action.AWAIT_BOOT, name))
    outdated = machine.converged != facts.roles.get(machine.tier, "")
    if steps or (not machine.renewed and (outdated or machine.health not in ("", "ok"))):
        steps.append(_together(Action.CONVERGE, name, machine.tier))
    if steps or machine.renewed:
        if steps or not machine.warm:
            steps.append(Step(Action.CHECK, name))
        if balanced(platform, machine.tier):
            steps += [] if registered(facts, name) else [_together(Action.ADMIT, name)]
            steps += [] if up(facts, name) else [_wait(platform, Action.AWAIT_UP, name)]
        return chain([*steps, _together(Action.SERVE, name)])
    weights = [server.weight if server else None for server in registrations(facts, name)]
    if balanced(platform, machine.tier) and any(weight != FULL_WEIGHT for weight in weights):
        return (_together(Action.RESTORE, name),)
    return ()


def steps_to_remove(
    platform: Platform, facts: Facts, machine: Machine, after: frozenset[str] = frozenset()
) -> tuple[Step, ...]:
    """Given a machine and the steps that must be over before visitors leave it, return what remains until it is gone."""
    name, steps = machine.name, list[Step]()
    if machine.clone == "cloning" or machine.locked == "clone":
        steps.append(_wait(platform, Action.AWAIT_CLONE, name, clone_slot(platform, machine.tier)))
    seen = [server for server in registrations(facts, name) if server] if balanced(platform, machine.tier) else []
    leaves = machine.phase is Phase.DRAINING and all(server.weight == 0 for server in seen)
    if (machine.phase is Phase.SERVING or seen) and not leaves:
        steps.append(_together(Action.WITHDRAW, name))
    visited = seen or (machine.running and not balanced(platform, machine.tier) and machine.phase is not Phase.BUILDING)
    if visited and (steps or not drained(facts, name)):
        steps.append(_wait(platform, Action.AWAIT_DRAIN, name))
    if seen:
        steps.append(_together(Action.RETIRE, name))
    if machine.running and machine.power != "stopping":
        steps.append(Step(Action.STOP, name))
    if machine.running:
        steps.append(_wait(platform, Action.AWAIT_STOP, name))
    if machine.exists or machine.clone == "cloning":
        if machine.locked != "destroyed":
            steps.append(Step(Action.DESTROY, name))
        steps.append(_wait(platform, Action.AWAIT_DESTROY, name))
    return chain(steps, after)
