"""ProxySQL by its admin interface: what a proxy does with the database machines, and giving it others.

Its settings live in three layers: main, which statements change; runtime, which it works by; disk, which it starts
with. Its Galera monitor moves servers between hostgroups by itself and overwrites OFFLINE_SOFT, so a member is
drained by its own maintenance switch and never here. Of pxc_maint_mode it lets present sessions end: the member stays
in its groups as SHUNNED, and stands in the offline group, too (sysown/proxysql#3182). Of any other switch, and of a
failure, it is in the offline group alone, as ONLINE, and its sessions are cut.
"""

import hashlib
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from thems_jobs.clients.mysql.wire import Session, each, opened, read_account
from thems_jobs.core.facts import Backend, Proxy, Unknown
from thems_jobs.core.platform import DatabaseCluster
from thems_jobs.errors import EffectFailed, Transient, Unreachable

PORT = 6032
LIMIT_S = 10.0
FOLLOW_S = 10.0  # its monitor looks every second, and must have seen a change
POLL_S = 0.2
CHANGED = "its list of servers was changed by somebody else meanwhile."
FIRST_WEIGHT, WEIGHT_STEP = 1000, 10  # of equally healthy members its monitor makes the heaviest the writer

ONLINE, SOFT = "ONLINE", "OFFLINE_SOFT"
GROUPS = (
    "SELECT writer_hostgroup, backup_writer_hostgroup, reader_hostgroup, offline_hostgroup "
    "FROM runtime_mysql_galera_hostgroups WHERE active = 1"
)
SERVERS = "SELECT hostgroup_id, hostname, port, status, weight, comment FROM {layer}mysql_servers ORDER BY 1, 2, 3"
POOL = "SELECT srv_host, srv_port, SUM(ConnUsed) AS used FROM stats_mysql_connection_pool GROUP BY srv_host, srv_port"


@dataclass(frozen=True)
class Groups:
    """The hostgroups of the cluster."""

    writer: int
    backup: int
    reader: int
    offline: int


@dataclass(frozen=True)
class Line:
    """One row of mysql_servers."""

    group: int
    address: str  # ip:port
    status: str
    weight: int
    comment: str


class ProxySql:
    """All ProxySQLs of a platform; they are asked and changed at the same time."""

    def __init__(self, settings: DatabaseCluster, base: Path) -> None:
        """Given the folder that relative paths start from. Raise UsageError if password or CA file cannot be used."""
        self._port = settings.port
        password_file = base / (settings.proxysql_password_file or "")
        self._account = read_account(settings.proxysql_user, PORT, password_file, base / settings.ca_file)
        self._one_change = threading.Lock()
        self._written: dict[str, str] = {}  # generation of the list that we wrote last, by proxy

    def show(self, hosts: Mapping[str, str], members: Mapping[str, str]) -> dict[str, Proxy | Unknown]:
        """Given addresses of proxies and of members by name, return what each proxy does, or why it is not known."""

        def ask(name: str, address: str) -> Proxy | Unknown:
            try:
                with opened(name, address, self._account, LIMIT_S) as session:
                    return self._view(session, members)
            except (Unreachable, EffectFailed) as error:
                return Unknown(error.detail)

        return each(hosts, ask)

    def check(self, name: str, address: str) -> None:
        """Let a proxy take the certificate that it was given last. Raise Transient if it is not ready to be used."""
        try:
            with opened(name, address, self._account, LIMIT_S) as session:
                session.do("PROXYSQL RELOAD TLS")  # since 2.3.0; counts for new connections
                _groups(session)
        except (Unreachable, EffectFailed) as error:
            raise Transient(name, f"ProxySQL's admin interface: {error.detail}") from error

    def change(
        self,
        hosts: Mapping[str, str],
        members: Mapping[str, str],
        generations: Mapping[str, str] | None = None,
    ) -> None:
        """Give every proxy exactly these members (addresses by name); the first is to be the writer.

        Nothing is changed anywhere if a proxy does not answer, or if its list is neither of the generation given for
        it nor the one that we wrote last (Transient). Return when all proxies work by it and have it on disk, and
        their writer is the first. Raise Unreachable or EffectFailed if some may have changed and others not: the same
        change again finishes.
        """
        expected, seen = generations or {}, dict[str, str]()
        with self._one_change:
            for name, view in self.show(hosts, members).items():
                if isinstance(view, Unknown):
                    raise Unreachable(name, view.reason)
                seen[name] = view.generation
                if view.generation not in (expected.get(name, view.generation), self._written.get(name)):
                    raise Transient(name, CHANGED)
            each(hosts, lambda name, address: self._apply(name, address, members, seen[name]))

    def hand_over(self, hosts: Mapping[str, str], members: Mapping[str, str], writer: str) -> None:
        """Make one of the members the writer on every proxy, and return when it is."""
        first = {writer: members[writer]}
        self.change(hosts, first | {name: address for name, address in members.items() if name != writer})

    def _apply(self, name: str, address: str, members: Mapping[str, str], expected: str) -> None:
        with opened(name, address, self._account, LIMIT_S + FOLLOW_S) as session:
            groups, present = _groups(session), _lines(session, "")
            if _generation(present) != expected:
                raise Transient(name, CHANGED)
            wanted = self._wanted(groups, members)
            ours = [line for line in present if line.group in vars(groups).values()]
            for statement in _statements(ours, wanted):
                session.do(statement)
            self._written[name] = _generation(_lines(session, ""))
            session.do("LOAD MYSQL SERVERS TO RUNTIME")
            session.do("SAVE MYSQL SERVERS TO DISK")
            self._check(session, groups, wanted, members)

    def _wanted(self, groups: Groups, members: Mapping[str, str]) -> list[Line]:
        return [
            Line(
                groups.backup if index else groups.writer, self._with_port(address), ONLINE,
                FIRST_WEIGHT - WEIGHT_STEP * index, name,
            )
            for index, (name, address) in enumerate(members.items())
        ]  # fmt: skip

    def _check(self, session: Session, groups: Groups, wanted: list[Line], members: Mapping[str, str]) -> None:
        """Return when the proxy has on disk, and does, what was wanted. Raise EffectFailed if it does not in time."""
        ours, end = {*vars(groups).values()}, time.monotonic() + FOLLOW_S
        saved = {(line.group, line.address, line.weight) for line in _lines(session, "disk.") if line.group in ours}
        if saved != {(line.group, line.address, line.weight) for line in wanted}:
            raise EffectFailed(session.name, "its list on disk is not the one that was given to it.")
        while True:
            view = self._view(session, members)
            first = next(iter(members), "")
            if view.writer == first and set(view.backends) == set(members):
                return
            if time.monotonic() > end:
                seen = f"writer {view.writer or 'none'}, members {', '.join(sorted(view.backends)) or 'none'}"
                raise EffectFailed(session.name, f"{seen}: not writer {first}, members {', '.join(sorted(members))}.")
            time.sleep(POLL_S)

    def _view(self, session: Session, members: Mapping[str, str]) -> Proxy:
        """Return what one proxy does. An address that is no member's has the name that the list has for it."""
        groups = _groups(session)
        ours = {*vars(groups).values()}
        names = {self._with_port(address): name for name, address in members.items()}
        used = {f"{row['srv_host']}:{row['srv_port']}": int(row["used"]) for row in session.rows(POOL)}
        lines = [line for line in _lines(session, "runtime_") if line.group in ours]
        backends = {}
        for address in dict.fromkeys(line.address for line in lines):
            mine = [line for line in lines if line.address == address]
            name = names.get(address) or mine[0].comment or address
            backends[name] = Backend(address, _status(groups, mine), used.get(address, 0))
        writers = [
            names.get(line.address, line.comment or line.address)
            for line in lines
            if line.group == groups.writer and line.status == ONLINE
        ]
        return Proxy(" and ".join(sorted(writers)), backends, generation=_generation(_lines(session, "")))

    def _with_port(self, address: str) -> str:
        return address if ":" in address else f"{address}:{self._port}"


