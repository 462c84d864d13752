"""Locks as Proxmox takes them with flock(): shared or exclusive, with a patience that is soon over."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from thems_jobs.lab.api.errors import failed


class Locks:
    """Named locks of all nodes."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._holders: dict[str, int] = {}  # number of shared holders, or -1 for an exclusive one

    @contextmanager
    def held(
        self,
        name: str,
        timeout_s: float,
        *,
        shared: bool = False,
        log: Callable[[str], None] | None = None,
        text: str | None = None,
    ) -> Iterator[None]:
        """Hold the lock. Raise 500 `can't lock file ... - got timeout` (or text) if it is not free in time."""
        self._acquire(name, timeout_s, shared, log, text or f"can't lock file '{name}' - got timeout")
        try:
            yield
        finally:
            self._release(name)

    def _acquire(self, name: str, timeout_s: float, shared: bool, log: Callable[[str], None] | None, text: str) -> None:
        deadline = time.monotonic() + timeout_s
        with self._changed:
            if not self._free(name, shared) and log:
                log("trying to acquire lock...")
            waited = False
            while not self._free(name, shared):
                waited = True
                left = deadline - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    raise failed(text)
            if waited and log:
                log(" OK")
            self._holders[name] = self._holders.get(name, 0) + 1 if shared else -1

    def _free(self, name: str, shared: bool) -> bool:
        holders = self._holders.get(name, 0)
        return holders >= 0 if shared else holders == 0

    def _release(self, name: str) -> None:
        with self._changed:
            left = self._holders[name] - 1 if self._holders[name] > 0 else 0
            if left:
                self._holders[name] = left
            else:
                del self._holders[name]
            self._changed.notify_all()


class Slots:
    """A number of places per name, which may change at any time. 0 means no limit."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._taken: dict[str, int] = {}

    @contextmanager
    def taken(self, name: str, limit: Callable[[], int], stopped: Callable[[], None]) -> Iterator[None]:
        """Hold a place; wait for one as long as it takes, while stopped() does not raise."""
        with self._changed:
            while (places := limit()) and self._taken.get(name, 0) >= places:
                self._changed.wait(0.1)
                stopped()
            self._taken[name] = self._taken.get(name, 0) + 1
        try:
            yield
        finally:
            with self._changed:
                self._taken[name] -= 1
                self._changed.notify_all()
