"""What the calendar of events says."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    """A time for which tiers need so many machines. Times are unix seconds.

    The machines are asked for `lead_s` seconds before the start, so that all of them serve when it begins.
    """

    name: str
    starts_at: float
    ends_at: float
    tiers: Mapping[str, int]
    lead_s: float

    @property
    def begins_at(self) -> float:
        """When its machines are asked for."""
        return self.starts_at - self.lead_s
