"""The life of one machine: given what is seen of it, the steps that remain until it serves, or until it is gone."""

from thems_jobs.core.facts import UNDER_WAY, Balancer, Facts, Machine, Phase, Server
from thems_jobs.core.plan import Action, Step, Wait, chain
from thems_jobs.core.platform import Platform

FULL_WEIGHT = 100
DRAIN_QUIET_S = 2.0  # a machine is let go when no look has seen a connection for so long
RESERVE_KEY = f"{Action.RESERVE} record"
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
    """True if every balancer that answers has the machine in its table (a gate closes where one does not answer)."""
    seen = registrations(facts, name)
    return bool(seen) and None not in seen


def up(facts: Facts, name: str) -> bool:
    """True if every answering balancer's own check finds the machine well."""
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
    """Given a machine and, for one that must be cloned, its node, return what remains until it serves; () if it does.

    Capacity that was taken away is given back first. A serving machine that is stopped, unwell or outdated is
    configured and checked anew; a half-made one takes up where it was left.
    """
    name, tier = machine.name, machine.tier
    boot = _steps_to_boot(platform, machine, node)
    unwell = machine.health not in ("", "ok")
    outdated = not machine.converged or machine.converged != facts.roles.get(tier, machine.converged)
    renewed = machine.renewed and not boot
    restore = not boot and not unwell and not renewed and _short_of_visitors(platform, facts, machine)
    serving = machine.phase is Phase.SERVING or restore
    went_down = machine.phase in (Phase.SERVING, Phase.DRAINING) and bool(boot)
    converge = outdated or (not renewed and (unwell or went_down))
    steps = [_together(Action.RESTORE, name)] if restore else []
    steps += boot
    if converge:
        steps.append(_together(Action.CONVERGE, name, tier))
    if serving and not (boot or converge or renewed):
        return chain(steps)
    if boot or converge or not machine.warm:
        steps.append(Step(Action.CHECK, name))
    if balanced(platform, tier):
        if not restore and not registered(facts, name):
            steps.append(_together(Action.ADMIT, name))
        if not up(facts, name):
            steps.append(_wait(platform, Action.AWAIT_UP, name))
    return chain([*steps, _together(Action.SERVE, name)])


def _steps_to_boot(platform: Platform, machine: Machine, node: str) -> list[Step]:
    """Given a machine, return what remains until it runs and can be reached."""
    name, slot, steps = machine.name, clone_slot(platform, machine.tier), list[Step]()
    cloning = machine.clone == "cloning" or (machine.exists and machine.locked == "clone")
    if not machine.exists and not cloning:
        steps.append(Step(Action.CLONE, name, node=node, slot=slot, after=frozenset({RESERVE_KEY})))
    if steps or cloning:
        steps.append(_wait(platform, Action.AWAIT_CLONE, name, slot))
    if steps or (not machine.configured and machine.phase in (None, Phase.BUILDING)):
        steps.append(Step(Action.CONFIGURE, name))
    if machine.power == "stopping":
        steps.append(_wait(platform, Action.AWAIT_STOP, name))
    if machine.power == "stopping" or (not machine.running and machine.power != "starting"):
        steps.append(Step(Action.START, name))
    if not machine.reachable:
        steps.append(_wait(platform, Action.AWAIT_BOOT, name))
    return steps


def _short_of_visitors(platform: Platform, facts: Facts, machine: Machine) -> bool:
    """True if the machine could serve more visitors at once than the balancers send it."""
    if not balanced(platform, machine.tier):
        return False
    seen = registrations(facts, machine.name)
    if machine.phase is Phase.DRAINING:  # and not admitted anew, as one is that had left the tables already
        return any(server is not None and server.weight != platform.balancing.admit_weight for server in seen)
    lacking = not seen or any(server is None or server.weight != FULL_WEIGHT for server in seen)
    return machine.phase is Phase.SERVING and lacking


def steps_to_remove(
    platform: Platform, facts: Facts, machine: Machine, after: frozenset[str] = frozenset()
) -> tuple[Step, ...]:
    """Given a machine and the steps that must be over before it is touched, return what remains until it is gone."""
    name, steps = machine.name, list[Step]()
    behind, cloning = balanced(platform, machine.tier), machine.clone == "cloning" or machine.locked == "clone"
    if cloning:
        steps.append(_wait(platform, Action.AWAIT_CLONE, name, clone_slot(platform, machine.tier)))
    seen = [server for server in registrations(facts, name) if server] if behind else []
    if machine.exists and not is_dying(machine):
        steps += _steps_to_empty(platform, facts, machine, seen)
    if seen:
        steps.append(_together(Action.RETIRE, name))
    if (machine.running or machine.power == "starting") and machine.power != "stopping":
        steps.append(Step(Action.STOP, name))
    if machine.running or machine.power in ("starting", "stopping"):
        steps.append(_wait(platform, Action.AWAIT_STOP, name))
    if machine.exists or cloning:
        if not is_dying(machine):
            steps.append(Step(Action.DESTROY, name))
        steps.append(_wait(platform, Action.AWAIT_DESTROY, name))
    return chain(steps, after)


def _steps_to_empty(platform: Platform, facts: Facts, machine: Machine, seen: list[Server]) -> list[Step]:
    """Given how the balancers see a leaving machine, return what remains until nobody uses it.

    Of a balancer that cannot be reached nobody knows who uses it: it is not waited for.
    """
    name, steps = machine.name, list[Step]()
    leaves = machine.phase is Phase.DRAINING and name not in facts.holders and all(s.weight == 0 for s in seen)
    if (machine.phase in (Phase.SERVING, Phase.DRAINING) or seen) and not leaves:
        steps.append(_together(Action.WITHDRAW, name))
    own = not balanced(platform, machine.tier) and machine.phase in (Phase.SERVING, Phase.DRAINING)
    visited = bool(seen) or (own and machine.running and machine.ssh_open and machine.power != "stopping")
    if visited and (steps or not drained(facts, name)):
        steps.append(_wait(platform, Action.AWAIT_DRAIN, name))
    return steps


def is_dying(machine: Machine) -> bool:
    """True if Proxmox removes the machine already: there is no way back."""
    return machine.power == "destroying" or machine.locked == "destroyed"
