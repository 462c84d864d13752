"""What one run keeps in mind while it works: what is under way, what ended and how. It may all be lost."""

import math
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import TypeVar

from thems_jobs.clock import Clock, answer_of
from thems_jobs.core.facts import Facts
from thems_jobs.core.job import Done, Job
from thems_jobs.core.outcome import StepRun
from thems_jobs.core.plan import Plan, Step, expected_s
from thems_jobs.errors import ThemsError, Transient
from thems_jobs.lease import HeldLease

T = TypeVar("T")
ATTEMPTS = 5  # of one effect that fails in a way worth looking again
BACKOFF_S = 1.0  # before the second attempt, then doubled


@dataclass(frozen=True)
class Options:
    """How this run was asked for. `approve` is asked once, with the plan, before anything is changed."""

    command: str  # to be shown, and run again, as it stands
    started_by: str
    approve: Callable[[Plan, Facts], bool]
    token: str  # identifies this run in the lease
    is_over: Callable[[str], bool] = lambda _token: False  # whether the run of a token is certainly dead
    expect_plan: str = ""
    scheduled: bool = False  # nobody waits for it: a held lease is no refusal


@dataclass
class Run:
    """One run: its job, and how far it is."""

    job: Job
    clock: Clock
    options: Options
    on_step: Callable[[StepRun], None]
    measured: Mapping[str, float] = field(default_factory=dict)
    calls: dict["Future[dict[str, Done]]", tuple[Step, ...]] = field(default_factory=dict)
    runs: dict[str, StepRun] = field(default_factory=dict)
    ended: list[StepRun] = field(default_factory=list)
    attempts: dict[str, int] = field(default_factory=dict)
    went_well: dict[str, int] = field(default_factory=dict)
    not_before: dict[str, float] = field(default_factory=dict)
    failed: dict[str, ThemsError] = field(default_factory=dict)
    closed_since: float = 0.0
    before: Facts | None = None
    facts: Facts | None = None  # the latest

    def __post_init__(self) -> None:
        self.lease = HeldLease(
            self.job.change_record, self.clock, self.options.token, self.options.started_by,
            self.job.platform.timeouts.lease_s, self.options.is_over,
        )  # fmt: skip

    @property
    def begun(self) -> bool:
        """True if something was done, or is under way and will have been done."""
        return bool(self.ended or self.calls)

    def ask(self, question: Callable[[], T]) -> T:
        """Given a question that may hang, return its answer, and keep the lease meanwhile.

        Raise Stopped if a stop is asked for before the answer is there, LeaseLost if the lease is lost before.
        """
        return answer_of(self.clock, question, self.hold)

    def hold(self) -> None:
        """Keep the lease, if there is one. Raise LeaseLost if it is lost."""
        self.lease.keep()
        if self.lease.lost:
            raise self.lease.lost

    def begin(self, step: Step) -> None:
        seconds, assumed = expected_s(step, self.measured)
        attempt = self.attempts.get(step.key, 0) + 1
        run = StepRun(
            step.key, str(step.action), step.target, step.node, seconds, assumed, self.clock.now(),
            detail=f"attempt {attempt}" if attempt > 1 else step.wait.reason if step.wait else "",
        )  # fmt: skip
        self.runs[step.key] = run
        self.on_step(run)

    def end(self, step: Step, error: ThemsError | None, outcome: str = "", told: str = "") -> None:
        """Note that a step ended; a transient error earns it another attempt, any other ends it for this run."""
        run, now = self.runs.pop(step.key, None), self.clock.now()
        if error:
            attempts = self.attempts[step.key] = self.attempts.get(step.key, 0) + 1
            if isinstance(error, Transient) and attempts < ATTEMPTS:
                self.not_before[step.key] = now + BACKOFF_S * math.pow(2, attempts - 1)
            else:
                self.failed[step.key] = error
        elif not outcome:
            times = self.went_well[step.key] = self.went_well.get(step.key, 0) + 1
            self.not_before[step.key] = now + (BACKOFF_S * math.pow(2, times - 2) if times > 1 else 0)
        if run:
            outcome = outcome or ("failed" if error else "ok")
            detail = str(error) if error else run.detail
            self.ended.append(replace(run, ended_at=now, outcome=outcome, detail=detail, told=told))
            self.on_step(self.ended[-1])

    def take_ended(self) -> list[tuple[Step, Done]]:
        """Return the steps whose calls have ended since, noted as ended, and what became of each."""
        results = []
        for call in [call for call in self.calls if call.done()]:
            for step in self.calls.pop(call):
                done = call.result().get(step.key) or Done()
                self.end(step, done.error, told=done.told)
                results.append((step, done))
        return results
