"""The visitors against a small server that misbehaves in each way a shop can."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from thems_jobs.lab.visitors import Crowd, Tally, in_words, let_in
from waiting import eventually


class Shop(ThreadingHTTPServer):
    """Counts connections and finished requests."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Pages)
        self.connections = 0
        self.asked = 0
        self.answered = 0

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"


class Pages(BaseHTTPRequestHandler):
    """One page per way to answer."""

    protocol_version = "HTTP/1.1"
    server: Shop

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1

    def do_GET(self) -> None:
        self.server.asked += 1
        if self.path == "/cut":
            self.close_connection = True
            return
        self.send_response(503 if self.path == "/busy" else 200)
        self.send_header("Content-Length", "5")
        self.send_header("X-Served-By", "shop-web-1")
        if self.path == "/last":
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(b"he" if self.path == "/half" else b"hello")
        self.close_connection = self.path in ("/half", "/idle-close", "/last")
        self.server.answered += 1

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def shop() -> Iterator[Shop]:
    """A server on the loopback."""
    with Shop() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def visit(url: str, stop: threading.Event, report: Path | None = None, pause_s: float = 0.01) -> dict[str, object]:
    """Let three visitors look at a page until stop is set."""
    return let_in([Crowd(3, url, pause_s, timeout_s=10.0)], stop, report, every_s=0.05)


def once(true: Callable[[], object]) -> threading.Event:
    """Return what is set once something is true."""
    event = threading.Event()

    def wait() -> None:
        try:
            eventually(true, "what the visitors are to see", within_s=20)
        finally:
            event.set()

    threading.Thread(target=wait, daemon=True).start()
    return event


def visit_some(shop: Shop, path: str, pause_s: float = 0.01) -> dict[str, object]:
    """Visit until all are there and have come several times."""
    stop = once(lambda: shop.asked > 10 and shop.connections >= 3)
    return visit(shop.url(path), stop, pause_s=pause_s)


def test_good_answers_are_counted_over_kept_connections(shop: Shop) -> None:
    summary = visit_some(shop, "/")
    assert summary["requests"] == shop.answered > 10
    assert summary["failed"] == 0
    assert shop.connections == 3
    assert summary["served_by"] == {"shop-web-1": shop.answered}
    assert sum(second["requests"] for second in summary["timeline"]) == shop.answered  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", ["/last", "/idle-close"])
def test_a_connection_closed_between_requests_is_no_failure(shop: Shop, path: str) -> None:
    summary = visit_some(shop, path, pause_s=0.5)  # time for the server to close
    assert summary["failed"] == 0
    assert shop.connections == summary["requests"]


@pytest.mark.parametrize(
    ("path", "reason"),
    [("/busy", "HTTP 503"), ("/cut", "cut before the answer"), ("/half", "cut in the middle of the answer")],
)
def test_every_request_that_was_not_served_is_counted_with_its_reason(shop: Shop, path: str, reason: str) -> None:
    summary = visit_some(shop, path)
    assert summary["requests"] == summary["failed"]
    assert summary["failures"] == {reason: summary["failed"]}
    assert summary["failure_samples"][0]["url"] == shop.url(path)  # type: ignore[index]


def test_nobody_there_is_counted_too(tmp_path: Path) -> None:
    with Shop() as closed:
        url = closed.url("/")
    report = tmp_path / "visitors.json"
    stop = once(lambda: json.loads(report.read_text())["requests"] > 3)
    assert set(visit(url, stop, report)["failures"]) == {"connection refused"}  # type: ignore[call-overload]


def test_the_report_can_be_read_while_they_visit(shop: Shop, tmp_path: Path) -> None:
    report, stop = tmp_path / "visitors.json", threading.Event()
    visitors = threading.Thread(target=visit, args=(shop.url("/"), stop, report))
    visitors.start()
    eventually(lambda: json.loads(report.read_text())["requests"] > 5, "no report", within_s=10)
    stop.set()
    visitors.join()
    assert json.loads(report.read_text())["requests"] == shop.answered
    assert [path.name for path in tmp_path.iterdir()] == ["visitors.json"]


def test_percentiles_of_known_latencies() -> None:
    tally = Tally()
    for age_s in range(100):
        tally.add("http://shop/", tally.began - age_s, None, None)
    found = tally.summary()["latency_ms"]["http://shop/"]
    assert found["count"] == 100
    assert [round(found[name] / 1000) for name in ("p50", "p95", "max")] == [49, 94, 99]


def test_what_they_saw_is_said_in_words_with_the_verdict_last(shop: Shop) -> None:
    lines = in_words(visit_some(shop, "/busy"))
    assert any(line.endswith("times: HTTP 503") for line in lines)
    assert lines[-1].endswith(" failed.")
