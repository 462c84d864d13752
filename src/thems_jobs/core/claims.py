"""Whose word counts about a claim: that of people, and that of the calendar. Times are unix seconds."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from thems_jobs.core.events import Event
from thems_jobs.core.record import Claim, Record, with_claim

CALENDAR = "calendar"  # who claims for an event of the calendar


def person(by: str) -> str:
    """Given who asked, as `person@host`, return the person: the same one on every host."""
    return by.partition("@")[0]


def named(claim: Claim) -> Claim:
    """Given a claim that nobody named, return it with a name: the same for the same wish of the same person alone."""
    who = re.sub(r"[^A-Za-z0-9]+", "-", person(claim.by))[:18].strip("-") or "claim"
    wish = f"{person(claim.by)} {sorted(claim.tiers.items())} {claim.until}"
    digest = hashlib.sha256(wish.encode("utf-8", "replace")).hexdigest()[:4]
    return replace(claim, name=f"{who}-{datetime.fromtimestamp(claim.until, UTC):%Y%m%dT%H%MZ}-{digest}")


def takes_away(wanted: Claim, held: Claim, now: float) -> bool:
    """True if a claim, put in the place of one that is live, would take from what somebody else claimed."""
    if held.until <= now or person(held.by) == person(wanted.by):
        return False
    return wanted.until < held.until or any(wanted.tiers.get(tier, 0) < count for tier, count in held.tiers.items())


def is_over(claim: Claim, now: float) -> bool:
    """True if nobody needs a claim any more. One that was ended early is kept until its event's own end."""
    return claim.until <= now and claim.event_until <= now


def follow(record: Record, events: Sequence[Event], now: float) -> Record:
    """Given the calendar, return the record with its claims as it says now.

    What nobody changed follows it: an event that was moved or cancelled ends. What a person changed is left alone
    until the calendar says something new about that event, which then only adds to it.
    """
    current = {event.name: event for event in events if event.begins_at <= now < event.ends_at}
    held = {claim.name: claim for claim in record.claims}
    for event in current.values():
        wanted, there = of_event(event), held.get(event.name)
        if there and there.by != CALENDAR:
            if there.event == wanted.event:
                continue
            if there.until > now:
                wanted = _added(there, wanted)
        if wanted != there:
            record = with_claim(record, wanted)
    left = [claim for claim in record.claims if claim.by == CALENDAR and claim.name not in current]
    for claim in left:
        record = with_claim(record, replace(claim, until=min(claim.until, now), event_until=0.0))
    return record


def of_event(event: Event) -> Claim:
    """Given an event, return the claim that the calendar makes for it."""
    said = f"{event.starts_at} {event.ends_at} {sorted(event.tiers.items())}"
    digest = hashlib.sha256(said.encode()).hexdigest()[:8]
    return Claim(event.name, event.tiers, event.ends_at, CALENDAR, event=digest, event_until=event.ends_at)


def _added(held: Claim, wanted: Claim) -> Claim:
    """Given a person's live claim and what the calendar wants, return the person's with the larger of each."""
    tiers = {
        tier: max(held.tiers.get(tier, 0), wanted.tiers.get(tier, 0)) for tier in sorted({*held.tiers, *wanted.tiers})
    }
    return replace(wanted, tiers=tiers, until=max(held.until, wanted.until), by=held.by, reason=held.reason)
