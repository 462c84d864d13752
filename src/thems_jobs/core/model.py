"""What the world looks like after a step went well: the other half of every planner's promise.

`plan(model(facts, heads))` must be the rest of the plan. The simulation and the properties stand on it.
"""

from dataclasses import replace

from thems_jobs.core import model_databases
from thems_jobs.core.facts import Balancer, Facts, Machine, Phase, Server, Stamp, Unknown
from thems_jobs.core.identity import address_of, choose_vmids, tier_of
from thems_jobs.core.machine import DRAIN_QUIET_S, FULL_WEIGHT
from thems_jobs.core.plan import Action, Plan, Step
from thems_jobs.core.platform import Platform
from thems_jobs.core.record import Intent

NOT_ASKED = "not asked since it can be reached again"


def after(platform: Platform, facts: Facts, plan: Plan, step: Step) -> Facts:
    """Given the facts before a step of the plan, return those after it went well."""
    if step.action is Action.RESERVE:
        return _reserve(platform, facts, plan)
    if step.action is Action.SETTLE:
        wanted = {s.target for s in plan.steps if s.action is Action.CLONE}
        kept = {name: intent for name, intent in facts.known_record.intents.items() if name in wanted}
        there = {k: v for k, v in facts.machines.items() if k in wanted or v.exists or v.clone == "cloning"}
        return replace(facts, record=replace(facts.known_record, intents=kept), machines=there)
    if step.action is Action.RETIRE:
        return _with_weight(platform, model_databases.after(platform, facts, step), step.target, None)
    if step.action is Action.BACKUP:
        return replace(facts, backup=model_databases.saved(facts, step.target))
    machine = facts.machines[step.target]
    if step.action is Action.AWAIT_DESTROY:
        rest = {k: v for k, v in facts.machines.items() if k != step.target}
        facts = replace(_left(platform, facts, machine), machines=rest)
        return model_databases.after(platform, facts, step)
    facts = replace(facts, machines={**facts.machines, step.target: _machine_after(facts, machine, step)})
    facts = model_databases.after(platform, facts, step)
    if step.action is Action.ADMIT:
        return _with_weight(platform, facts, step.target, platform.balancing.admit_weight)
    if step.action in (Action.SERVE, Action.RESTORE):
        facts = _with_weight(platform, _joined(platform, facts, machine), step.target, FULL_WEIGHT)
        return _checked_alike(facts, machine) if step.action is Action.RESTORE else facts
    if step.action is Action.WITHDRAW:
        quiet = {name: since for name, since in facts.quiet_since.items() if name != step.target}
        return _left(platform, _with_weight(platform, replace(facts, quiet_since=quiet), step.target, 0), machine)
    if step.action is Action.AWAIT_DRAIN:
        return replace(facts, quiet_since={**facts.quiet_since, step.target: facts.at - DRAIN_QUIET_S})
    if step.action is Action.AWAIT_UP:
        return _up(facts, step.target)
    return facts


def _machine_after(facts: Facts, machine: Machine, step: Step) -> Machine:
    match step.action:
        case Action.CLONE:
            return replace(machine, clone="cloning", node=step.node)
        case Action.AWAIT_CLONE:
            stamp = machine.stamp or _stamp(machine, facts)
            return replace(machine, exists=True, configured=False, locked="", clone="", stamp=stamp)
        case Action.CONFIGURE:
            return replace(machine, configured=True)
        case Action.START:
            return replace(machine, running=True, power="", ssh_open=False, joining=False)
        case Action.FORBID_BOOTSTRAP:
            return replace(machine, barred=True)
        case Action.JOIN:
            return replace(machine, joining=True)
        case Action.AWAIT_SYNC | Action.LEAVE:
            return replace(machine, joining=False)
        case Action.AWAIT_BOOT:
            # What the machine was found to be before it went down says nothing about it now.
            served = machine.phase in (Phase.SERVING, Phase.DRAINING)
            health = NOT_ASKED if served else machine.health
            booted = replace(machine, running=True, power="", host_key="known", ssh_open=True)
            return replace(booted, warm=False, renewed=False, health=health)
        case Action.CONVERGE:
            return replace(machine, renewed=True, warm=False, converged=facts.roles.get(machine.tier, "as declared"))
        case Action.CHECK:
            return replace(machine, warm=True, health="ok")
        case Action.SERVE | Action.RESTORE:
            stamp = replace(machine.stamp or _stamp(machine, facts), phase=Phase.SERVING, converged=machine.converged)
            return replace(machine, stamp=stamp, renewed=False)
        case Action.WITHDRAW:
            return replace(machine, stamp=replace(machine.stamp or _stamp(machine, facts), phase=Phase.DRAINING))
        case Action.STOP:
            return replace(machine, power="stopping")
        case Action.AWAIT_STOP:
            return replace(machine, running=False, power="")
        case Action.DESTROY:
            return replace(machine, locked="destroyed")
    return machine


