"""What a member told in the last seconds: a window between two samples may have begun with an earlier look.

A run looks at the cluster before and after each step. With what it saw before, it need not wait for a window each
time, and nothing that happened between two looks goes unseen.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from thems_jobs.clients.mysql.wire import Row

COUNTERS = ("Uptime", "wsrep_flow_control_paused_ns", "wsrep_replicated_bytes", "wsrep_received_bytes")


@dataclass(frozen=True)
class Sample:
    """Status and sessions of a member at one moment, in seconds of a clock that never goes back."""

    at: float
    status: Mapping[str, str]
    sessions: Sequence[Row]


@dataclass
class History:
    """What one member told in the last seconds, oldest first; a queue of None is a moment at which it was not told."""

    kept_s: float
    samples: list[Sample] = field(default_factory=list)
    queues: list[tuple[float, int | None]] = field(default_factory=list)

    def begin(self, now: Sample, window_s: float) -> Sample:
        """Given a sample of now, return the one that the window begins with: `now` where none before is of use.

        It is the latest of those that are a window old. Older ones are forgotten, as all are when counters were set
        back, by a restart or by FLUSH STATUS.
        """
        if self.samples and not _goes_on(self.samples[-1].status, now.status):
            self.samples, self.queues = [], []
        kept_since = now.at - self.kept_s
        self.samples = [sample for sample in self.samples if sample.at >= kept_since]
        self.queues = [poll for poll in self.queues if poll[0] >= kept_since]
        return max((s for s in self.samples if now.at - s.at >= window_s), key=lambda s: s.at, default=now)

    def mean_queue(self, since: float) -> float | None:
        """Return the mean length of the receive queue since then, None if it was not told every time."""
        seen = [queue for at, queue in self.queues if at >= since]
        known = [queue for queue in seen if queue is not None]
        return fmean(known) if known and len(known) == len(seen) else None


def _goes_on(before: Mapping[str, str], now: Mapping[str, str]) -> bool:
    """True if no counter is lower than it was."""
    pairs = [(before.get(name, ""), now.get(name, "")) for name in COUNTERS]
    return all(first.isdigit() and last.isdigit() and int(first) <= int(last) for first, last in pairs)
