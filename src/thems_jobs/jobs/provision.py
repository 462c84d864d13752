"""provision: bring a tier, or the whole platform, to its declared state; redeploy single machines."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

from thems_jobs.core import gates
from thems_jobs.core.capacity import targets
from thems_jobs.core.facts import Facts
from thems_jobs.core.fleet import plan_tiers
from thems_jobs.core.identity import tier_of
from thems_jobs.core.job import Job
from thems_jobs.core.plan import Plan
from thems_jobs.core.platform import Platform
from thems_jobs.jobs.clients import Clients
from thems_jobs.jobs.observe import observe
from thems_jobs.jobs.perform import perform


@dataclass(frozen=True)
class Parameters:
    """`tiers` empty means all of them; `replace` names machines to be made anew, without losing capacity."""

    tiers: tuple[str, ...] = ()
    replace: tuple[str, ...] = ()


def mistakes(platform: Platform, parameters: Parameters) -> list[str]:
    """Given parameters, return one sentence for each that cannot be meant."""
    known = ", ".join(platform.tiers)
    wrong = [
        f"Unknown tier {name!r}: the platform has {known}." for name in parameters.tiers if name not in platform.tiers
    ]
    for name in parameters.replace:
        tier = tier_of(platform, name)
        if tier is None:
            wrong.append(f"--replace {name}: a machine's name is {platform.name}-TIER-NUMBER, with a tier of {known}.")
        elif parameters.tiers and tier not in parameters.tiers:
            wrong.append(f"--replace {name}: it belongs to tier {tier}, which was not asked for.")
    return wrong


def plan(platform: Platform, parameters: Parameters, facts: Facts) -> Plan:
    """Given the facts, return what remains until the tiers are as declared."""
    wanted = targets(platform, facts)
    tiers: Mapping[str, int] = {name: wanted[name] for name in parameters.tiers} if parameters.tiers else wanted
    if parameters.replace and not parameters.tiers:
        tiers = {name: wanted[name] for name in {tier_of(platform, machine) or "" for machine in parameters.replace}}
    remaining = plan_tiers(platform, facts, tiers, frozenset(parameters.replace))
    remaining = _with_out_of_reach(parameters, facts, remaining)
    missing = _not_there(platform, parameters, facts)
    if not missing:
        return remaining
    return replace(
        remaining, finding=f"Nothing to do: {'; '.join(missing)}.", notes=tuple(missing) if remaining.steps else ()
    )


def _with_out_of_reach(parameters: Parameters, facts: Facts, remaining: Plan) -> Plan:
    """Given a plan, return it with a refusal if a machine to be replaced is on a node that is offline.

    Such a machine counts for nothing, so nothing may remain but its removal, which cannot be planned.
    """
    hidden = {vm.name for vm in facts.cut_off} & {*parameters.replace}
    if not hidden or any(refusal.reference == "node-offline" for refusal in remaining.refusals):
        return remaining
    return replace(remaining, refusals=(*remaining.refusals, *gates.nodes(facts, ())))


def _not_there(platform: Platform, parameters: Parameters, facts: Facts) -> list[str]:
    """Given the machines to be replaced, return a remark on each that is not there: replaced already, or a slip."""
    remarks, seen = [], facts.machines.keys() | {vm.name for vm in facts.cut_off}
    for name in parameters.replace:
        if name not in seen:
            tier = tier_of(platform, name) or ""
            there = ", ".join(machine.name for machine in facts.of_tier(tier)) or "no machine"
            remarks.append(f"{name} is not there, it was replaced or another name was meant ({tier} has {there})")
    return remarks


def job(platform: Platform, parameters: Parameters, clients: Clients) -> Job:
    """Given a platform and its clients, return the job for the runner."""
    return Job(
        name="provision",
        platform=platform,
        observe=partial(observe, platform, clients),
        plan=partial(plan, platform, parameters),
        perform=partial(perform, platform, clients),
        change_record=clients.proxmox.change_record,
        cancel=clients.cancel,
    )
