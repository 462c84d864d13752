"""ProxySQL's admin interface: an SQLite database of its known tables and commands.

Layers main, runtime and disk are moved by LOAD and SAVE as in the real one; what is only in main is not done, what is
not on disk is gone after a restart. `look` is one round of its Galera monitor, with max_writers=1 and
writer_is_also_reader=2, by what version 2.7 does (lib/MySQL_HostGroups_Manager.cpp, lib/MySQL_Monitor.cpp):

- Of the healthy the heaviest is the writer; the others are SHUNNED in the writers' group and ONLINE as backups and
  readers. OFFLINE_SOFT is set back to ONLINE (sysown/proxysql#5169).
- In maintenance (pxc_maint_mode) a member is in the offline group and SHUNNED in its others: sessions go on (#3182).
- Ill, desynced, rejecting queries, or where the monitor cannot log in (no use_ssl, and the account demands TLS), it
  is in the offline group alone, ONLINE: its sessions are cut. So are those of a server that a LOAD takes from a group.
"""

# ruff: noqa: S608 - made of constants
import re
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from galera_stand_in import Galera
from mysql_wire import NONE, Answer, Refusal

WRITER, READER, BACKUP, OFFLINE = 10, 11, 12, 9999

SERVERS = """(
    hostgroup_id INT NOT NULL CHECK (hostgroup_id >= 0) DEFAULT 0, hostname VARCHAR NOT NULL,
    port INT CHECK (port >= 0 AND port <= 65535) NOT NULL DEFAULT 3306,
    gtid_port INT NOT NULL DEFAULT 0,
    status VARCHAR CHECK (UPPER(status) IN ('ONLINE', 'SHUNNED', 'OFFLINE_SOFT', 'OFFLINE_HARD'))
        NOT NULL DEFAULT 'ONLINE',
    weight INT CHECK (weight >= 0 AND weight <= 10000000) NOT NULL DEFAULT 1,
    compression INT NOT NULL DEFAULT 0, max_connections INT NOT NULL DEFAULT 1000,
    max_replication_lag INT NOT NULL DEFAULT 0, use_ssl INT NOT NULL DEFAULT 0,
    max_latency_ms INT UNSIGNED NOT NULL DEFAULT 0, comment VARCHAR NOT NULL DEFAULT '',
    PRIMARY KEY (hostgroup_id, hostname, port))"""
GROUPS = """(
    writer_hostgroup INT CHECK (writer_hostgroup >= 0) NOT NULL PRIMARY KEY,
    backup_writer_hostgroup INT NOT NULL, reader_hostgroup INT NOT NULL, offline_hostgroup INT NOT NULL,
    active INT CHECK (active IN (0, 1)) NOT NULL DEFAULT 1, max_writers INT NOT NULL CHECK (max_writers >= 0) DEFAULT 1,
    writer_is_also_reader INT CHECK (writer_is_also_reader IN (0, 1, 2)) NOT NULL DEFAULT 0,
    max_transactions_behind INT CHECK (max_transactions_behind >= 0) NOT NULL DEFAULT 0, comment VARCHAR)"""
POOL = """(
    hostgroup INT, srv_host VARCHAR, srv_port INT, status VARCHAR, ConnUsed INT, ConnFree INT, ConnOK INT, ConnERR INT,
    MaxConnUsed INT, Queries INT, Queries_GTID_sync INT, Bytes_data_sent INT, Bytes_data_recv INT, Latency_us INT)"""
COMMAND = re.compile(r"(LOAD|SAVE) MYSQL SERVERS (?:TO|FROM) (RUNTIME|DISK|MEMORY)", re.IGNORECASE)


