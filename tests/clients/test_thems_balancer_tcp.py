"""`thems-balancer` in mode tcp against a real haproxy: one writer among database machines, the others in reserve."""

import itertools
import json
import random
import shutil
import socket
import socketserver
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from balancer_lab import BalancerLab, free_port

from waiting import eventually

pytestmark = pytest.mark.skipif(not shutil.which("haproxy"), reason="needs the Debian package haproxy")

NAMES = ("db-1", "db-2", "db-3")
_folders = itertools.count(9)


class Member:
    """A database machine: says its name at the beginning of a session and echoes the rest; `well` is clustercheck's."""

    def __init__(self, name: str, host: str, port: int, check_port: int) -> None:
        self.name, self.well, self.address = name, True, f"{host}:{port}"
        member = self

        class Session(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                self.request.sendall(member.name.encode() + b"\n")
                with suppress(OSError):
                    while data := self.request.recv(4096):
                        self.request.sendall(data)

        class Check(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                self.rfile.readline()
                status = b"200 OK" if member.well else b"503 Service Unavailable"
                self.wfile.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = allow_reuse_address = True

        self._servers = [Server((host, port), Session), Server((host, check_port), Check)]
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()


class Proxy(BalancerLab):
    """A proxy with three members behind it."""

    def __init__(self, folder: Path) -> None:
        port, check_port, network = free_port(), free_port(), f"127.{random.randint(1, 250)}.{next(_folders)}"
        self.members = {
            name: Member(name, f"{network}.{number}", port, check_port) for number, name in enumerate(NAMES, 1)
        }
        check = f"check port {check_port} inter 200ms fastinter 100ms fall 2 rise 2 on-marked-down shutdown-sessions"
        super().__init__(folder, check, "proxy")
        self._watch = self.start_program("watch")

    def stop(self) -> None:
        super().stop()
        self._watch.kill()
        self._watch.wait()
        for member in self.members.values():
            member.close()

    def wish(self, order: Sequence[str], drained: Sequence[str] = ()) -> str:
        servers = {
            name: {"address": self.members[name].address, "weight": 0 if name in drained else 100} for name in order
        }
        return json.dumps({"servers": servers, "order": list(order)})

    def give(self, *order: str, drained: Sequence[str] = ()) -> dict[str, Any]:
        done = self.run("apply", "--expect", self.show()["generation"], stdin=self.wish(order, drained))
        assert done.returncode == 0, done.stderr
        shown: dict[str, Any] = json.loads(done.stdout)
        return shown

    def serve(self, *order: str) -> None:
        self.give(*order)
        eventually(lambda: all(s["state"] == "up" for s in self.show()["servers"].values()), "not up", within_s=10)

    def session(self) -> "Session":
        return Session(socket.create_connection(("127.0.0.1", self.port), timeout=5))

    def tells_keepalived(self) -> int:
        """Return the status with which the proxy says whether it has a writer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.health_port}/writer", timeout=5) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    def asked(self, count: int = 12) -> Counter[str]:
        """Return who takes new sessions."""
        sessions = [self.session() for _ in range(count)]
        names = Counter(session.name for session in sessions)
        for session in sessions:
            session.connection.close()
        return names


class Session:
    """A client's session with whoever is the writer."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.file = connection.makefile("rwb", buffering=0)
        self.name = self.file.readline().decode().strip()

    def lives(self) -> bool:
        try:
            self.file.write(b"select 1\n")
            return bool(self.file.readline() == b"select 1\n")
        except OSError:
            return False


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Proxy]:
    proxy = Proxy(tmp_path)
    proxy.start()
    yield proxy
    proxy.stop()


@contextmanager
def clients(proxy: Proxy, count: int) -> Iterator[list[float]]:
    """Have clients ask all the time, and come back when they are cut off; yields when they were answered."""
    answered: list[float] = []
    done = threading.Event()

    def ask() -> None:
        session = None
        while not done.wait(0.01):
            with suppress(OSError):
                session = session or proxy.session()
                if session.lives():
                    answered.append(time.monotonic())
                else:
                    session = None

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield answered
    finally:
        done.set()
        for thread in threads:
            thread.join(10)


def test_the_first_in_order_gets_every_session(proxy: Proxy) -> None:
    proxy.serve("db-2", "db-1", "db-3")
    assert proxy.asked() == {"db-2": 12}
    shown = proxy.show()
    assert (shown["writer"], shown["order"]) == ("db-2", ["db-2", "db-1", "db-3"])
    assert shown["pending"] == []


def test_a_new_order_counts_at_once_and_old_sessions_get_a_short_grace(proxy: Proxy) -> None:
    proxy.serve(*NAMES)
    old = proxy.session()
    run = proxy.start_program("apply", "--expect", proxy.show()["generation"])
    assert run.stdin
    run.stdin.write(proxy.wish(["db-3", "db-1", "db-2"]))
    run.stdin.close()
    eventually(lambda: set(proxy.asked(1)) == {"db-3"}, "no hand-over", within_s=10)
    assert old.lives()  # in its grace
    assert run.wait(20) == 0
    assert not old.lives()
    shown = proxy.show()
    assert (shown["writer"], shown["servers"]["db-1"]["connections"]) == ("db-3", 0)
    assert proxy.asked() == {"db-3": 12}
    assert "Reloading" not in (proxy.folder / "haproxy.log").read_text()


def test_clients_are_hardly_ever_without_a_writer_during_hand_overs(proxy: Proxy) -> None:
    proxy.serve(*NAMES)
    with clients(proxy, 4) as answered:
        eventually(lambda: len(answered) > 50, "nobody is answered", within_s=10)
        for order in (("db-2", "db-1", "db-3"), ("db-3", "db-2", "db-1"), NAMES):
            proxy.give(*order)
        before = len(answered)
        eventually(lambda: len(answered) > before + 50, "nobody is answered any more", within_s=10)
    gaps = [later - earlier for earlier, later in itertools.pairwise(answered)]
    assert max(gaps) < 2


def test_a_drained_writer_is_not_asked_any_more(proxy: Proxy) -> None:
    proxy.serve(*NAMES)
    session = proxy.session()
    shown = proxy.give(*NAMES, drained=["db-1"])
    assert (shown["writer"], shown["servers"]["db-1"]["weight"]) == ("db-2", 0)
    assert (shown["servers"]["db-1"]["connections"], session.lives()) == (0, False)
    assert shown["order"] == list(NAMES)  # it has its place again when it gets weight
    assert proxy.asked() == {"db-2": 12}
    assert proxy.give(*NAMES)["writer"] == "db-1"
    assert proxy.asked() == {"db-1": 12}


def test_a_writer_that_fails_its_check_is_replaced_and_comes_back(proxy: Proxy) -> None:
    proxy.serve(*NAMES)
    first = proxy.session()
    proxy.members["db-1"].well = False
    eventually(lambda: proxy.show()["writer"] == "db-2", "no other writer", within_s=10)
    eventually(lambda: not first.lives(), "its session lives on", within_s=5)
    second = proxy.session()
    assert second.name == "db-2"
    proxy.members["db-1"].well = True
    eventually(lambda: set(proxy.asked(1)) == {"db-1"}, "the first one does not come back", within_s=10)
    eventually(lambda: not second.lives(), "two writers for long", within_s=10)  # by the watch
    assert proxy.session().lives()


def test_without_anybody_well_nobody_is_asked(proxy: Proxy) -> None:
    proxy.serve(*NAMES)
    for member in proxy.members.values():
        member.well = False
    eventually(lambda: proxy.show()["writer"] == "", "still a writer", within_s=10)
    assert proxy.session().name == ""
    proxy.members["db-3"].well = True
    eventually(lambda: proxy.show()["writer"] == "db-3", "no writer", within_s=10)
    assert proxy.asked() == {"db-3": 12}


def test_keepalived_is_told_whether_there_is_a_writer(proxy: Proxy) -> None:
    assert proxy.tells_keepalived() == 503  # its table is empty
    proxy.serve(*NAMES)
    assert proxy.tells_keepalived() == 200
    for name in ("db-1", "db-2"):
        proxy.members[name].well = False
    eventually(lambda: proxy.show()["writer"] == "db-3", "no other writer", within_s=10)
    assert proxy.tells_keepalived() == 200
    proxy.give(*NAMES, drained=["db-3"])
    assert (proxy.show()["writer"], proxy.tells_keepalived()) == ("", 503)
    proxy.reload()
    assert proxy.show()["order"] == list(NAMES)
    proxy.members["db-2"].well = True
    eventually(lambda: proxy.tells_keepalived() == 200, "a writer is there, but not for keepalived", within_s=10)
    proxy.give("db-1")
    eventually(lambda: proxy.tells_keepalived() == 503, "a writer that is gone is told of", within_s=10)
    with urllib.request.urlopen(f"http://127.0.0.1:{proxy.health_port}/healthz", timeout=5) as answer:
        assert answer.status == 200  # the proxy itself is well


def test_a_new_machine_is_no_writer_before_its_check(proxy: Proxy) -> None:
    proxy.serve("db-2", "db-3")
    proxy.members["db-1"].well = False
    shown = proxy.give(*NAMES)
    assert (shown["writer"], shown["servers"]["db-1"]["state"]) == ("db-2", "down")
    assert proxy.asked() == {"db-2": 12}
    proxy.members["db-1"].well = True
    eventually(lambda: proxy.show()["writer"] == "db-1", "not taken", within_s=10)


def test_a_machine_that_leaves_the_list_is_gone(proxy: Proxy) -> None:
    proxy.serve(*NAMES)
    session = proxy.session()
    shown = proxy.give("db-3", "db-2")
    assert (list(shown["servers"]), shown["writer"], shown["pending"]) == (["db-2", "db-3"], "db-3", [])
    assert not session.lives()


def test_without_a_wish_the_order_stays_and_new_ones_come_last(proxy: Proxy) -> None:
    proxy.serve("db-3", "db-2")
    wish = json.loads(proxy.wish(NAMES))
    del wish["order"]
    done = proxy.run("apply", "--expect", proxy.show()["generation"], stdin=json.dumps(wish))
    assert json.loads(done.stdout)["order"] == ["db-3", "db-2", "db-1"]


@pytest.mark.parametrize("order", [["db-1"], ["db-1", "db-1", "db-2"], ["db-1", "db-2", "db-9"], "db-1", [1, 2, 3], {}])
def test_an_order_that_does_not_fit_changes_nothing(proxy: Proxy, order: object) -> None:
    before = proxy.servers.read_bytes()
    wish = json.loads(proxy.wish(NAMES)) | {"order": order}
    done = proxy.run("apply", "--expect", proxy.show()["generation"], stdin=json.dumps(wish))
    assert done.returncode == 2
    assert "expected a list with each of the servers once" in done.stderr
    assert proxy.servers.read_bytes() == before


def test_a_new_order_alone_is_a_change(proxy: Proxy) -> None:
    first = proxy.give(*NAMES)["generation"]
    assert proxy.give("db-2", "db-1", "db-3")["generation"] != first


def test_reload_and_restart_keep_the_writer(proxy: Proxy) -> None:
    proxy.serve("db-3", "db-1", "db-2")
    session = proxy.session()
    proxy.reload()
    assert proxy.show()["writer"] == "db-3"
    assert session.lives()  # in the old worker
    proxy.give("db-1", "db-3", "db-2")
    assert not session.lives()
    assert proxy.asked() == {"db-1": 12}
    BalancerLab.stop(proxy)
    proxy.start()
    assert proxy.show()["writer"] == "db-1"
    assert proxy.asked() == {"db-1": 12}


def test_killed_at_any_moment_the_same_order_finishes(proxy: Proxy) -> None:
    orders = [("db-2", "db-1", "db-3"), ("db-3", "db-2"), NAMES]
    rng = random.Random(4)
    proxy.serve(*NAMES)
    with clients(proxy, 2):
        for attempt in range(9):
            order = orders[attempt % 3]
            killed = proxy.start_program("apply", "--expect", proxy.show()["generation"])
            assert killed.stdin
            killed.stdin.write(proxy.wish(order))
            killed.stdin.close()
            time.sleep(rng.uniform(0.03, 0.25))
            killed.kill()
            killed.wait()
            done = proxy.give(*order)
            assert (done["order"], done["pending"]) == (list(order), [])
    eventually(lambda: proxy.show()["writer"] == "db-1", "another writer than the list's first", within_s=10)
    assert proxy.asked() == {"db-1": 12}