def _stamp(machine: Machine, facts: Facts) -> Stamp:
    return Stamp("", machine.name, machine.vmid, machine.tier, Phase.BUILDING, since=facts.at)


def _reserve(platform: Platform, facts: Facts, plan: Plan) -> Facts:
    """Given the plan, return the facts with an id for every machine that it clones and that had none."""
    intents, machines, taken = dict(facts.known_record.intents), dict(facts.machines), set(facts.taken_vmids)
    for step in plan.steps:
        known = machines.get(step.target)
        if step.action is not Action.CLONE or (known and known.vmid and not known.clone):
            continue
        tier = tier_of(platform, step.target) or ""
        vmid = choose_vmids(platform.tiers[tier], taken, 1)[0]
        taken.add(vmid)
        attempt = known.clone_attempt + 1 if known and known.clone else 1
        intents[step.target] = Intent(vmid, attempt, facts.at)
        machines[step.target] = Machine(
            step.target, tier, vmid, address_of(platform, step.target), clone_attempt=attempt
        )
    return replace(
        facts, record=replace(facts.known_record, intents=intents), machines=machines, taken_vmids=frozenset(taken)
    )


def _with_weight(platform: Platform, facts: Facts, name: str, weight: int | None) -> Facts:
    """Given a weight, or None to take it out, return the facts with the machine so in every balancer's table."""
    if tier_of(platform, name) != platform.balancing.web_tier:
        return facts
    views: dict[str, Balancer | Unknown] = {}
    for balancer, view in facts.balancers.items():
        if isinstance(view, Balancer):
            old = view.servers.get(name)
            servers = {server: state for server, state in view.servers.items() if server != name}
            if weight or (weight == 0 and old):  # who is to get no visitors need not become known
                address = address_of(platform, name)
                checked = old is not None and old.address == address and old.up
                servers[name] = Server(address, weight, checked, 0)
            view = replace(view, servers=servers)
        views[balancer] = view
    return replace(facts, balancers=views)


def _up(facts: Facts, name: str) -> Facts:
    views: dict[str, Balancer | Unknown] = {}
    for balancer, view in facts.balancers.items():
        if isinstance(view, Balancer) and name in view.servers:
            view = replace(view, servers={**view.servers, name: replace(view.servers[name], up=True)})
        views[balancer] = view
    return replace(facts, balancers=views)


def _checked_alike(facts: Facts, machine: Machine) -> Facts:
    """Given a machine that was put back into all tables, return the facts with it up for all who find it so.

    One that is configured anew afterwards is waited for then.
    """
    views = [view for view in facts.balancers.values() if isinstance(view, Balancer) and machine.name in view.servers]
    outdated = machine.converged != facts.roles.get(machine.tier, machine.converged)
    return _up(facts, machine.name) if any(v.servers[machine.name].up for v in views) and not outdated else facts


def _left(platform: Platform, facts: Facts, machine: Machine) -> Facts:
    """Given a balancer that leaves, return the facts without its answer; a peer takes over the VRRP address."""
    if machine.tier != platform.balancing.balancer_tier:
        return facts
    balancers = {name: view for name, view in facts.balancers.items() if name != machine.name}
    heir = next((name for name, view in balancers.items() if isinstance(view, Balancer)), None)
    others = tuple(holder for holder in facts.holders if holder != machine.name)
    return replace(facts, balancers=balancers, holders=others or ((heir,) if heir else ()))


def _joined(platform: Platform, facts: Facts, machine: Machine) -> Facts:
    """Given a balancer that serves now, return the facts with its table, a copy of its peers'."""
    known = isinstance(facts.balancers.get(machine.name), Balancer)
    if machine.tier != platform.balancing.balancer_tier or known:
        return facts
    peers = [view for view in facts.balancers.values() if isinstance(view, Balancer)]
    servers = dict(peers[0].servers) if peers else {}
    holders = facts.holders or (machine.name,)
    return replace(facts, balancers={**facts.balancers, machine.name: Balancer(servers, "")}, holders=holders)
