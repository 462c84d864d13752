"""What was asked for, as people and Jenkins write it: counts of tiers, times, and files of parameters."""

import difflib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thems_jobs.core.events import Event
from thems_jobs.core.platform import Platform
from thems_jobs.documents import read_text
from thems_jobs.errors import UsageError
from thems_jobs.events_file import EVENT_NAME, NAME_WORDS, read_events, read_time
from thems_jobs.jobs import scale

REASON_LIMIT = 200  # characters; the record, which keeps it, holds 8192 in all


@dataclass(frozen=True)
class Asked:
    """The options of `scale` as they were written."""

    tier: tuple[str, ...] = ()
    until: str = ""
    event: str = ""
    reason: str = ""
    extend: str = ""
    end: str = ""
    expire: bool = False
    calendar: Path | None = None


def read_scale(platform: Platform, asked: Asked, by: str, now: float) -> scale.Parameters:
    """Given what was asked of `scale`, return it as the job takes it. Raise UsageError with every mistake in it."""
    wrong = _wrong_combination(asked)
    counts, wrong_counts = read_counts(asked.tier)
    wrong += wrong_counts
    until: float | None = None
    if asked.until:
        try:
            until = read_time(asked.until)
        except ValueError as error:
            wrong.append(f"--until: {error}.")
            until = now + 1  # so that it is not called missing as well
    events: tuple[Event, ...] | None = None
    if asked.calendar:
        try:
            events = read_events(asked.calendar)
        except UsageError as error:
            wrong += [f"{asked.calendar}: {sentence}" for sentence in error.mistakes]
    for option, name in (("event", asked.event), ("extend", asked.extend), ("end", asked.end)):
        if name and not EVENT_NAME.fullmatch(name):
            wrong.append(f"--{option}: found {name!r}, expected {NAME_WORDS}.")
    if len(asked.reason) > REASON_LIMIT:
        wrong.append(f"--reason: found {len(asked.reason)} characters, expected at most {REASON_LIMIT}.")
    parameters = scale.Parameters(
        tiers=counts or None, until=until, event=asked.event, reason=asked.reason, by=by, extend=asked.extend,
        end=asked.end, calendar=events, at=now,
    )  # fmt: skip
    wrong += scale.mistakes(platform, parameters, now)
    if wrong:
        raise UsageError("usage", "scale", wrong, "Nothing was changed.")
    return parameters


def _wrong_combination(asked: Asked) -> list[str]:
    """Given the options, return a sentence if they do not say one thing."""
    ways = {
        "--tier": bool(asked.tier), "--extend": bool(asked.extend), "--end": bool(asked.end),
        "--expire": asked.expire, "--calendar": asked.calendar is not None,
    }  # fmt: skip
    given = [option for option, there in ways.items() if there]
    if len(given) != 1:
        return [f"found {' and '.join(given) or 'none of these'}, expected one of {', '.join(ways)}."]
    if asked.until and given[0] not in ("--tier", "--extend"):
        return [f"--until: found with {given[0]}, expected with --tier or --extend."]
    if given[0] != "--tier" and (asked.event or asked.reason):
        return [f"--event and --reason: found with {given[0]}, expected with --tier."]
    return []


def read_counts(texts: Sequence[str]) -> tuple[dict[str, int], list[str]]:
    """Given `web=6` for each tier, return the counts, and a sentence for each that is none."""
    counts, wrong = dict[str, int](), list[str]()
    for text in texts:
        tier, equals, number = (part.strip() for part in text.partition("="))
        if not tier or not equals or not (number.isascii() and number.isdigit() and len(number) <= 6):
            wrong.append(f"--tier: found {text!r}, expected TIER=NUMBER, for example web=6.")
        elif tier in counts:
            wrong.append(f"--tier: found {tier} twice, expected once.")
        else:
            counts[tier] = int(number)
    return counts, wrong


def close_to(name: str, known: Collection[str]) -> str:
    """Given a name that is not known, return which one may have been meant, as a question, or ""."""
    close = difflib.get_close_matches(name, list(known), 1)
    return f" (did you mean {close[0]}?)" if close else ""


def read_parameters(path: Path, known: Mapping[str, str]) -> dict[str, Any]:
    """Given a JSON file with options by their long names, return them by the names the command uses.

    `known` maps the one to the other. What is null or empty was left out on the form and is left out here. Raise
    UsageError with every mistake.
    """
    try:
        data = json.loads(read_text(path, "file of parameters"))
    except (ValueError, RecursionError) as error:
        raise UsageError("usage", str(path), [f"this is not JSON: {error}."]) from error
    if not isinstance(data, dict):
        raise UsageError("usage", str(path), ['expected an object, for example {"tier": ["web=6"]}.'])
    values, wrong = dict[str, Any](), list[str]()
    for key, value in data.items():
        name = known.get(key.replace("_", "-"))
        if name is None:
            wrong.append(f"{key}: found an unknown name, expected one of {', '.join(known)}{close_to(key, known)}.")
        elif isinstance(value, dict) and name == "tier":
            values[name] = [f"{tier}={count}" for tier, count in value.items() if count not in (None, "")]
        elif isinstance(value, dict) or (isinstance(value, list) and any(isinstance(v, dict | list) for v in value)):
            wrong.append(f"{key}: found {json.dumps(value)[:60]}, expected a text, a number, true, false or a list.")
        elif value not in (None, "", []):
            values[name] = [str(item) for item in value] if isinstance(value, list) else value
    if wrong:
        raise UsageError("usage", str(path), wrong)
    return values
