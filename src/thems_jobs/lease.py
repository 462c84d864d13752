"""The lease of a run: taken in the platform's record, kept while the run works, given back at its end."""

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace

from thems_jobs.clock import Clock
from thems_jobs.core.record import Approved, Lease, Record, holds_lease, release_lease, smooth
from thems_jobs.errors import LeaseLost, ThemsError

log = logging.getLogger(__name__)

MARGIN_S = 5.0  # a lease that ends sooner than this is no longer relied on
RETRY_S = 2.0  # between attempts to renew it: the record's node may be away, and asking faster brings it back no sooner


@dataclass
class HeldLease:
    """One run's hold on the platform. `lost` says why nothing more may be started; None while all is well."""

    change_record: Callable[[Callable[[Record], Record]], Record]
    clock: Clock
    token: str
    holder: str
    lease_s: float
    is_over: Callable[[str], bool]  # whether the run of a token is certainly dead
    until: float = 0.0  # 0: it was not taken yet
    being_taken: bool = False  # what takes it may hang, and land late
    renewal: "Future[Record] | None" = None  # under way
    trouble: str = ""  # why the last one failed
    tried_at: float = 0.0  # when it was last tried to renew it
    found: Record | None = None  # the record as it was when the lease was taken
    record: Record | None = None  # and as it was written then
    lost: ThemsError | None = None

    def of_another(self, record: Record) -> Lease | None:
        """Given the record, return the lease of another run that is, as far as can be known, alive."""
        lease = record.lease
        if lease is None or lease.token == self.token or lease.until <= self.clock.now():
            return None
        return None if self.is_over(lease.token) else lease

    def take(self, approved: Approved) -> Lease | None:
        """Given what was approved, write it with our lease; return the lease of another run if there is one."""
        others: list[Lease] = []

        def change(record: Record) -> Record:
            self.found = record
            others[:] = [lease for lease in [self.of_another(record)] if lease]
            if others:
                return record
            until = self.clock.now() + self.lease_s
            return replace(record, lease=Lease(self.token, self.holder, until), approved=approved)

        self.being_taken = True
        try:
            record = self.change_record(change)
        finally:
            self.being_taken = False
        if not others and record.lease:
            self.until, self.record = record.lease.until, record
        return others[0] if others else None

    @property
    def renew_at(self) -> float:
        """When `keep` has something to do next: half of it is over, and the last attempt is a moment ago."""
        return self.until - MARGIN_S if self.renewal else max(self.until - self.lease_s / 2, self.tried_at + RETRY_S)

    def forget_the_dead(self, is_finished: Callable[[Approved], bool]) -> None:
        """Take out of the record what a run left that died when all was done: its lease, and its finished approval."""

        def change(record: Record) -> Record:
            if self.of_another(record):
                return record
            approved = record.approved
            return replace(record, lease=None, approved=None if approved and is_finished(approved) else approved)

        try:
            self.change_record(change)
        except ThemsError as error:
            log.warning("What a dead run left in the record stays there: %s", error)

    def keep(self) -> None:
        """Renew the lease when half of it is over, beside all else. Lost, `lost` says so and nothing may be started.

        Only when the lease is about to end is the answer waited for, and no longer than RETRY_S.
        """
        if self.lost or not self.until:
            return
        self._take_in()
        now = self.clock.now()
        if self.renewal is None and now >= self.renew_at:
            self.tried_at = now
            self.renewal = self.clock.detach(self._renew)
        if self.renewal and not self.renewal.done() and now >= self.until - MARGIN_S:
            self.clock.wait([self.renewal], RETRY_S)
        self._take_in()
        if not self.lost and self.clock.now() >= self.until - MARGIN_S:
            why = self.trouble or "The platform's record does not answer."
            self.lost = LeaseLost("lease", f"it could not be renewed in time: {why}", "Run the command again.")

    def _renew(self) -> Record:
        until = self.tried_at + self.lease_s

        def change(record: Record) -> Record:
            if not record.lease or record.lease.token != self.token:
                holder = record.lease.holder if record.lease else "nobody"
                raise LeaseLost(
                    "lease", f"it is held by {holder} now.", "Let that run end, then run this command again."
                )
            return replace(record, lease=replace(record.lease, until=until))

        return self.change_record(change)

    def _take_in(self) -> None:
        """If the renewal that was under way has ended, note how."""
        if self.renewal is None or not self.renewal.done():
            return
        renewal, self.renewal = self.renewal, None
        try:
            renewal.result()
            self.until, self.trouble = self.tried_at + self.lease_s, ""
        except LeaseLost as error:
            self.lost = error
        except ThemsError as error:
            self.trouble = str(error)
            log.warning("The lease could not be renewed: %s", error)

    def give_back(self, done: bool, measured: Mapping[str, float]) -> None:
        """Give the lease back, with the seconds that actions took; a run that converged ends its approval."""

        def change(record: Record) -> Record:
            if holds_lease(record, self.token, self.clock.now()):
                seconds = {a: round(smooth(record.seconds.get(a), s), 1) for a, s in measured.items()}
                approved = None if done else record.approved
                record = replace(record, seconds={**record.seconds, **seconds}, approved=approved)
            return release_lease(record, self.token)

        try:
            self.change_record(change)
        except ThemsError as error:
            log.warning("The lease could not be given back, it ends by itself: %s", error)