@dataclass
class ProxySqlServer:
    """One ProxySQL before members (by ip:port), each of which says itself how it is."""

    members: dict[str, Galera]
    flips_back: bool = True  # OFFLINE_SOFT that an operator set does not last
    monitors: bool = True  # it looks by itself after a statement, if the last time is so long ago
    interval_s: float = 0.0
    visitors: int = 0  # sessions that the shop has on the writer
    stay_s: float = 0.0  # how long a session goes on after it has another writer
    asked: list[str] = field(default_factory=list)
    used: dict[str, int] = field(default_factory=dict)  # sessions by ip:port
    cut: list[str] = field(default_factory=list)  # where a session was cut
    before_load: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self._db = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        self._lock, self._looked = threading.Lock(), 0.0
        self._leave_at: dict[str, float] = {}  # by ip:port
        self._db.execute("ATTACH ':memory:' AS disk")
        for layer in ("main.", "main.runtime_", "disk."):
            self._db.execute(f"CREATE TABLE {layer}mysql_servers {SERVERS}")
            self._db.execute(f"CREATE TABLE {layer}mysql_galera_hostgroups {GROUPS}")
            self._db.execute(
                f"INSERT INTO {layer}mysql_galera_hostgroups VALUES ({WRITER}, {BACKUP}, {READER}, {OFFLINE}, "
                "1, 1, 2, 100, 'shop')"
            )
        self._db.execute(f"CREATE TABLE main.stats_mysql_connection_pool {POOL}")

    def fill(self, names: dict[str, str]) -> None:
        """Given names by ip:port, have them as after a provision: the first one writes."""
        for number, (address, name) in enumerate(names.items()):
            host, port = address.split(":")
            group = BACKUP if number else WRITER
            self._db.execute(
                "INSERT INTO mysql_servers (hostgroup_id, hostname, port, weight, use_ssl, comment) "
                "VALUES (?, ?, ?, ?, 1, ?)",
                (group, host, port, 1000 - 10 * number, name),
            )
        self.answer("LOAD MYSQL SERVERS TO RUNTIME")
        self.answer("SAVE MYSQL SERVERS TO DISK")

    def answer(self, statement: str) -> Answer:
        """Given a statement or a command, do as the admin interface does."""
        with self._lock:
            self.asked.append(statement)
            if command := COMMAND.fullmatch(statement.strip().rstrip(";")):
                self._move(command[1].upper(), command[2].upper())
                return NONE
            if statement == "PROXYSQL RELOAD TLS":
                return NONE
            if "stats_mysql_connection_pool" in statement:
                self._refresh_pool()
            try:
                cursor = self._db.execute(statement)
            except sqlite3.Error as error:
                raise Refusal(1045, f"ProxySQL Admin Error: {error}") from None
            rows = [tuple(None if value is None else str(value) for value in row) for row in cursor.fetchall()]
            if self.monitors and statement.startswith("SELECT") and self._due():
                self._look()
            return rows, [column[0] for column in cursor.description] if cursor.description else []

    def restart(self) -> None:
        """Begin again with what is on disk."""
        with self._lock:
            self._copy("disk.", "main.")
            self._copy("disk.", "main.runtime_")

    def look(self) -> None:
        """One round of the monitor."""
        with self._lock:
            self._look()

    def servers(self, layer: str = "runtime_") -> list[tuple[int, str, str]]:
        """Return hostgroup, comment and status of every line of a layer."""
        return [
            (int(group), str(comment), str(status))
            for group, comment, status in self._db.execute(
                f"SELECT hostgroup_id, comment, status FROM {layer}mysql_servers ORDER BY 1, 2"
            )
        ]

    def _move(self, verb: str, layer: str) -> None:
        """LOAD TO RUNTIME (from main), SAVE TO DISK (from main), and the ways back."""
        if (verb, layer) == ("LOAD", "RUNTIME"):
            self.before_load()
            self._copy("main.", "main.runtime_")
            self._end_sessions()
            if self.monitors and self._due():
                self._look()
        elif (verb, layer) == ("SAVE", "DISK"):
            self._copy("main.", "disk.")
        elif (verb, layer) == ("LOAD", "DISK"):
            self._copy("disk.", "main.")
        else:
            self._copy("main.runtime_", "main.")

    def _copy(self, source: str, target: str) -> None:
        self._db.execute(f"DELETE FROM {target}mysql_servers")
        self._db.execute(f"INSERT INTO {target}mysql_servers SELECT * FROM {source}mysql_servers")

    def _due(self) -> bool:
        return time.monotonic() - self._looked >= self.interval_s

    def _look(self) -> None:
        """Move servers by what the members say, then make the heaviest healthy one the only writer."""
        self._looked = time.monotonic()
        servers = self._db.execute(
            "SELECT hostname, port, MAX(weight), MAX(use_ssl), MAX(status = 'OFFLINE_SOFT') FROM runtime_mysql_servers "
            "GROUP BY hostname, port ORDER BY 3 DESC, 1 DESC, 2 DESC"
        ).fetchall()
        writer = ""
        for host, port, _, tls, soft in servers:
            state = self._state(f"{host}:{port}", bool(tls))
            if soft and not self.flips_back:
                groups = [(READER, "OFFLINE_SOFT")]
            elif state == "ill":
                groups = [(OFFLINE, "ONLINE")]
            elif state == "in maintenance":
                groups = [(OFFLINE, "ONLINE"), (WRITER, "SHUNNED"), (READER, "SHUNNED")]
            elif writer:
                groups = [(WRITER, "SHUNNED"), (BACKUP, "ONLINE"), (READER, "ONLINE")]
            else:
                writer, groups = f"{host}:{port}", [(WRITER, "ONLINE")]
            self._regroup(host, port, groups)
        self._end_sessions()

    def _regroup(self, host: str, port: int, groups: list[tuple[int, str]]) -> None:
        """Give a server these lines, each with whatever else is set for it."""
        where, names = "hostname = ? AND port = ?", [row[1] for row in self._db.execute(
            "SELECT * FROM pragma_table_info('mysql_servers')")]  # fmt: skip
        row = self._db.execute(f"SELECT * FROM runtime_mysql_servers WHERE {where}", (host, port)).fetchone()
        self._db.execute(f"DELETE FROM runtime_mysql_servers WHERE {where}", (host, port))
        for group, status in groups:
            line = {**dict(zip(names, row, strict=True)), "hostgroup_id": group, "status": status}
            marks = ", ".join("?" for _ in line)
            self._db.execute(f"INSERT INTO runtime_mysql_servers VALUES ({marks})", list(line.values()))

    def _state(self, address: str, tls: bool) -> str:
        member = self.members.get(address)
        if member is None or (member.demands_tls and not tls) or not _healthy(member):
            return "ill"
        return "well" if member.variables.get("pxc_maint_mode", "DISABLED") == "DISABLED" else "in maintenance"

    def _end_sessions(self) -> None:
        """The shop's sessions are on the writer. Those elsewhere end by themselves, or are cut with their line."""
        if not self.visitors:
            return
        lines = {(f"{host}:{port}", group): status for group, host, port, status in self._db.execute(
            "SELECT hostgroup_id, hostname, port, status FROM runtime_mysql_servers")}  # fmt: skip
        for address in [address for address, count in self.used.items() if count]:
            if lines.get((address, WRITER)) == "ONLINE":
                continue
            if (address, WRITER) not in lines:
                self.cut += [address] * self.used[address]
            if (address, WRITER) not in lines or time.monotonic() > self._leave_at.setdefault(
                address, time.monotonic() + self.stay_s
            ):
                self.used[address] = 0
        for (address, group), status in lines.items():
            if group == WRITER and status == "ONLINE":
                self.used[address] = self.visitors
                self._leave_at.pop(address, None)

    def _refresh_pool(self) -> None:
        self._db.execute("DELETE FROM stats_mysql_connection_pool")
        for group, host, port in self._db.execute(
            "SELECT hostgroup_id, hostname, port FROM runtime_mysql_servers"
        ).fetchall():
            used = self.used.get(f"{host}:{port}", 0) if group == WRITER else 0
            self._db.execute(
                "INSERT INTO stats_mysql_connection_pool (hostgroup, srv_host, srv_port, ConnUsed) VALUES (?, ?, ?, ?)",
                (group, host, port, used),
            )


def _healthy(member: Galera) -> bool:
    """As ProxySQL's monitor sees it; queues it looks at only with read_only=ON, so never. A donor is well to it."""
    donates = member.variables.get("wsrep_sst_donor_rejects_queries", "OFF") == "OFF"
    return (
        member.status.get("wsrep_cluster_status") == "Primary"
        and member.status.get("wsrep_local_state") in ("4", *(("2",) if donates else ()))
        and member.variables.get("wsrep_desync") == "OFF"
        and member.variables.get("wsrep_reject_queries") == "NONE"
    )
