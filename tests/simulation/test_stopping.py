"""The runner on the machine's own clock: what hangs, a stop, and a lease that is lost while effects are under way."""

import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pytest
from schedules import make_platform

from thems_jobs import ending, lease
from thems_jobs.clock import SystemClock
from thems_jobs.core.facts import Facts
from thems_jobs.core.job import Done, Job, Look
from thems_jobs.core.outcome import Exit, Outcome
from thems_jobs.core.plan import Action, Change, Plan, Refusal, Step
from thems_jobs.core.record import Lease, Record
from thems_jobs.errors import EffectFailed, Refused, ThemsError
from thems_jobs.runner import Options, run
from waiting import eventually

LEASE_S = 3.0
FIRST, SECOND = Step(Action.CONVERGE, "shop-web-3"), Step(Action.CONVERGE, "shop-web-4")
CHANGES = (Change("make", "shop-web-3", "", ""), Change("make", "shop-web-4", "", ""))


@dataclass
class Place:
    """A platform of two steps whose calls can be made to hang. It notes what is done, and is let go at the end."""

    steps: tuple[Step, ...] = (FIRST,)
    refusals: tuple[Refusal, ...] = ()
    record: Record = field(default_factory=Record)
    hangs: Callable[[str], bool] = lambda _call: False  # given a call: look, record or effect
    fails: ThemsError | None = None  # what looking says once an effect is under way
    stopped_at: float = 0.0
    calls: list[str] = field(default_factory=list)
    landed: list[tuple[str, bool]] = field(default_factory=list)  # steps, and whether the lease was valid then

    def __post_init__(self) -> None:
        self.clock, self.let_go, self.cancelled = SystemClock(), threading.Event(), threading.Event()
        platform = make_platform(random.Random(1))
        self.platform = replace(platform, timeouts=replace(platform.timeouts, lease_s=LEASE_S))

    def call(self, what: str) -> None:
        self.calls.append(what)
        if self.hangs(what):
            self.let_go.wait(60)

    def count(self, what: str) -> int:
        return self.calls.count(what)

    def observe(self, _before: Facts | None, _look: Look) -> Facts:
        self.call("look")
        if self.fails and self.count("effect"):
            raise self.fails
        return Facts(self.clock.now(), self.record)

    def plan(self, _facts: Facts) -> Plan:
        landed = {key for key, _ in self.landed}
        return Plan(tuple(step for step in self.steps if step.key not in landed), self.refusals, CHANGES)

    def perform(self, steps: Sequence[Step], _facts: Facts) -> Mapping[str, Done]:
        self.call("effect")
        held = self.record.lease
        self.landed += [(step.key, held is not None and held.until > time.time()) for step in steps]
        return {step.key: Done() for step in steps}

    def change_record(self, change: Callable[[Record], Record]) -> Record:
        self.call("record")
        self.record = change(self.record)
        return self.record

    def run(self, scheduled: bool = False) -> Outcome:
        job = Job("made up", self.platform, self.observe, self.plan, self.perform, self.change_record, self.cancel)
        options = Options("command", "anna", lambda _plan, _facts: True, "ours", scheduled=scheduled)
        return run(job, self.clock, options, lambda _step: None)

    def cancel(self) -> None:
        self.cancelled.set()

    def stop_when(self, true: Callable[[], object]) -> threading.Thread:
        """Ask the run to stop a moment after something is true."""

        def stop() -> None:
            eventually(true, "what the stop waits for", 20)
            time.sleep(0.1)
            self.stopped_at = time.time()
            self.clock.stop()

        thread = threading.Thread(target=stop)
        thread.start()
        return thread


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """Return a place where all that takes seconds takes less."""
    monkeypatch.setattr(ending, "STOP_S", 0.5)
    monkeypatch.setattr(ending, "GIVE_BACK_S", 0.3)
    monkeypatch.setattr(lease, "MARGIN_S", 0.5)
    monkeypatch.setattr(lease, "RETRY_S", 0.2)
    made = Place()
    yield made
    made.let_go.set()
    made.clock.close()


HANGING: dict[str, Callable[[Place, str], bool]] = {
    "the first look": lambda place, what: what == "look" and not place.count("record"),
    "the record, when the lease is taken": lambda place, what: what == "record" and not place.count("effect"),
    "the look under the lease": lambda place, what: what == "look" and place.count("record") > 0,
    "a look while an effect is under way": lambda place, what: what == "look" and place.count("effect") > 0,
    "an effect": lambda place, what: what == "effect" and not place.landed,
    "the record, when the lease is given back": lambda place, what: what == "record" and bool(place.landed),
    "the record, from the effect on": lambda place, what: what != "look" and place.count("effect") > 0,
    "the look after the run": lambda place, what: what == "look" and place.count("record") > 1,
}