def _groups(session: Session) -> Groups:
    rows = session.rows(GROUPS)
    if len(rows) != 1:
        raise EffectFailed(
            session.name, f"it has {len(rows)} sets of Galera hostgroups, one is expected.",
            "Provision it again: thems-jobs provision --replace NAME.",
        )  # fmt: skip
    return Groups(*(int(value) for value in rows[0].values()))


def _lines(session: Session, layer: str) -> list[Line]:
    """Given a layer ("", "runtime_" or "disk."), return its list of servers."""
    return [
        Line(
            int(row["hostgroup_id"]), f"{row['hostname']}:{row['port']}", str(row["status"]), int(row["weight"]),
            str(row["comment"]),
        )
        for row in session.rows(SERVERS.format(layer=layer))
    ]  # fmt: skip


def _generation(lines: list[Line]) -> str:
    """Given the lines of main, return what tells this list from any other."""
    return hashlib.sha256("\n".join(map(str, lines)).encode()).hexdigest()[:16]


def _statements(present: list[Line], wanted: list[Line]) -> list[str]:
    """Given the lines of our groups in main and those that shall be there, return what to change.

    Of a server that stays one line is kept, moved and set right, so that whatever else was set in it stays (such as
    max_connections). Sessions and the monitor use TLS: the account of the jobs, which is the monitor's, demands it.
    """
    statements, kept = list[str](), dict[str, Line]()
    for line in wanted:
        there = sorted((old for old in present if old.address == line.address), key=lambda old: old.group != line.group)
        kept |= {line.address: there[0]} if there else {}
    statements += [f"DELETE FROM mysql_servers WHERE {_key(old)}" for old in present if old not in kept.values()]  # noqa: S608
    for line in wanted:
        host, _, port = line.address.partition(":")
        values = {
            "hostgroup_id": str(line.group), "status": _text(line.status), "weight": str(line.weight), "use_ssl": "1",
            "comment": _text(line.comment),
        }  # fmt: skip
        if old := kept.get(line.address):
            changes = ", ".join(f"{column} = {value}" for column, value in values.items())
            statements.append(f"UPDATE mysql_servers SET {changes} WHERE {_key(old)}")  # noqa: S608 - quoted
        else:
            values |= {"hostname": _text(host), "port": str(int(port))}
            statements.append(f"INSERT INTO mysql_servers ({', '.join(values)}) VALUES ({', '.join(values.values())})")  # noqa: S608
    return statements


def _key(line: Line) -> str:
    host, _, port = line.address.partition(":")
    return f"hostgroup_id = {line.group} AND hostname = {_text(host)} AND port = {int(port)}"


def _status(groups: Groups, lines: list[Line]) -> str:
    """Given all lines of one server, return up, down or drained: it takes sessions in any group but the offline one."""
    if any(line.status == ONLINE and line.group != groups.offline for line in lines):
        return "up"
    return "drained" if any(line.status == SOFT for line in lines) else "down"


def _text(value: str) -> str:
    """Given a value, return it as SQLite reads it; the admin interface knows no other quoting."""
    return "'" + value.replace("'", "''") + "'"
