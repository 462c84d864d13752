"""Time and threads: the one thing besides clients that a run is given, so that a simulation can give another."""

import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, Protocol


class Clock(Protocol):
    """What the runner asks of time."""

    def now(self) -> float:
        """Return the time in unix seconds."""

    def submit(self, call: Callable[[], Any]) -> "Future[Any]":
        """Start a call beside this one."""

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
        with ThreadPoolExecutor(max_workers=self.PROBES) as threads:
            return list(threads.map(call, arguments))

    def close(self) -> None:
        """Begin no further call; what is under way is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def stop(self) -> None:
        """Ask every run on this clock to start nothing new and to end."""
        self._stop.set()
