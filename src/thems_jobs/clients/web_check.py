"""Asking web machines over HTTP: are they well, and how fast do they answer."""

import http.client
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

from thems_jobs.errors import Transient

TIMEOUT_S = 5.0
WARM_TIMEOUT_S = 30.0  # the first pages of a cold machine compile everything
WARM_AT_ONCE = 4
WARM_ROUNDS = 8
SETTLED_RATIO = 1.2  # a round that is not this much faster than the one before was as fast as it gets


class WebCheck:
    """Plain HTTP to one machine, or to the VRRP address."""

    def check(self, name: str, address: str, port: int, path: str, status: int = 200) -> float:
        """Ask once; return the seconds it took. Raise Transient if the answer does not come or has another status."""
        seen, body, seconds = _get(name, address, port, path, TIMEOUT_S)
        if seen != status:
            raise Transient(
                name, f"http://{address}:{port}{path} answered {seen}, expected {status}: {body[:200].strip()!r}"
            )
        return seconds

    def warm(self, name: str, address: str, port: int, path: str = "/") -> tuple[float, ...]:
        """Ask for a page, some at a time, until it comes no faster; return the median seconds of every round.

        Raise Transient if one of them fails.
        """
        medians: list[float] = []

        def ask(_: int) -> float:
            status, body, seconds = _get(name, address, port, path, WARM_TIMEOUT_S)
            if status >= 500:
                raise Transient(name, f"http://{address}:{port}{path} answered {status}: {body[:200].strip()!r}")
            return seconds

        with ThreadPoolExecutor(WARM_AT_ONCE) as pool:
            while len(medians) < WARM_ROUNDS:
                medians.append(statistics.median(pool.map(ask, range(WARM_AT_ONCE))))
                if len(medians) > 1 and medians[-1] * SETTLED_RATIO >= medians[-2]:
                    break
        return tuple(medians)


def _get(name: str, address: str, port: int, path: str, timeout_s: float) -> tuple[int, str, float]:
    """Return status, body and seconds of one request on a connection of its own. Raise Transient without an answer."""
    started = time.monotonic()
    connection = http.client.HTTPConnection(address, port, timeout=timeout_s)
    try:
        connection.request("GET", path, headers={"Connection": "close", "User-Agent": "thems-jobs"})
        response = connection.getresponse()
        body = response.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        raise Transient(name, f"http://{address}:{port}{path} does not answer: {error!r}") from error
    finally:
        connection.close()
    return response.status, body, time.monotonic() - started
