"""Reads times as people write them, and the calendar of events."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import TypeAdapter

from thems_jobs.core.events import Event
from thems_jobs.core.platform import Mistake
from thems_jobs.documents import path_of, read_document, typed

EVENT_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,39}$")
NAME_WORDS = "at most 40 letters, digits, dots, dashes and underscores"
TIME_WORDS = "a time with its zone, for example 2026-12-01T18:00+01:00 or 2026-12-01T17:00Z"
SECONDS = {"m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True)
class Entry:
    """An event as the file has it. `lead` is how long before the start its machines are asked for."""

    name: str
    start: str
    end: str
    tiers: dict[str, int]
    lead: str = "1h"
    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012 - pydantic reads it from here


def read_time(text: str) -> float:
    """Given a time with a zone, return it in unix seconds. Raise ValueError that says what is wrong with it."""
    try:
        time = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError(f"found {text!r}, expected {TIME_WORDS}") from None
    if time.tzinfo is None:
        raise ValueError(f"found {text!r}, which has no zone, expected {TIME_WORDS}")
    try:
        return time.astimezone(UTC).timestamp()
    except OverflowError:  # in UTC it is before the year 1, or after 9999
        raise ValueError(f"found {text!r}, expected {TIME_WORDS}") from None


def read_duration(text: str) -> float:
    """Given 30m, 12h or 2d, return seconds. Raise ValueError if it is none of these."""
    match = re.fullmatch(r"\s*(\d{1,5})\s*([mhd])\s*", text)
    if not match:
        raise ValueError(f"found {text!r}, expected minutes, hours or days, for example 30m, 12h or 2d")
    return float(match[1]) * SECONDS[match[2]]


def read_events(path: Path) -> tuple[Event, ...]:
    """Given a calendar file, return its events, earliest first. Raise UsageError with all of its mistakes."""
    document = read_document(path, "calendar")
    entries = typed(document, TypeAdapter(list[Entry]), list[Entry])
    events, sentences, names = list[Event](), list[str](), set[str]()

    def wrong(index: int, key: str, found: str, expected: str) -> None:
        place = (index, key)
        sentences.append(document.where(Mistake(path_of(place), found, expected), place))

    for index, entry in enumerate(entries):
        if not EVENT_NAME.fullmatch(entry.name):
            wrong(index, "name", repr(entry.name), NAME_WORDS)
        if entry.name in names:
            wrong(index, "name", repr(entry.name), "a name that no other event has")
        names.add(entry.name)
        if not entry.tiers:
            wrong(index, "tiers", "no tier", "at least one, for example {web: 6}")
        values = {}
        for key, read in (("start", read_time), ("end", read_time), ("lead", read_duration)):
            try:
                values[key] = read(getattr(entry, key))
            except ValueError as error:
                found, _, expected = str(error).removeprefix("found ").partition(", expected ")
                wrong(index, key, found, expected)
        if "start" in values and "end" in values and values["end"] <= values["start"]:
            wrong(index, "end", repr(entry.end), f"a time after the start, {entry.start}")
        if len(values) == 3:
            events.append(Event(entry.name, values["start"], values["end"], entry.tiers, values["lead"]))
    if sentences:
        raise document.wrong(sentences)
    return tuple(sorted(events, key=lambda event: event.starts_at))
