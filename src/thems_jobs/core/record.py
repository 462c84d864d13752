"""The platform's record: what the world itself cannot tell, in the description of one VM that never starts.

Proxmox compares the configuration's digest under its lock, so every change here is a compare-and-swap that all
agents on all hosts share. It holds 8192 characters (the limit of a VM's description), so it is kept terse.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

LIMIT = 8192
HEADING = "Record of platform {name}, kept by thems-jobs. Do not edit: it holds the lease and the claims."
_OWNER = re.compile(HEADING.partition("{")[0] + "(?P<platform>[^,{]+), kept by")


@dataclass(frozen=True)
class Lease:
    """Who may change the platform, until when (unix time)."""

    token: str
    holder: str
    until: float


@dataclass(frozen=True)
class Claim:
    """Capacity asked for: so many machines of these tiers from now to `until` (unix time).

    `event` is a digest of what the calendar last said about it, "" if it never did, and `event_until` the end of that
    event: so long it is known what a person did to the claim.
    """

    name: str
    tiers: Mapping[str, int]
    until: float
    by: str  # who spoke last
    reason: str = ""
    event: str = ""
    event_until: float = 0.0


@dataclass(frozen=True)
class Intent:
    """A machine about to be made: written before the clone is asked for."""

    vmid: int
    attempt: int
    at: float


@dataclass(frozen=True)
class Approved:
    """The plan somebody agreed to: its digest, and per kind of change the machines it may touch."""

    digest: str
    by: str
    at: float
    changes: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Record:
    """All of it. An empty description is an empty record."""

    lease: Lease | None = None
    claims: tuple[Claim, ...] = ()
    intents: Mapping[str, Intent] = field(default_factory=dict)
    approved: Approved | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)  # measured duration of each action, smoothed


def read(description: str, platform: str) -> Record:
    """Given the record VM's description and the platform's name, return the record.

    Raise ValueError if somebody else wrote there, or if it is the record of another platform.
    """
    owner = _OWNER.match(description)
    if owner and owner["platform"] != platform:
        raise ValueError(f"the record is of platform {owner['platform']}, not of {platform}")
    start = description.find("{")
    if start < 0:
        if description.strip():
            raise ValueError("the description of the record VM holds no record")
        return Record()
    try:
        data = json.loads(description[start:], parse_constant=_number)
        return Record(
            lease=_lease(data["lease"]) if "lease" in data else None,
            claims=tuple(_claim(**claim) for claim in data.get("claims", [])),
            intents={name: Intent(*map(_number, values)) for name, values in data.get("intents", {}).items()},
            approved=_approved(**data["approved"]) if "approved" in data else None,
            seconds={action: _number(value) for action, value in data.get("seconds", {}).items()},
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"the record cannot be read: {error}") from error


def _number(value: Any) -> Any:
    """Given a JSON value, return it if it is a finite number. Raise ValueError if not."""
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a finite number")
    return value


def _lease(data: dict[str, Any]) -> Lease:
    return Lease(str(data["token"]), str(data["holder"]), _number(data["until"]))


def _claim(
    name: str, tiers: dict[str, int], until: float, by: str, reason: str = "", event: str = "", event_until: float = 0.0
) -> Claim:
    counts = {tier: _number(count) for tier, count in tiers.items()}
    return Claim(str(name), counts, _number(until), str(by), str(reason), str(event), _number(event_until))


def _approved(digest: str, by: str, at: float, changes: dict[str, list[str]]) -> Approved:
    return Approved(str(digest), str(by), _number(at), {kind: tuple(names) for kind, names in changes.items()})


def write(record: Record, platform: str) -> str:
    """Given a record, return the description that holds it. Raise ValueError if it has grown over 8192 characters."""
    data: dict[str, object] = {}
    if record.lease:
        data["lease"] = asdict(record.lease)
    if record.claims:
        data["claims"] = [
            {
                key: value
                for key, value in asdict(claim).items()
                if value or key not in ("reason", "event", "event_until")
            }
            for claim in record.claims
        ]
    if record.intents:
        data["intents"] = {name: [i.vmid, i.attempt, int(i.at)] for name, i in record.intents.items()}
    if record.approved:
        data["approved"] = asdict(record.approved)
    if record.seconds:
        data["seconds"] = {action: round(value, 1) for action, value in record.seconds.items()}
    text = json.dumps(data, separators=(",", ":"), sort_keys=True, ensure_ascii=False)
    text = text.encode("utf-8", "replace").decode()  # half a character, which an argument may hold, has no UTF-8
    text = HEADING.format(name=platform) + "\n" + text
    if len(text) > LIMIT:
        raise ValueError(f"the record needs {len(text)} of {LIMIT} characters: end claims that are no longer needed")
    return text


def holds_lease(record: Record, token: str, now: float) -> bool:
    """True if the lease is this run's and has not ended."""
    return record.lease is not None and record.lease.token == token and record.lease.until > now


def release_lease(record: Record, token: str) -> Record:
    """Given our token, return the record without our lease; another's lease stays."""
    return replace(record, lease=None) if record.lease and record.lease.token == token else record


def with_claim(record: Record, claim: Claim) -> Record:
    """Given a claim, return the record with it in the place of any claim of the same name."""
    return replace(record, claims=(*(c for c in record.claims if c.name != claim.name), claim))


def without_claims(record: Record, names: frozenset[str]) -> Record:
    """Given names of claims, return the record without them."""
    return replace(record, claims=tuple(c for c in record.claims if c.name not in names))


def live_claims(record: Record, now: float) -> tuple[Claim, ...]:
    """Given the time, return the claims that have not ended."""
    return tuple(claim for claim in record.claims if claim.until > now)


def smooth(old: float | None, new: float) -> float:
    """Given the remembered seconds and a new measurement, return what to remember (half each)."""
    return new if old is None else (old + new) / 2
