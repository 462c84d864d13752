"""The life of one machine: given what is seen of it, the steps that remain until it serves, or until it is gone."""

from collections.abc import Mapping

from thems_jobs.core import databases
from thems_jobs.core.facts import UNDER_WAY, Balancer, Facts, Machine, Phase, Server, Unknown
from thems_jobs.core.plan import Action, Step, Wait, chain
from thems_jobs.core.platform import Platform

FULL_WEIGHT = 100
DRAIN_QUIET_S = 2.0  # a machine is let go when no look has seen a connection for so long
RESERVE_KEY = f"{Action.RESERVE} record"
ATTEMPTS = 3  # of one clone, start or stop before the machine is given up


def balanced(platform: Platform, tier: str) -> bool:
    """True if machines of this tier stand behind the balancers, or behind the database's proxies."""
    return tier == platform.balancing.web_tier or databases.is_database(platform, tier)


def front(platform: Platform, facts: Facts, tier: str) -> Mapping[str, Balancer | Unknown]:
    """Given a tier, return what stands before its machines and decides who uses them, as each tells."""
    return databases.views(facts) if databases.is_database(platform, tier) else facts.balancers


def answering(facts: Facts) -> dict[str, Balancer]:
    """Return the balancers that answered, by name."""
    return {name: view for name, view in facts.balancers.items() if isinstance(view, Balancer)}


def registrations(platform: Platform, facts: Facts, machine: Machine) -> list[Server | None]:
    """Given a machine, return how each balancer or proxy that answers sees it; None where it is not registered."""
    views = front(platform, facts, machine.tier).values()
    return [view.servers.get(machine.name) for view in views if isinstance(view, Balancer)]


def _is_it(platform: Platform, machine: Machine, server: Server | None) -> bool:
    """True if what one balancer has under the machine's name is the machine: somebody's hand may leave another address.

    The port is not compared: when the platform file gives another one, the machine must first be configured for it.
    """
    of_web = machine.tier == platform.balancing.web_tier
    return server is not None and (not of_web or server.address.partition(":")[0] == machine.address)


def registered(platform: Platform, facts: Facts, machine: Machine) -> bool:
    """True if every balancer that answers has the machine in its table."""
    seen = registrations(platform, facts, machine)
    return bool(seen) and all(_is_it(platform, machine, server) for server in seen)


def admitted(platform: Platform, facts: Facts, machine: Machine) -> bool:
    """True if every balancer that answers may send it visitors (a gate closes where one does not answer)."""
    seen = registrations(platform, facts, machine)
    return registered(platform, facts, machine) and all(server is not None and server.weight > 0 for server in seen)


def up(platform: Platform, facts: Facts, machine: Machine) -> bool:
    """True if every answering balancer's own check finds the machine well."""
    seen = registrations(platform, facts, machine)
    return registered(platform, facts, machine) and all(server is not None and server.up for server in seen)


def relied_on(facts: Facts, machine: Machine) -> bool:
    """True if visitors may be on the machine: it serves, or did, or has the address that they come to."""
    return machine.phase in (Phase.SERVING, Phase.DRAINING) or machine.name in facts.holders


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
        Action.AWAIT_SYNC: ("it takes the cluster's data", 1.0, limits.sync_s),
        Action.AWAIT_UP: ("the balancers check it themselves", 0.5, limits.up_s),
        Action.AWAIT_DRAIN: ("visitors finish what they began", 1.0, limits.drain_s),
        Action.AWAIT_STOP: ("it shuts down", 1.0, limits.stop_s),
        Action.AWAIT_DESTROY: ("Proxmox removes it", 1.0, limits.destroy_s),
    }[action]
    return Step(action, name, wait=Wait(reason, poll_s, deadline_s), slot=slot)


def _together(action: Action, name: str, tier: str) -> Step:
    """Given a step that costs little more for several machines of a tier than for one, return it as one of a batch."""
    return Step(action, name, batch=f"{action} {tier}")


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
    apart = databases.is_database(platform, tier) and (
        not (databases.joined(facts, name) or databases.silent(facts, name))
        or any(step.action is Action.START for step in boot)
    )
    restore = not (boot or unwell or renewed or apart) and _short_of_visitors(platform, facts, machine)
    serving = machine.phase is Phase.SERVING or restore
    went_down = machine.phase in (Phase.SERVING, Phase.DRAINING) and bool(boot)
    converge = outdated or (not renewed and (unwell or went_down))
    steps = [_together(Action.RESTORE, name, tier)] if restore else []
    steps += boot
    if converge:
        steps.append(_together(Action.CONVERGE, name, tier))
    if serving and not (boot or converge or renewed or apart):
        return chain(steps)
    if apart:
        steps += [] if machine.joining and not boot else [Step(Action.JOIN, name)]
        steps.append(_wait(platform, Action.AWAIT_SYNC, name))
    if boot or converge or apart or not machine.warm:
        steps.append(Step(Action.CHECK, name))
    if balanced(platform, tier):
        if not restore and not admitted(platform, facts, machine):
            steps.append(_together(Action.ADMIT, name, tier))
        if apart or not up(platform, facts, machine):
            steps.append(_wait(platform, Action.AWAIT_UP, name))
    return chain([*steps, _together(Action.SERVE, name, tier)])


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
    """True if the machine could serve more visitors at once than the balancers send it, or all writes for good."""
    if not balanced(platform, machine.tier):
        return False
    if databases.to_write(platform, facts) == machine.name:
        return True
    seen = registrations(platform, facts, machine)
    if machine.phase is Phase.DRAINING:  # and not admitted anew, as one is that had left the tables already
        return any(server is not None and server.weight != platform.balancing.admit_weight for server in seen)
    full = registered(platform, facts, machine) and all(server and server.weight == FULL_WEIGHT for server in seen)
    return machine.phase is Phase.SERVING and not full


def steps_to_remove(
    platform: Platform, facts: Facts, machine: Machine, after: frozenset[str] = frozenset()
) -> tuple[Step, ...]:
    """Given a machine and the steps that must be over before it is touched, return what remains until it is gone."""
    name, steps = machine.name, list[Step]()
    behind, cloning = balanced(platform, machine.tier), machine.clone == "cloning" or machine.locked == "clone"
    if cloning:
        steps.append(_wait(platform, Action.AWAIT_CLONE, name, clone_slot(platform, machine.tier)))
    seen = [server for server in registrations(platform, facts, machine) if server] if behind else []
    if machine.exists and not is_dying(machine):
        steps += _steps_to_empty(platform, facts, machine, seen)
    if seen:
        steps.append(_together(Action.RETIRE, name, machine.tier))
    if machine.running and (machine.joining or databases.told(facts, name)):
        steps.append(Step(Action.LEAVE, name))
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
    holders = (*facts.holders, *(facts.databases.holders if facts.databases else ()))
    leaves = machine.phase is Phase.DRAINING and name not in holders and all(s.weight == 0 for s in seen)
    if (relied_on(facts, machine) or seen) and not leaves:
        steps.append(_together(Action.WITHDRAW, name, machine.tier))
    own = not balanced(platform, machine.tier) and relied_on(facts, machine)
    visited = bool(seen) or (own and machine.running and machine.ssh_open and machine.power != "stopping")
    if visited and (steps or not drained(facts, name)):
        steps.append(_wait(platform, Action.AWAIT_DRAIN, name))
    return steps


def is_dying(machine: Machine) -> bool:
    """True if Proxmox removes the machine already: there is no way back."""
    return machine.power == "destroying" or machine.locked == "destroyed"
