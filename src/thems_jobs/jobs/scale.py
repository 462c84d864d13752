"""scale: claim capacity for an event, extend it, end it, and return to the baseline when it is over."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial

from thems_jobs.core import claims
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
CAPACITY = ("node-capacity", "storage-full", "addresses-used-up", "vmids-used-up", "database-connections")


@dataclass(frozen=True)
class Parameters:
    """What was asked for: a claim (`event`, `tiers`, `until`), an extension, an end, a calendar, or none of these.

    With none the claims that are over are taken out and the tiers return to their targets. `at` is when it was asked:
    what begins or ends while the run is at work is for the next one. 0: whenever somebody looks.
    """

    tiers: Mapping[str, int] | None = None
    until: float | None = None
    event: str = ""
    reason: str = ""
    by: str = ""
    extend: str = ""
    end: str = ""
    calendar: tuple[Event, ...] | None = None
    at: float = 0.0


def mistakes(platform: Platform, parameters: Parameters, now: float) -> list[str]:
    """Given parameters, return one sentence for each that cannot be meant. An event that is over asks for nothing."""
    wrong = []
    for path, tiers in [("--tier", parameters.tiers or {})] + [
        (f"event {event.name}", event.tiers) for event in parameters.calendar or () if event.ends_at > now
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
    after = _asked(parameters, record, now)
    if parameters.calendar is not None:
        after = claims.follow(after, parameters.calendar, now)
    over = frozenset(claim.name for claim in after.claims if claims.is_over(claim, now))
    after = without_claims(after, over)
    old, new = _by_name(record), _by_name(after)
    changed = [name for name in {**new, **old} if old.get(name) != new.get(name)]
    steps = [Step(Action.CLAIM, name, note=_note(old.get(name), new.get(name), now)) for name in changed]
    return after, sorted(steps, key=lambda step: step.target in over)


def _by_name(record: Record) -> dict[str, Claim]:
    return {claim.name: claim for claim in record.claims}


def _wanted(parameters: Parameters) -> Claim | None:
    """Given the parameters, return the claim that was asked for, if one was."""
    if not parameters.tiers or not parameters.until:
        return None
    claim = Claim(parameters.event, parameters.tiers, parameters.until, parameters.by, parameters.reason)
    return claim if claim.name else claims.named(claim)


def _asked(parameters: Parameters, record: Record, now: float) -> Record:
    """Given what a person asked for, return the record with that. It tells whose word it is, and keeps the event."""
    held = _by_name(record)
    if wanted := _wanted(parameters):
        there = held.get(wanted.name)
        if there is None:
            return with_claim(record, wanted)
        same = (there.tiers, there.until) == (wanted.tiers, wanted.until) and there.by != claims.CALENDAR
        if same or claims.takes_away(wanted, there, now):
            return record
        return with_claim(record, replace(wanted, event=there.event, event_until=there.event_until))
    extended, ended = held.get(parameters.extend), held.get(parameters.end)
    if extended and parameters.until and extended.until != parameters.until:
        return with_claim(record, replace(extended, until=parameters.until, by=parameters.by))
    if ended and ended.until > now:
        return with_claim(record, replace(ended, until=now, by=parameters.by))
    return record


def _note(old: Claim | None, new: Claim | None, now: float) -> str:
    """Given a claim before and after, return what becomes of it, and what of somebody's is changed by that."""
    was = f"{_ask(old)} by {old.by}" if old and old.until > now else ""
    if new is None or new.until <= now:
        return f"ended, was {was}" if was else "ended"
    return f"{_ask(new)}, was {was}" if old and was and _ask(old) != _ask(new) else _ask(new)


def _ask(claim: Claim) -> str:
    counts = " ".join(f"{tier}={count}" for tier, count in sorted(claim.tiers.items()))
    return f"{counts} until {_time(claim.until)}"


def plan(platform: Platform, parameters: Parameters, facts: Facts) -> Plan:
    """Given the facts, return what remains until the tiers are at the targets that the claims ask for."""
    asked = _as_asked(parameters, facts)
    record, claiming = claims_after(parameters, facts.known_record, asked.at)
    live = live_claims(record, asked.at)
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
    refusals = tiers_plan.refusals + tuple(_claims_refused(parameters, asked))
    warnings = (*tiers_plan.warnings, *_events_that_do_not_fit(platform, parameters, asked, record))
    remarks, written = _remarks(parameters, asked, record), {step.target for step in claiming}
    remain = [f"{claim.name}: {_ask(claim)} by {claim.by} remains" for claim in live if claim.name not in written]
    return replace(
        tiers_plan, steps=(*claiming, *steps), refusals=refusals, warnings=warnings,
        finding=f"Nothing to do: {'; '.join(remarks)}." if remarks else "",
        notes=(*(remarks if claiming or steps else ()), *remain),
    )  # fmt: skip


