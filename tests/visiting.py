"""Visitors with keep-alive, and what became of their requests."""

import http.client
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

AT_ONCE_S = 1.0  # an answer "this connection is closed" takes a round trip, on busy cores a little more


@dataclass
class Visits:
    """What visitors got: answers by text, everything that went wrong, and how often a kept connection was closed."""

    answers: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    closed: int = 0


@contextmanager
def visitors(host: str, port: int, count: int, slow_every: int = 0, slow_page: str = "") -> Iterator[Visits]:
    """Have visitors with keep-alive ask without pause until the block ends; every n-th asks for the slow page.

    They behave as browsers: if a kept connection turns out to be closed just when they ask, they open another one.
    """
    visits, done, lock = Visits(), threading.Event(), threading.Lock()

    def visit(number: int) -> None:
        path = slow_page if slow_every and number % slow_every == 0 else "/"
        connection = http.client.HTTPConnection(host, port, timeout=60)
        while not done.is_set():
            try:
                name, closed = _ask(connection, path)
                with lock:
                    visits.answers[name] += 1
                    visits.closed += closed
            except (OSError, http.client.HTTPException, AssertionError) as error:
                with lock:
                    visits.failures.append(f"{path}: {error!r}")
                connection.close()
                done.wait(0.2)
            done.wait(0.01)
        connection.close()

    threads = [threading.Thread(target=visit, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield visits
    finally:
        done.set()
        for thread in threads:
            thread.join(60)


def _ask(connection: http.client.HTTPConnection, path: str) -> tuple[str, bool]:
    """Return the answer, and whether the kept connection was closed. A request that was worked on is not repeated."""
    kept, asked_at = connection.sock is not None, time.monotonic()
    try:
        connection.request("GET", path)
        response = connection.getresponse()
    except (http.client.RemoteDisconnected, ConnectionError):
        if not kept or time.monotonic() - asked_at > AT_ONCE_S:
            raise
        connection.close()
        return _ask(connection, path)[0], True
    body = response.read().decode()
    assert response.status == 200, f"{response.status} {body}"
    return body, False
