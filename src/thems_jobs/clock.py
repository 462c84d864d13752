"""Time and threads: the one thing besides clients that a run is given, so that a simulation can give another."""

import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Stopped(Exception):
    """A stop was asked for, and what was asked had not been answered yet."""


class Clock(Protocol):
    """What the runner asks of time."""

    def now(self) -> float:
        """Return the time in unix seconds."""

    def submit(self, call: Callable[[], Any]) -> "Future[Any]":
        """Start a call beside this one."""

    def detach(self, call: Callable[[], T]) -> "Future[T]":
        """Start a call beside this one, at once, that may hang: nobody has to wait for it."""

    def wait(self, calls: Collection["Future[Any]"], timeout_s: float) -> None:
        """Return when one of the calls has ended, when the time is over, or when a stop was asked for."""

    def stopping(self) -> bool:
        """True once a stop was asked for."""

    def at_once(self, call: Callable[[Any], Any], arguments: Sequence[Any]) -> list[Any]:
        """Return what a call gives for each argument, all asked at the same time; it is for looking, not for doing."""


class SystemClock:
    """The machine's own clock; `stop` is what a signal calls."""

    LOOK_S = 0.2  # how soon a stop is noticed
    PROBES = 256  # questions asked at the same time; nobody at an address costs one of them two seconds

    def __init__(self, workers: int = 16) -> None:
        self._threads = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="step")
        self._stop = threading.Event()

    def now(self) -> float:
        return time.time()

    def submit(self, call: Callable[[], Any]) -> "Future[Any]":
        return self._threads.submit(call)

    def detach(self, call: Callable[[], T]) -> "Future[T]":
        return detached(call)

    def wait(self, calls: Collection["Future[Any]"], timeout_s: float) -> None:
        was_stopping, end = self.stopping(), time.monotonic() + timeout_s
        while (left := end - time.monotonic()) > 0 and self.stopping() == was_stopping:
            if not calls:
                time.sleep(min(left, self.LOOK_S))
            elif wait(calls, timeout=min(left, self.LOOK_S), return_when=FIRST_COMPLETED).done:
                return

    def stopping(self) -> bool:
        return self._stop.is_set()

    def at_once(self, call: Callable[[Any], Any], arguments: Sequence[Any]) -> list[Any]:
        threads = ThreadPoolExecutor(max_workers=self.PROBES)
        try:
            return list(threads.map(call, arguments))
        finally:  # a signal that ends us does not wait for an address that hangs
            threads.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        """Begin no further call; what is under way is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def stop(self) -> None:
        """Ask every run on this clock to start nothing new and to end."""
        self._stop.set()


def detached(call: Callable[[], T]) -> "Future[T]":
    """Start a call beside this one, at once, that may hang: nobody has to wait for it."""
    future: Future[T] = Future()

    def work() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # as a pool keeps it for whoever asks
            future.set_exception(error)

    threading.Thread(target=work, name="detached").start()
    return future


def answer_of(clock: Clock, question: Callable[[], T], meanwhile: Callable[[], None] = lambda: None) -> T:
    """Given a question that may hang, return its answer; `meanwhile` is called every second, and may raise.

    Raise Stopped if a stop is asked for before the answer is there.
    """
    if clock.stopping():
        raise Stopped
    answer = clock.detach(question)
    while not answer.done():
        meanwhile()
        clock.wait([answer], 1.0)
        if clock.stopping() and not answer.done():
            raise Stopped
    return answer.result()