def _as_asked(parameters: Parameters, facts: Facts) -> Facts:
    """Return the facts as of the time by which claims and events are to be judged."""
    return replace(facts, at=parameters.at or facts.at)


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


def _claims_refused(parameters: Parameters, facts: Facts) -> list[Refusal]:
    """Given the parameters, return why the claim they are about cannot be changed so."""
    held = _by_name(facts.known_record)
    refusals = []
    if parameters.extend and parameters.extend not in held:
        refusals.append(
            Refusal("unknown-claim", parameters.extend, "no such claim", f"one of {', '.join(sorted(held)) or 'none'}",
                    "Look at thems-jobs status for the claims there are.")
        )  # fmt: skip
    wanted = _wanted(parameters)
    there = held.get(wanted.name) if wanted else None
    if wanted and there and claims.takes_away(wanted, there, facts.at):
        refusals.append(
            Refusal("claim-of-another", f"claim {there.name}", f"{_ask(there)}, by {there.by}",
                    f"nothing less than that, and no earlier end, from {wanted.by}",
                    "Claim under another name (--event): the larger number counts. Who agrees with them that theirs is "
                    f"over ends it after that: thems-jobs scale --end {there.name}.")
        )  # fmt: skip
    return refusals


def _remarks(parameters: Parameters, facts: Facts, record: Record) -> list[str]:
    """Given the claims before (facts) and after, return what was asked for and is not done, though nothing is wrong."""
    live = _by_name(Record(claims=live_claims(facts.known_record, facts.at)))
    remarks = []
    if parameters.end and parameters.end not in live:
        there = f"there are {', '.join(sorted(live))}" if live else "there is none"
        remarks.append(f"no claim {parameters.end} is live, it has ended or another name was meant ({there})")
    after = _by_name(record)
    for event in parameters.calendar or ():
        there_is = after.get(event.name)
        if not event.begins_at <= facts.at < event.ends_at or not there_is or there_is.by == claims.CALENDAR:
            continue
        asked = _ask(claims.of_event(event))
        if there_is.until <= facts.at:
            remarks.append(f"{event.name} was ended by {there_is.by}, the calendar asks for {asked}")
        elif _ask(there_is) != asked:
            remarks.append(f"{event.name} is {_ask(there_is)} by {there_is.by}, the calendar asks for {asked}")
    return remarks


def _events_that_do_not_fit(platform: Platform, parameters: Parameters, facts: Facts, record: Record) -> list[str]:
    """Given the calendar, return a sentence for every coming event that could not be given what it asks for.

    What counts is what is claimed, and asked for by other events, when its machines are to be made.
    """
    warnings = []
    for event in parameters.calendar or ():
        if not facts.at < event.begins_at <= facts.at + WARN_AHEAD_S:
            continue
        others = [*live_claims(record, event.begins_at)]
        others += [
            claims.of_event(other)
            for other in parameters.calendar or ()
            if other != event and facts.at < other.begins_at <= event.begins_at < other.ends_at
        ]
        asked = [claims.of_event(event), *others]
        targets = {name: target(name, tier, asked) for name, tier in platform.tiers.items()}
        beside = f" beside {', '.join(sorted({other.name for other in others} - {event.name}))}" if others else ""
        warnings += [
            f"Event {event.name} ({_time(event.starts_at)}) would not fit{beside}: {refusal}"
            for refusal in plan_tiers(platform, _without_leaving(platform, facts, targets), targets).refusals
            if refusal.reference in CAPACITY
        ]
    return warnings


def _without_leaving(platform: Platform, facts: Facts, targets: Mapping[str, int]) -> Facts:
    """Return the facts as they are when what the targets do not ask for is gone, and its room is free."""
    changes = plan_tiers(platform, facts, targets).changes
    gone = {change.machine for change in changes if change.kind == "remove"}
    machines = {name: machine for name, machine in facts.machines.items() if name not in gone}
    return replace(facts, machines=machines)


def _perform(
    platform: Platform, parameters: Parameters, clients: Clients, steps: Sequence[Step], facts: Facts
) -> Mapping[str, Done]:
    if steps[0].action is not Action.CLAIM:
        return perform(platform, clients, steps, facts)
    try:
        at = _as_asked(parameters, facts).at
        change = guarded(facts, lambda record: claims_after(parameters, record, at)[0])
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
