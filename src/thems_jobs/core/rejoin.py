"""How a member of the database cluster comes back: with what it missed (IST), or with a copy of everything (SST)."""

import math
from dataclasses import dataclass
from typing import Literal

from thems_jobs.core.facts import Cluster, Member

# Assumed until a tier's own history is known: what a member applies, and what a donor copies over a 1 Gbit/s network.
IST_BYTES_S = 20 << 20
SST_BYTES_S = 50 << 20
START_S = 10.0  # from the start of the database until it asks for what it missed
USABLE_RATIO = 0.8  # of a gcache: it is a ring, and what lies across its end is lost
MIB = 1 << 20


@dataclass(frozen=True)
class Rejoin:
    """How a member will come back. Seconds and bytes are None where they cannot be known."""

    by: Literal["IST", "SST"]
    seconds: float | None
    bytes: int | None
    why: str


def forecast(cluster: Cluster, name: str, outage_s: float) -> Rejoin:
    """Given a member that will be away for so many seconds, or one that is to be added, return how it will come in.

    What is not known is taken for the worse.
    """
    others = {
        other: member for other, member in cluster.members.items() if other != name and isinstance(member, Member)
    }
    member = cluster.members.get(name)
    if not isinstance(member, Member):
        return _copy(others, "it has nothing of this cluster's data yet")
    if member.seqno is None:
        return _copy(others, "how far it has come is not told")
    rates = [m.write_bytes_s for m in (member, *others.values())]
    if not others or any(rate is None for rate in rates):
        return _copy(others, "how much is written is not told")
    written = int(max(rate for rate in rates if rate is not None) * outage_s)
    room = {other: _room(donor, member.seqno) for other, donor in others.items()}
    donor = max(room, key=lambda other: room[other])
    if written > room[donor]:
        return _copy(others, f"{_mib(written)} written in {outage_s:g} s, {_mib(room[donor])} kept by {donor}")
    seconds = START_S + written / IST_BYTES_S
    return Rejoin(
        "IST", seconds, written, f"{_mib(written)} written in {outage_s:g} s fit {_mib(room[donor])} of {donor}"
    )


@dataclass(frozen=True)
class Kept:
    """How far back the members' gcache reaches at the present write rate, and how large it must be for an outage."""

    seconds: float
    needed_mib: int


def kept(cluster: Cluster, outage_s: float) -> Kept | None:
    """Given how long a member may be away, return what the smallest gcache keeps; None where nobody writes, or it is
    not told."""
    members = [member for member in cluster.members.values() if isinstance(member, Member)]
    sizes = [member.gcache_bytes for member in members if member.gcache_bytes is not None]
    rate = max((member.write_bytes_s for member in members if member.write_bytes_s is not None), default=0.0)
    if not sizes or len(sizes) < len(members) or rate <= 0:
        return None
    return Kept(min(sizes) * USABLE_RATIO / rate, math.ceil(rate * outage_s / USABLE_RATIO / MIB))


def _room(donor: Member, seqno: int) -> int:
    """Given a donor, return the bytes it can keep for a member that leaves at seqno; 0 if it lacks that already."""
    if donor.gcache_bytes is None:
        return 0
    if donor.gcache_downto is not None and donor.gcache_downto > seqno + 1:
        return 0
    return int(donor.gcache_bytes * USABLE_RATIO)


def _copy(donors: dict[str, Member], why: str) -> Rejoin:
    sizes = [donor.data_bytes for donor in donors.values() if donor.data_bytes is not None]
    if not sizes:
        return Rejoin("SST", None, None, f"{why}; how much there is to copy is not known")
    return Rejoin("SST", START_S + max(sizes) / SST_BYTES_S, max(sizes), f"{why}; a copy of {_mib(max(sizes))}")


def _mib(size: int) -> str:
    return f"{size / MIB:.1f} MiB" if size < 100 * MIB else f"{size / MIB:,.0f} MiB"
