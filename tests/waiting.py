"""The only waiting helper of the tests."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(check: Callable[[], T], message: str, within_s: float) -> T:
    """Given a check, return its first true result. Raise AssertionError with the message if none came in time."""
    deadline = time.monotonic() + within_s
    while True:
        try:
            result = check()
            last: object = result
            if result:
                return result
        except (AssertionError, OSError) as error:
            last = error
        if time.monotonic() > deadline:
            raise AssertionError(f"{message} (not within {within_s:g} s; last: {last!r})")
        time.sleep(0.1)
