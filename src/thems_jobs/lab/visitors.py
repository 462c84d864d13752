"""Visitors of a shop: concurrent clients with keep-alive, who write down every answer they did not get."""

import http
import http.client
import json
import math
import select
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

SAMPLES_KEPT = 50  # of failures, in full
SERVED_BY = "X-Served-By"  # header that names the machine, where the web role sets it


@dataclass(frozen=True)
class Crowd:
    """One kind of visitor."""

    count: int
    url: str
    pause_s: float  # between an answer and the next request
    timeout_s: float


@dataclass
class _Second:
    requests: int = 0
    failed: int = 0
    slowest_ms: float = 0.0


@dataclass
class Tally:
    """What the visitors saw so far. Every method may be called from any thread."""

    began: float = field(default_factory=time.monotonic)
    began_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _latencies_ms: dict[str, list[float]] = field(default_factory=dict)  # by url
    _failures: Counter[str] = field(default_factory=Counter)
    _samples: list[dict[str, Any]] = field(default_factory=list)
    _served_by: Counter[str] = field(default_factory=Counter)
    _seconds: dict[int, _Second] = field(default_factory=dict)

    def add(self, url: str, sent: float, failure: str | None, served_by: str | None) -> None:
        """Note one request, sent at that monotonic time and answered (or given up) now."""
        now = time.monotonic()
        latency_ms = (now - sent) * 1000
        with self._lock:
            second = self._seconds.setdefault(int(now - self.began), _Second())
            second.requests += 1
            second.slowest_ms = max(second.slowest_ms, latency_ms)
            if served_by is not None:
                self._served_by[served_by] += 1
            if failure is None:
                self._latencies_ms.setdefault(url, []).append(latency_ms)
                return
            second.failed += 1
            self._failures[failure] += 1
            if len(self._samples) < SAMPLES_KEPT:
                at_s = round(sent - self.began, 2)
                self._samples.append({"at_s": at_s, "url": url, "after_ms": round(latency_ms), "reason": failure})

    def summary(self) -> dict[str, Any]:
        """Return all numbers as a JSON object."""
        with self._lock:
            failed = self._failures.total()
            served = sum(len(latencies) for latencies in self._latencies_ms.values())
            return {
                "began_at": self.began_at.isoformat(timespec="milliseconds"),
                "seconds": round(time.monotonic() - self.began, 1),
                "requests": served + failed,
                "failed": failed,
                "failures": dict(self._failures),
                "failure_samples": list(self._samples),
                "latency_ms": {url: _percentiles(found) for url, found in self._latencies_ms.items()},
                "served_by": dict(sorted(self._served_by.items())),
                "timeline": [
                    {"second": number, "requests": s.requests, "failed": s.failed, "slowest_ms": round(s.slowest_ms)}
                    for number, s in sorted(self._seconds.items())
                ],
            }


def in_words(summary: dict[str, Any]) -> list[str]:
    """Given a summary, return it as lines for people, the one that matters last."""
    lines = [
        f"{url}: {found['count']:,} answers, half of them within {found['p50']:,.0f} ms, 95 % within "
        f"{found['p95']:,.0f} ms, the slowest {found['max']:,.0f} ms"
        for url, found in summary["latency_ms"].items()
    ]
    lines += [f"{times:,} times: {reason}" for reason, times in summary["failures"].items()]
    return [*lines, f"{summary['requests']:,} requests in {summary['seconds']:.0f} s, {summary['failed']:,} failed."]


def let_in(crowds: list[Crowd], stop: threading.Event, report: Path | None, every_s: float = 1.0) -> dict[str, Any]:
    """Let the crowds visit until stop is set, then until their last requests are answered; return the summary.

    The report file is written anew every so many seconds, whole each time.
    """
    tally = Tally()
    threads = [
        threading.Thread(target=_visit, args=(crowd, number / crowd.count, stop, tally.add), daemon=True)
        for crowd in crowds
        for number in range(crowd.count)
    ]
    for thread in threads:
        thread.start()
    while not stop.wait(every_s):
        _write(report, tally.summary())
    for thread in threads:
        thread.join()
    summary = tally.summary()
    _write(report, summary)
    return summary


def _visit(
    crowd: Crowd, share: float, stop: threading.Event, note: Callable[[str, float, str | None, str | None], None]
) -> None:
    """Be one visitor: ask for the page again and again over one connection, a new one where the server closed it."""
    parts = urlsplit(crowd.url)
    target = f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=crowd.timeout_s)
    stop.wait(share * crowd.pause_s)  # not all at the same moment
    while not stop.is_set():
        if connection.sock is not None and select.select([connection.sock], [], [], 0)[0]:
            connection.close()  # closed by the server while idle: no visitor notices that
        sent = time.monotonic()
        failure, served_by = _ask(connection, target)
        if failure is not None:
            connection.close()
        note(crowd.url, sent, failure, served_by)
        stop.wait(crowd.pause_s)
    connection.close()


def _ask(connection: http.client.HTTPConnection, target: str) -> tuple[str | None, str | None]:
    """Ask for the page; return why it failed (None when it did not) and which machine answered, if it says so."""
    try:
        connection.request("GET", target, headers={"User-Agent": "thems-jobs-visitor"})
        answer = connection.getresponse()
        answer.read()
    except TimeoutError:
        return "no answer in time", None
    except ConnectionRefusedError:
        return "connection refused", None
    except http.client.IncompleteRead:
        return "cut in the middle of the answer", None
    except (http.client.RemoteDisconnected, ConnectionError):
        return "cut before the answer", None
    except (OSError, http.client.HTTPException) as error:
        return f"{type(error).__name__}: {error}", None
    failure = None if answer.status == http.HTTPStatus.OK else f"HTTP {answer.status}"
    return failure, answer.headers.get(SERVED_BY)


def _percentiles(latencies: list[float]) -> dict[str, float]:
    """Return count, p50, p95 and the largest; the list is not empty."""
    ordered = sorted(latencies)

    def at(share: float) -> float:
        return round(ordered[max(math.ceil(share * len(ordered)) - 1, 0)], 1)

    return {"count": len(ordered), "p50": at(0.5), "p95": at(0.95), "max": at(1.0)}


def _write(report: Path | None, summary: dict[str, Any]) -> None:
    if report is not None:
        partial = report.with_name(f".{report.name}.partial")
        partial.write_text(json.dumps(summary, indent=1) + "\n")
        partial.rename(report)