@pytest.mark.parametrize("what", HANGING)
def test_whatever_hangs_a_stop_is_soon_and_nothing_new_is_begun(place: Place, what: str) -> None:
    hung = threading.Event()

    def hangs(call: str) -> bool:
        if HANGING[what](place, call):
            hung.set()
            return True
        return False

    place.hangs = hangs
    stopping = place.stop_when(hung.is_set)
    outcome = place.run()
    ended_at, effects = time.time(), place.count("effect")
    stopping.join()
    assert outcome.exit is Exit.ABORTED, outcome.message
    assert ended_at - place.stopped_at < 5, "STOP_S, GIVE_BACK_S and a busy machine"
    held, begun = place.record.lease, "effect" in what
    if not place.landed and not begun:
        assert "nothing was changed" in outcome.message
        assert effects == 0
    if what in ("the look under the lease", "a look while an effect is under way", "the look after the run"):
        assert held is None, "nothing was under way any more"
    if what in ("an effect", "the record, from the effect on"):
        assert held is not None, "it may still land"
        assert [step.outcome for step in outcome.steps] == ["aborted"]
    place.let_go.set()
    time.sleep(0.2)
    assert place.count("effect") == effects


def test_what_waits_for_its_turn_is_not_begun_after_a_stop(place: Place) -> None:
    place.clock, place.steps = SystemClock(workers=1), (FIRST, SECOND)
    place.hangs = lambda what: what == "effect"
    stopping = place.stop_when(lambda: place.count("effect"))
    assert place.run().exit is Exit.ABORTED
    stopping.join()
    place.let_go.set()
    eventually(lambda: place.landed, "what hung goes on", 10)
    time.sleep(0.3)
    assert [key for key, _ in place.landed] == [FIRST.key]


def test_a_look_that_fails_for_good_lets_effects_end_under_the_lease(place: Place) -> None:
    """The effect takes longer than a lease lasts."""
    place.fails = Refused("privilege-missing", "cluster/tasks", "Permission check failed.")
    place.hangs = lambda what: what == "effect"
    threading.Timer(LEASE_S * 1.3, place.let_go.set).start()
    outcome = place.run()
    assert outcome.exit is Exit.HALTED, "something was changed"
    assert [refusal.reference for refusal in outcome.refusals] == ["privilege-missing"]
    assert place.landed == [(FIRST.key, True)]
    assert [step.outcome for step in outcome.steps] == ["ok"]
    assert place.record.lease is None
    assert not place.cancelled.is_set()


def test_a_stop_is_noticed_while_effects_are_let_end(place: Place) -> None:
    place.fails, place.hangs = EffectFailed("nodes/pve1", "no."), lambda what: what == "effect"
    threading.Thread(target=lambda: (place.cancelled.wait(30), place.let_go.set())).start()
    stopping = place.stop_when(lambda: place.count("look") > 2)  # the one that failed
    outcome = place.run()
    stopping.join()
    assert outcome.exit is Exit.ABORTED
    assert [refusal.reference for refusal in outcome.refusals] == ["effect-failed"]
    assert place.cancelled.is_set()
    assert place.landed == [(FIRST.key, True)]
    assert place.record.lease is None


def test_a_run_that_lost_its_lease_cancels_what_it_has_under_way(place: Place) -> None:
    theirs = Lease("theirs", "bert@jenkins", time.time() + 1000)
    place.hangs = lambda what: what == "effect"

    def take_over() -> None:
        eventually(lambda: place.count("effect"), "an effect is under way", 20)
        place.record = replace(place.record, lease=theirs)
        place.cancelled.wait(30)
        place.let_go.set()

    threading.Thread(target=take_over).start()
    outcome = place.run()
    assert outcome.exit is Exit.HALTED
    assert "bert@jenkins" in outcome.message
    assert place.cancelled.is_set()
    assert place.record.lease == theirs


def test_a_lease_that_cannot_be_renewed_is_lost_before_it_ends(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "MARGIN_S", 1.0)
    left_s: list[float] = []  # of the lease
    place.hangs = lambda what: what != "look" and place.count("effect") > 0

    def cancelled() -> None:
        place.cancelled.wait(30)
        held = place.record.lease
        left_s.append(held.until - time.time() if held else 0.0)
        place.let_go.set()

    threading.Thread(target=cancelled).start()
    outcome = place.run()
    assert outcome.exit is Exit.HALTED
    assert [refusal.reference for refusal in outcome.refusals] == ["lease-lost"]
    assert left_s[0] > 0, "it may be another's by now"


def test_who_holds_the_platform_is_told_also_when_gates_are_closed(place: Place) -> None:
    """What the other run does may be what closes them."""
    place.record = Record(lease=Lease("theirs", "bert@jenkins", time.time() + 1000))
    place.refusals = (Refusal("vrrp-holder", "10.77.0.10", "held by nobody", "exactly one holder", "Look."),)
    refused, skipped = place.run(), place.run(scheduled=True)
    assert refused.exit is Exit.REFUSED
    assert "bert@jenkins" in refused.message
    assert [refusal.reference for refusal in refused.refusals] == ["lease-held", "vrrp-holder"]
    assert skipped.exit is Exit.OK
    assert "bert@jenkins" in skipped.message
