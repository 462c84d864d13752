"""A shop that writes orders all the time, and knows which ones the database acknowledged."""

import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import pymysql
from inside import network_of

from thems_jobs.lab.layout import LabLayout
from waiting import eventually

ADDRESS = "10.77.0.20"  # of the database's proxies, by VRRP


class Addressed(Protocol):
    """A machine of any kind of these tests."""

    @property
    def name(self) -> str: ...
    @property
    def address(self) -> str: ...


def connect(layout: LabLayout, address: str = ADDRESS, user: str = "shop") -> "pymysql.Connection[Any]":
    """Log in to the database as the shop, or as the jobs; by TLS, with a certificate of our authority."""
    password = dict(zip(("thems", "shop"), layout.database_passwords, strict=True))[user]
    tls: dict[str, Any] = {
        "ssl_ca": str(layout.database_authority), "ssl_verify_cert": True, "ssl_verify_identity": False,
    }  # fmt: skip
    with network_of(layout.netns):
        return pymysql.connect(
            host=address, user=user, password=password.read_text().strip(), database="shop",
            connect_timeout=3, read_timeout=10, write_timeout=10, autocommit=True, **tls,
        )  # fmt: skip


@contextmanager
def writing(layout: LabLayout, sessions: int = 4) -> Iterator["Orders"]:
    """Have so many sessions write orders through the address until the block ends."""
    with connect(layout) as connection, connection.cursor() as cursor:
        cursor.execute(
            "CREATE TABLE IF NOT EXISTS orders (id BIGINT AUTO_INCREMENT PRIMARY KEY, run DOUBLE, session INT,"
            " number INT, UNIQUE KEY (run, session, number)) ENGINE=InnoDB"
        )
    orders = Orders(layout)
    threads = [threading.Thread(target=orders.write, args=(number,), daemon=True) for number in range(sessions)]
    for thread in threads:
        thread.start()
    try:
        eventually(lambda: len(orders.acknowledged) > 20, "no order was acknowledged", 20)
        yield orders
        if not orders.done.is_set():
            orders.wait_for_more()
    finally:
        orders.done.set()
        for thread in threads:
            thread.join(30)


@dataclass
class Orders:
    """Orders of a shop. `acknowledged`: (when, session, number), as the database said that it has them."""

    layout: LabLayout
    acknowledged: list[tuple[float, int, int]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    refused_at: list[float] = field(default_factory=list)  # unix time of each of these
    done: threading.Event = field(default_factory=threading.Event)
    run: float = field(default_factory=time.time)

    def write(self, session: int) -> None:
        """Write one order after the other; what fails is tried again under its own number on a new connection."""
        connection, number = None, 0
        while not self.done.is_set():
            try:
                connection = connection or connect(self.layout)
                with connection.cursor() as cursor:
                    cursor.execute(
                        "INSERT IGNORE INTO orders (run, session, number) VALUES (%s, %s, %s)",
                        (self.run, session, number),
                    )
                self.acknowledged.append((time.monotonic(), session, number))
                number += 1
            except (pymysql.Error, OSError) as error:
                self.refused.append(repr(error))
                self.refused_at.append(time.time())
                if connection:
                    with suppress(Exception):
                        connection.close()
                connection = None
                self.done.wait(0.05)
            self.done.wait(0.005)

    def wait_for_more(self) -> None:
        """Wait until orders are acknowledged again."""
        before = len(self.acknowledged)
        eventually(lambda: len(self.acknowledged) > before + 20, f"no more orders; {self.refused[-3:]}", 30)

    @property
    def longest_gap_s(self) -> float:
        """The longest time without an acknowledged order, of any session."""
        times = [moment for moment, _, _ in self.acknowledged]
        return max(later - earlier for earlier, later in itertools.pairwise(times))

    def expect_all_at(self, machine: Addressed) -> None:
        """Hold what a machine has against what was acknowledged."""
        wanted = {(session, number) for _, session, number in self.acknowledged}
        with connect(self.layout, machine.address) as connection, connection.cursor() as cursor:
            cursor.execute("SET SESSION wsrep_sync_wait = 1")
            cursor.execute("SELECT session, number FROM orders WHERE run = %s", (self.run,))
            lost = wanted - set(cursor.fetchall())
        assert not lost, (
            f"{len(lost)} of {len(wanted)} acknowledged orders are not on {machine.name}: {sorted(lost)[:5]}"
        )
