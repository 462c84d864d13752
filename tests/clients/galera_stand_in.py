"""A database machine as its statements show it: MariaDB's or Percona's status, variables, sessions and tables.

It answers what a member with Galera 4 answers (the values were taken from MariaDB 10.11), refuses what one refuses,
and its counters go on by themselves.
"""

import re
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from mysql_wire import NONE, Answer, Refusal

UUID = "9311c7ed-e752-11f1-ab49-c28ae3f001b0"
NOT_READY = Refusal(1047, "WSREP has not yet prepared node for application use")
NO_PLUGIN = Refusal(1109, "Unknown table 'METADATA_LOCK_INFO' in information_schema")
NO_RIGHT = Refusal(1142, "SELECT command denied to user 'thems'@'192.0.2.9' for table 'metadata_locks'")
PROVIDER_OPTIONS = (
    "base_dir = /var/lib/mysql/; evs.inactive_timeout = PT15S; gcache.dir = /var/lib/mysql/; "
    "gcache.keep_pages_size = 0; gcache.name = galera.cache; gcache.page_size = 64M; gcache.size = 128M; "
    "gcs.fc_factor = 1.0; gcs.fc_limit = 100; pc.recovery = false; socket.ssl = YES; "
)
PERCONA = {
    "pxc_maint_mode": "DISABLED",
    "pxc_maint_transition_period": "1",
}  # 10 by default: tests need not wait so long


@dataclass
class Table:
    """A table of the shop: its columns (name, type, extra) and how far its counting column has come."""

    columns: list[tuple[str, str, str]]
    highest: int


def orders(highest: int = 5000) -> Table:
    return Table([("id", "bigint(20)", "auto_increment"), ("total", "decimal(10,2)", "")], highest)


