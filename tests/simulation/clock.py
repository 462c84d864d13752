"""Virtual time: what happens next happens now."""

import heapq
import itertools
import random
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class Killed(BaseException):
    """The process is gone: nothing of it may catch this and go on."""


class Gone(Killed):
    """What is left of a killed process finds out that it is: nobody is there to notice."""


class VirtualClock:
    """A clock that goes from event to event. Calls of a run take a random time, and do their work within it."""

    DAYS = 2  # a schedule that takes longer waits for what never comes

    def __init__(self, chance: random.Random, start: float = 1_800_000_000.0) -> None:
        self._chance = chance
        self._now = start
        self._end = start + self.DAYS * 86400
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self.stop_at = float("inf")  # when the run was asked to stop

    def now(self) -> float:
        return self._now

    def stopping(self) -> bool:
        return self._now >= self.stop_at

    def stop(self) -> None:
        """Ask the run on this clock to stop."""
        self.stop_at = self._now

    def later(self, seconds: float, event: Callable[[], None]) -> None:
        """Let an event happen in so many seconds."""
        heapq.heappush(self._events, (self._now + seconds, next(self._order), event))

    def submit(self, call: Callable[[], Any]) -> "Future[Any]":
        future: Future[Any] = Future()
        duration = self._chance.choice((0.05, 0.2, 1.0, 3.0, self._chance.uniform(0, 20)))
        acts_after = self._chance.choice((0.0, duration, self._chance.uniform(0, duration)))

        future.set_running_or_notify_cancel()  # as there are threads enough

        def act() -> None:
            try:
                result = call()
            except Gone:
                return
            except Exception as error:  # as a thread would keep it for whoever asks
                self.later(duration - acts_after, lambda error=error: future.set_exception(error))  # type: ignore[misc]
                return
            self.later(duration - acts_after, lambda: future.set_result(result))

        self.later(acts_after, act)
        return future

    def detach(self, call: Callable[[], T]) -> "Future[T]":
        future: Future[T] = Future()
        try:
            future.set_result(call())
        except Exception as error:
            future.set_exception(error)
        return future

    def wait(self, calls: Collection["Future[Any]"], timeout_s: float) -> None:
        if self._now > self._end:
            raise AssertionError(f"still waiting after {self.DAYS} days")
        end, was_stopping = self._now + timeout_s, self.stopping()
        while self._events and self._events[0][0] <= end:
            if any(call.done() for call in calls) or self.stopping() != was_stopping:
                return
            self.step()
        if not any(call.done() for call in calls) and self.stopping() == was_stopping:
            self._now = max(self._now, min(end, self.stop_at) if self._now < self.stop_at else end)

    def step(self) -> None:
        """Let the next event happen."""
        at, _, event = heapq.heappop(self._events)
        self._now = max(self._now, at)
        event()

    def pass_by(self, seconds: float) -> None:
        """Let time pass, and all that happens meanwhile."""
        self.later(seconds, lambda: None)
        end = self._now + seconds
        while self._events and self._events[0][0] <= end:
            self.step()
        self._now = max(self._now, end)

    def at_once(self, call: Callable[[Any], Any], arguments: Sequence[Any]) -> list[Any]:
        return [call(argument) for argument in arguments]
