"""scale: claim capacity for an event, extend it, end it, and return to the baseline when it is over."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial

from thems_jobs.core.capacity import target
from thems_jobs.core.databases import is_database
from thems_jobs.core.events import Event
from thems_jobs.core.facts import Facts, Phase
from thems_jobs.core.fleet import plan_tiers
from thems_jobs.core.job import Done, Job
from thems_jobs.core.plan import Action, Plan, Refusal, Step
from thems_jobs.core.platform import Platform
from thems_jobs.core.record import Claim, Record, live_claims, with_claim, without_claims
from thems_jobs.errors import ThemsError
from thems_jobs.jobs.clients import Clients
from thems_jobs.jobs.observe import observe
from thems_jobs.jobs.perform import guarded, perform

WARN_AHEAD_S = 14 * 86400  # how long before an event it is said that it would not fit
CALENDAR = "calendar"  # who claims for an event of the calendar
CAPACITY = ("node-capacity", "storage-full", "addresses-used-up", "vmids-used-up", "database-connections")


@dataclass(frozen=True)
class Parameters:
    """What was asked for: a claim (`event`, `tiers`, `until`), an extension, an end, a calendar, or none of these.

    With none the claims that are over are taken out and the tiers return to their targets.
    """

    tiers: Mapping[str, int] | None = None
    until: float | None = None
    event: str = ""
    reason: str = ""
    by: str = ""
    extend: str = ""
    end: str = ""
    calendar: tuple[Event, ...] | None = None


def mistakes(platform: Platform, parameters: Parameters, now: float) -> list[str]:
    """Given parameters, return one sentence for each that cannot be meant."""
    wrong = []
    for path, tiers in [("--tier", parameters.tiers or {})] + [
        (f"event {event.name}", event.tiers) for event in parameters.calendar or ()
    ]:
        for name, count in tiers.items():
            if name not in platform.tiers:
                wrong.append(f"{path}: unknown tier {name!r}: the platform has {', '.join(platform.tiers)}.")
                continue
            tier = platform.tiers[name]
            if is_database(platform, name) and count % 2 == 0:
                wrong.append(f"{path}: {name}={count} is even: of a database cluster, a half is no majority.")
            if not tier.minimum <= count <= tier.maximum:
                wrong.append(f"{path}: {name}={count} is not from {tier.minimum} to {tier.maximum}, the tier's limits.")
    if (parameters.tiers or parameters.extend) and parameters.until is None:
        wrong.append("--until is missing: say when the event is over, for example --until 2026-12-01T23:00+01:00.")
    if parameters.until is not None and parameters.until <= now:
        wrong.append(f"--until {_time(parameters.until)} is in the past; it is {_time(now)} now.")
    return wrong


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")


def claims_after(parameters: Parameters, record: Record, now: float) -> tuple[Record, list[Step]]:
    """Given the record, return it with the claims as they were asked for, and the steps that write them so."""
    steps, wanted = [], dict[str, Claim]()
    if parameters.tiers and parameters.until:
        name = parameters.event or "event"
        wanted[name] = Claim(name, parameters.tiers, parameters.until, parameters.by, parameters.reason)
    held = {claim.name: claim for claim in record.claims}
    if parameters.extend in held and parameters.until:
        wanted[parameters.extend] = replace(held[parameters.extend], until=parameters.until)
    for event in parameters.calendar or ():
        if event.starts_at - event.lead_s <= now < event.ends_at:
            wanted[event.name] = Claim(event.name, event.tiers, event.ends_at, CALENDAR)
    for name, claim in wanted.items():
        if name not in held or (held[name].tiers, held[name].until) != (claim.tiers, claim.until):
            counts = " ".join(f"{tier}={count}" for tier, count in sorted(claim.tiers.items()))
            steps.append(Step(Action.CLAIM, name, note=f"{counts} until {_time(claim.until)}"))
            record = with_claim(record, claim)
    over = {claim.name for claim in record.claims if claim.until <= now or claim.name == parameters.end}
    if parameters.calendar is not None:
        known = {event.name for event in parameters.calendar}
        over |= {claim.name for claim in record.claims if claim.by == CALENDAR and claim.name not in known}
    steps += [Step(Action.CLAIM, name, note="ended") for name in sorted(over)]
    return without_claims(record, frozenset(over)), steps


def plan(platform: Platform, parameters: Parameters, facts: Facts) -> Plan:
    """Given the facts, return what remains until the tiers are at the targets that the claims ask for."""
    record, claiming = claims_after(parameters, facts.known_record, facts.at)
    live = live_claims(record, facts.at)
    tiers = {platform.balancing.web_tier} | {tier for claim in record.claims for tier in claim.tiers}
    tiers |= {tier for claim in facts.known_record.claims for tier in claim.tiers}
    wanted = {name: target(name, tier, live) for name, tier in platform.tiers.items()}
    tiers |= {name for name, count in wanted.items() if len(facts.of_tier(name)) > count}  # an ended claim left them
    targets = {name: wanted[name] for name in sorted(tiers & set(platform.tiers))}
    tiers_plan = plan_tiers(platform, _settled(facts), targets)
    first = frozenset(step.key for step in claiming)
    steps = tuple(
        replace(step, after=step.after | first) if step.action is not Action.RESTORE else step
        for step in tiers_plan.steps
    )
    refusals = tiers_plan.refusals + tuple(_unknown_claims(parameters, facts))
    warnings = (*tiers_plan.warnings, *_events_that_do_not_fit(platform, parameters, facts, record))
    return replace(tiers_plan, steps=(*claiming, *steps), refusals=refusals, warnings=warnings)


def _settled(facts: Facts) -> Facts:
    """Return the facts with every serving machine's configuration taken as it is: renewing it is provision's business.

    Before a show nothing is touched that serves well.
    """
    machines = {
        name: replace(machine, converged=facts.roles.get(machine.tier, ""))
        if machine.phase is Phase.SERVING and not machine.renewed
        else machine
        for name, machine in facts.machines.items()
    }
    return replace(facts, machines=machines)


def _unknown_claims(parameters: Parameters, facts: Facts) -> list[Refusal]:
    held = {claim.name for claim in facts.known_record.claims}
    return [
        Refusal("unknown-claim", name, "no such claim", f"one of {', '.join(sorted(held)) or 'none'}",
                "Look at thems-jobs status for the claims there are.")
        for name in [parameters.extend]
        if name and name not in held
    ]  # fmt: skip


def _events_that_do_not_fit(platform: Platform, parameters: Parameters, facts: Facts, record: Record) -> list[str]:
    """Given the calendar, return a sentence for every coming event that could not be given what it asks for."""
    warnings = []
    for event in parameters.calendar or ():
        if not facts.at < event.starts_at - event.lead_s <= facts.at + WARN_AHEAD_S:
            continue
        others = [claim for claim in record.claims if claim.until > event.starts_at]
        others += [
            Claim(other.name, other.tiers, other.ends_at, CALENDAR)
            for other in parameters.calendar or ()
            if other.starts_at - other.lead_s < event.ends_at and event.starts_at - event.lead_s < other.ends_at
        ]
        targets = {name: target(name, platform.tiers[name], others) for name in event.tiers}
        warnings += [
            f"Event {event.name} ({_time(event.starts_at)}) would not fit: {refusal}"
            for refusal in plan_tiers(platform, facts, targets).refusals
            if refusal.reference in CAPACITY
        ]
    return warnings


def _perform(
    platform: Platform, parameters: Parameters, clients: Clients, steps: Sequence[Step], facts: Facts
) -> Mapping[str, Done]:
    if steps[0].action is not Action.CLAIM:
        return perform(platform, clients, steps, facts)
    try:
        change = guarded(facts, lambda record: claims_after(parameters, record, facts.at)[0])
        record = clients.proxmox.change_record(change)
        return {step.key: Done(record=record) for step in steps}
    except ThemsError as error:
        return {step.key: Done(error) for step in steps}


def job(platform: Platform, parameters: Parameters, clients: Clients) -> Job:
    """Given a platform and its clients, return the job for the runner."""
    return Job(
        name="scale",
        platform=platform,
        observe=partial(observe, platform, clients),
        plan=partial(plan, platform, parameters),
        perform=partial(_perform, platform, parameters, clients),
        change_record=clients.proxmox.change_record,
        cancel=clients.cancel,
    )