@dataclass
class Galera:
    """One member. Change its fields, and it answers so."""

    index: int = 0
    size: int = 3
    flavour: str = "mariadb"
    status: dict[str, str] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    sessions: list[tuple[int, str, str, str, str | None]] = field(default_factory=list)
    locks: list[tuple[int, str]] | None = field(default_factory=list)  # by session; None: they are not shown
    tables: dict[str, Table] = field(default_factory=lambda: {"wp_orders": orders()})
    bytes_s: float = 1e6  # replicated and received
    stopped_ratio: float = 0.0  # of the time flow control stops the writers
    queue: int = 0
    idle_s: int = 0  # since anybody asked anything on the sessions
    data_bytes: int = 48_873_472
    slow_s: float = 0.0  # each answer takes so long
    demands_tls: bool = True  # of the jobs' account, which is also the monitor's
    flushed: bool = False  # FLUSH STATUS at the next look: counters begin again
    asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._began, self._lock = time.monotonic(), threading.Lock()
        self.status = {
            "wsrep_cluster_status": "Primary", "wsrep_cluster_state_uuid": UUID, "wsrep_cluster_conf_id": "7",
            "wsrep_cluster_size": str(self.size), "wsrep_local_index": str(self.index), "wsrep_local_state": "4",
            "wsrep_local_state_comment": "Synced", "wsrep_connected": "ON", "wsrep_ready": "ON",
            "wsrep_last_committed": "90000", "wsrep_local_cached_downto": "40000",
        } | self.status  # fmt: skip
        self.variables = {
            "version": "10.11.19-MariaDB-0+deb12u1", "wsrep_reject_queries": "NONE", "wsrep_desync": "OFF",
            "wsrep_sst_donor_rejects_queries": "OFF", "wsrep_provider_options": PROVIDER_OPTIONS,
        } | (PERCONA if self.flavour == "percona" else {}) | self.variables  # fmt: skip
        self.sessions = self.sessions or [
            (1, "system user", "Sleep", "wsrep aborter idle", None), (2, "system user", "Sleep", "committed 12", None),
            (11, "shop", "Sleep", "", None), (12, "shop", "Query", "Sending data", "SELECT * FROM wp_orders"),
            (13, "thems", "Query", "Filling schema table", "SELECT ID FROM information_schema.PROCESSLIST"),
        ]  # fmt: skip

    def answer(self, statement: str) -> Answer:
        """Given a statement, return its answer, or raise what this member refuses it with."""
        time.sleep(self.slow_s)
        with self._lock:
            self.asked.append(statement)
            before = self.variables.get("pxc_maint_mode")
            answer = self._answer(" ".join(statement.split()))
            begun = before != self.variables.get("pxc_maint_mode") == "MAINTENANCE"
        if begun:  # it serves others meanwhile, and says that it did only afterwards
            time.sleep(float(self.variables["pxc_maint_transition_period"]))
        return answer

    def _answer(self, text: str) -> Answer:
        if text.startswith("SHOW GLOBAL STATUS LIKE"):
            return [("wsrep_local_recv_queue", str(self.queue))], ["Variable_name", "Value"]
        if text.startswith("SHOW GLOBAL STATUS WHERE"):
            return list(self._status().items()), ["Variable_name", "Value"]
        if text.startswith("SHOW GLOBAL VARIABLES"):
            wanted = re.findall(r"'(\w+)'", text)
            rows: list[tuple[Any, ...]] = [(key, self.variables[key]) for key in wanted if key in self.variables]
            return rows, ["Variable_name", "Value"]
        if text.startswith("SET SESSION wsrep_"):
            return NONE
        if text.startswith("SET GLOBAL"):
            return self._set(text)
        if "METADATA_LOCK" in text.upper():
            if self.locks is None:
                raise NO_PLUGIN if self.flavour == "mariadb" else NO_RIGHT
            return list(self.locks), ["ID", "HELD"]
        if "information_schema." in text:
            return self._schema(text)
        if found := re.fullmatch(r"SELECT MAX\(`\w+`\) AS highest FROM `shop`\.`(\w+)`", text):
            if self.variables["wsrep_reject_queries"] != "NONE" or self.status["wsrep_ready"] != "ON":
                raise NOT_READY
            return [(self.tables[found[1]].highest,)], ["highest"]
        raise Refusal(1064, f"You have an error in your SQL syntax near {text[:60]!r}")

    def _status(self) -> dict[str, str]:
        if self.flushed:
            self._began, self.flushed = time.monotonic() - 0.001, False
        seconds = time.monotonic() - self._began
        moving = {
            "wsrep_replicated_bytes": str(int(seconds * self.bytes_s / 2)),
            "wsrep_received_bytes": str(int(seconds * self.bytes_s / 2)),
            "wsrep_flow_control_paused_ns": str(int(seconds * self.stopped_ratio * 1e9)),
            "wsrep_local_recv_queue": str(self.queue), "Uptime": str(int(seconds) + 1),
        }  # fmt: skip
        return moving | self.status

    def _set(self, text: str) -> Answer:
        found = re.fullmatch(r"SET GLOBAL (\w+) = '?(\w+)'?", text)
        assert found
        if found[1] not in self.variables:
            raise Refusal(1193, f"Unknown system variable '{found[1]}'")
        if found[1] == "pxc_maint_mode" and found[2] == self.variables[found[1]] == "MAINTENANCE":
            raise Refusal(1105, "Can't change pxc_maint_mode from MAINTENANCE to MAINTENANCE")
        self.variables[found[1]] = found[2]
        return NONE

    def _schema(self, text: str) -> Answer:
        if "PROCESSLIST" in text:
            rows: list[tuple[Any, ...]] = [(*(*row, None)[:6], self.idle_s) for row in self.sessions]
            return rows, ["ID", "USER", "COMMAND", "STATE", "INFO", "DB", "TIME"]
        if "TABLESPACES" in text:
            if ("INNODB_SYS_TABLESPACES" in text) != (self.flavour == "mariadb"):
                raise Refusal(1109, "Unknown table in information_schema")
            return [(self.data_bytes,)], ["size"]
        rows = [
            (name, *column) for name, table in sorted(self.tables.items()) for column in table.columns
        ]  # as ordered by the statement
        return rows, ["TABLE_NAME", "COLUMN_NAME", "COLUMN_TYPE", "EXTRA"]
