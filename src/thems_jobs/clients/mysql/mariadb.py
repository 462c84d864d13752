"""Database machines (MariaDB or Percona with Galera): what each one tells of itself, and switching it out and in.

A member is asked twice, with a window between: counters mean something only as differences.
"""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from thems_jobs.clients.mysql.history import History, Sample
from thems_jobs.clients.mysql.wire import Account, Row, Session, code_of, each, opened, read_account
from thems_jobs.core.facts import Member, Unknown
from thems_jobs.core.platform import DatabaseCluster
from thems_jobs.errors import Unreachable

LIMIT_S = 10.0  # for all that one server is asked, the window not counted
WINDOWS_KEPT = 5  # a window is at most so many times as long as it has to be: what was long ago says little of now
POLLS = 8  # looks at the receive queue within a window ...
BEGUN_SHARE = 1 / 16  # ... or, if the window has begun with an earlier look, within this part of one
FORGOTTEN_S = 60  # an idle session, as one by a proxy that died without a word: TCP takes two hours to notice that
NEVER = 2**64 - 1  # what Galera says for "none"
# Who copies all data: the machine's own account (for new members), that of backups, Percona's own for new members.
COPIERS = ("mysql", "thems_backup", "mysql.pxc.sst.user")
HEALTH_CHECK = (
    "information_schema"  # the machine's account asks this, too; it has chosen this database, to be told apart
)

SWITCHES = ("wsrep_reject_queries", "wsrep_desync", "wsrep_sst_donor_rejects_queries", "pxc_maint_mode")
STATUS = "SHOW GLOBAL STATUS WHERE Variable_name LIKE 'wsrep\\_%' OR Variable_name = 'Uptime'"
QUEUE = "SHOW GLOBAL STATUS LIKE 'wsrep\\_local\\_recv\\_queue'"
VARIABLES = (
    "SHOW GLOBAL VARIABLES WHERE Variable_name IN "
    "('wsrep_reject_queries', 'wsrep_desync', 'wsrep_sst_donor_rejects_queries', 'pxc_maint_mode', "
    "'wsrep_provider_options', 'version')"
)
SESSIONS = "SELECT ID, USER, COMMAND, STATE, INFO, DB, TIME FROM information_schema.PROCESSLIST"
DATA = {
    "mariadb": "SELECT SUM(FILE_SIZE) AS size FROM information_schema.INNODB_SYS_TABLESPACES",
    "percona": "SELECT SUM(FILE_SIZE) AS size FROM information_schema.INNODB_TABLESPACES",
}
OUT_OF_SERVICE = {  # by flavour: a member's switch, and what it says when the member is out, and in
    "mariadb": ("wsrep_reject_queries", "ALL", "NONE"),
    "percona": ("pxc_maint_mode", "MAINTENANCE", "DISABLED"),
}
TRANSITION = "pxc_maint_transition_period"  # seconds that Percona waits before it confirms a maintenance; 10 by default

# Statements that a change of the cluster must not meet. Comments before a statement are no part of it.
BUSY = {
    "schema change": re.compile(
        r"^\s*(/\*.*?\*/\s*)*(ALTER\s+(ONLINE\s+)?(IGNORE\s+)?TABLE|OPTIMIZE|REPAIR|TRUNCATE|RENAME\s+TABLE"
        r"|DROP\s+(TABLE|INDEX)|CREATE\s+(OR\s+REPLACE\s+)?(UNIQUE\s+|FULLTEXT\s+|SPATIAL\s+)?INDEX)\b"
        r"|pt-online-schema-change|gh-ost",
        re.IGNORECASE | re.DOTALL,
    ),
    "backup": re.compile(
        r"^\s*(BACKUP\s+(STAGE|LOCK)|FLUSH\s+TABLES\s+WITH\s+READ\s+LOCK|LOCK\s+(TABLES|INSTANCE)\s+FOR\s+BACKUP)\b"
        r"|/\*!40001 SQL_NO_CACHE \*/",  # as dumps ask
        re.IGNORECASE,
    ),
}
# The same by the locks they hold, whoever began them and however: a backup between its statements is an idle session.
# MariaDB: BACKUP STAGE and FLUSH TABLES WITH READ LOCK. Percona: LOCK TABLES or INSTANCE FOR BACKUP, and the latter.
HELD = {
    "schema change": re.compile(r"MDL_BACKUP_(DDL|ALTER_COPY)|BACKUP LOCK INTENTION_EXCLUSIVE"),
    "backup": re.compile(r"MDL_BACKUP_(START|FLUSH|WAIT_\w+|FTWRL\d)|(GLOBAL|BACKUP.*) SHARED"),
}
LOCKS = {
    "mariadb": "SELECT THREAD_ID AS ID, LOCK_MODE AS HELD FROM information_schema.METADATA_LOCK_INFO "
    "WHERE LOCK_MODE LIKE 'MDL\\_BACKUP\\_%'",
    "percona": "SELECT t.PROCESSLIST_ID AS ID, CONCAT(l.OBJECT_TYPE, ' ', l.LOCK_TYPE) AS HELD "
    "FROM performance_schema.metadata_locks l JOIN performance_schema.threads t ON t.THREAD_ID = l.OWNER_THREAD_ID "
    "WHERE l.LOCK_STATUS = 'GRANTED' AND (l.OBJECT_TYPE LIKE 'BACKUP%' OR l.OBJECT_TYPE = 'GLOBAL')",
}
# A member that was made by an older version shows no locks before its next start, or not to us: then what it says of
# its sessions must do. Unknown table; not ours to read.
NOT_SHOWN = (1109, 1142)
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}

T = TypeVar("T")


class Databases:
    """All database machines of a platform; they are asked at the same time."""

    def __init__(self, settings: DatabaseCluster, base: Path) -> None:
        """Given the folder that relative paths start from. Raise UsageError if password or CA file cannot be used."""
        self._settings = settings
        self._account: Account = read_account(
            settings.user, settings.port, base / settings.password_file, base / settings.ca_file
        )
        self._histories: dict[tuple[str, str], History] = {}

    def members(self, hosts: Mapping[str, str], window_s: float | None = None) -> dict[str, Member | Unknown]:
        """Given addresses by machine name, return what each one tells, or why it could not be had.

        The window is at least as long as asked for, by default as the settings say; it may have begun with an earlier
        look.
        """
        kept_s = WINDOWS_KEPT * self._settings.sample_s
        window = self._settings.sample_s if window_s is None else window_s

        def ask(name: str, address: str) -> Member | Unknown:
            history = self._histories.setdefault((name, address), History(kept_s))
            try:
                with opened(name, address, self._account, window + LIMIT_S) as session:
                    return self._look(session, window, history)
            except Unreachable as error:
                self._histories.pop((name, address), None)
                return Unknown(error.detail)

        return each(hosts, ask)

    def _look(self, session: Session, window_s: float, history: History) -> Member:
        """Ask one member twice, the first time maybe in an earlier look; what cannot change much is asked between."""
        now = _sample(session)
        began = history.begin(now, window_s)
        polls_s = window_s * (1 if began is now else BEGUN_SHARE)
        size = session.rows(DATA[self._settings.flavour])
        history.queues.append((now.at, _queue(now.status)))
        for poll in range(1, POLLS):
            time.sleep(max(0.0, now.at + polls_s * poll / POLLS - time.monotonic()))
            history.queues.append((time.monotonic(), _queue(_pairs(session.rows(QUEUE)))))
        variables = _pairs(session.rows(VARIABLES))
        time.sleep(max(0.0, now.at + polls_s - time.monotonic()))
        locks = self._locks(session)
        last = _sample(session)
        history.queues.append((last.at, _queue(last.status)))
        history.samples += [now, last]
        sessions = last.sessions
        return read_member(
            began.status,
            last.status,
            last.at - began.at,
            variables,
            queue=history.mean_queue(began.at),
            busy=_busy(began.sessions, sessions, locks),
            connections=sum(row["USER"] == self._settings.application.user and not _forgotten(row) for row in sessions),
            data_bytes=int(size[0]["size"]) if size and size[0]["size"] is not None else None,
        )

    def _locks(self, session: Session) -> list[Row]:
        """Return who holds which locks that stop others from changing tables, as far as the member shows it."""
        try:
            return session.rows(LOCKS[self._settings.flavour])
        except Unreachable as error:
            if code_of(error) in NOT_SHOWN:
                return []
            raise

    def reject_queries(self, name: str, address: str, on: bool) -> None:
        """Switch a member out of service, or in again; sessions that it has stay, and its queries are refused.

        Percona refuses maintenance for a member that is in it already, so what is as it should be is left alone.
        """
        switch, out, into = OUT_OF_SERVICE[self._settings.flavour]
        wanted = out if on else into
        look = f"SHOW GLOBAL VARIABLES WHERE Variable_name IN ('{switch}', '{TRANSITION}')"
        told = self._change(name, address, lambda session: _pairs(session.rows(look)))
        if told.get(switch, "").upper() == wanted:
            return
        waits_s = _number(told.get(TRANSITION)) or 0
        with opened(name, address, self._account, LIMIT_S + waits_s, waits_s) as session:
            session.do(f"SET GLOBAL {switch} = '{wanted}'")

    def differences(self, source: tuple[str, str], copy: tuple[str, str]) -> tuple[str, ...]:
        """Given name and address of a member and of a new one, return what the new one lacks of the data.

        Compared are the shop's tables, their columns, and in each table that counts its rows up, how far it has come;
        the copy is asked after it has caught up.
        """
        before = self._change(*source, self._tables)
        seen = self._change(*copy, lambda session: self._tables(session, caught_up=True))
        after = self._change(*source, self._tables)
        wrong = [f"table {table} is missing" for table in before if table not in seen and table in after]
        for table, (columns, count) in seen.items():
            known = [told for told in (before.get(table), after.get(table)) if told]
            if known and all(columns != told[0] for told in known):
                wrong.append(f"table {table} has other columns")
            elif known and not min(told[1] for told in known) <= count <= max(told[1] for told in known):
                wrong.append(f"table {table} has come to {count}, not to {known[-1][1]}")
        return tuple(sorted(wrong))

    def _tables(self, session: Session, caught_up: bool = False) -> dict[str, tuple[str, int]]:
        """Return the columns of the shop's tables, and the highest number given to a row (0: it counts none up)."""
        if caught_up:
            session.do("SET SESSION wsrep_sync_wait = 1")
        schema = self._settings.application.database
        rows = session.rows(
            "SELECT TABLE_NAME, COLUMN_NAME, COLUMN_TYPE, EXTRA FROM information_schema.COLUMNS "
            "WHERE TABLE_SCHEMA = %s ORDER BY TABLE_NAME, ORDINAL_POSITION",
            [schema],
        )
        columns: dict[str, str] = {}
        counting: dict[str, str] = {}
        for row in rows:
            table = str(row["TABLE_NAME"])
            columns[table] = f"{columns.get(table, '')}{row['COLUMN_NAME']} {row['COLUMN_TYPE']}, "
            if "auto_increment" in str(row["EXTRA"]).lower():
                counting[table] = str(row["COLUMN_NAME"])
        highest = dict.fromkeys(columns, 0)
        for table, column in counting.items():
            named = ".".join(_quoted(part) for part in (schema, table))
            found = session.rows(f"SELECT MAX({_quoted(column)}) AS highest FROM {named}")  # noqa: S608 - quoted
            highest[table] = int(found[0]["highest"] or 0)
        return {table: (columns[table], highest[table]) for table in columns}

    def _change(self, name: str, address: str, work: Callable[[Session], T]) -> T:
        with opened(name, address, self._account, LIMIT_S) as session:
            return work(session)


def read_member(
    first: Mapping[str, str],
    last: Mapping[str, str],
    seconds: float,
    variables: Mapping[str, str],
    *,
    queue: float | None,
    busy: tuple[str, ...],
    connections: int,
    data_bytes: int | None,
) -> Member:
    """Given status at both ends of a window of so many seconds, and the rest, return the member."""
    paused = _difference(first, last, "wsrep_flow_control_paused_ns")
    written = [_difference(first, last, f"wsrep_{way}_bytes") for way in ("replicated", "received")]
    lifetime = [_number(last.get(f"wsrep_{way}_bytes")) for way in ("replicated", "received")]
    uptime = _number(last.get("Uptime"))
    rates = [
        sum(value for value in values if value is not None) / over
        for values, over in ((written, seconds), (lifetime, uptime))
        if over and None not in values
    ]
    return Member(
        status=last.get("wsrep_cluster_status"),
        uuid=last.get("wsrep_cluster_state_uuid"),
        view=_number(last.get("wsrep_cluster_conf_id")),
        size=_number(last.get("wsrep_cluster_size")),
        index=_number(last.get("wsrep_local_index")),
        state=_number(last.get("wsrep_local_state")),
        connected=_switch(last.get("wsrep_connected")),
        ready=_switch(last.get("wsrep_ready")),
        switches={name: variables[name].upper() for name in SWITCHES if name in variables},
        receive_queue=queue,
        flow_control_ratio=min(1.0, paused / 1e9 / seconds) if paused is not None and seconds else None,
        window_s=seconds,
        busy=busy,
        seqno=_number(last.get("wsrep_last_committed")),
        gcache_downto=_number(last.get("wsrep_local_cached_downto")),
        gcache_bytes=_gcache(variables.get("wsrep_provider_options", "")),
        write_bytes_s=max(rates) if len(rates) == 2 else None,
        data_bytes=data_bytes,
        connections=connections,
        version=variables.get("version", ""),
    )


def _sample(session: Session) -> Sample:
    at, status = time.monotonic(), _pairs(session.rows(STATUS))
    return Sample(at, status, session.rows(SESSIONS))


def _queue(status: Mapping[str, str]) -> int | None:
    return _number(status.get("wsrep_local_recv_queue"))


def _pairs(rows: Sequence[Row]) -> dict[str, str]:
    """Given rows of SHOW, return values by name."""
    return {str(row["Variable_name"]): str(row["Value"]) for row in rows}


def _number(text: str | None) -> int | None:
    """Given a number as Galera writes it, return it; None for none, which it writes as -1 of one kind or the other."""
    if text is None or not re.fullmatch(r"\d+", text):
        return None
    return None if int(text) == NEVER else int(text)


def _switch(text: str | None) -> bool | None:
    return {"ON": True, "OFF": False}.get((text or "").upper())


def _difference(first: Mapping[str, str], last: Mapping[str, str], name: str) -> int | None:
    """Return by how much a counter grew; None if it is not there, or was set back meanwhile (FLUSH STATUS)."""
    before, after = _number(first.get(name)), _number(last.get(name))
    return None if before is None or after is None or after < before else after - before


def _gcache(options: str) -> int | None:
    """Given wsrep_provider_options, return gcache.size in bytes."""
    found = re.search(r"(?:^|;)\s*gcache\.size\s*=\s*(\d+)\s*([KMGT]?)\s*(?:;|$)", options, re.IGNORECASE)
    return int(found[1]) * UNITS[found[2].upper()] if found else None


def _forgotten(session: Row) -> bool:
    """True if nobody has asked anything on a session for so long that probably nobody will."""
    return session["COMMAND"] == "Sleep" and int(session["TIME"] or 0) > FORGOTTEN_S


def _busy(before: Sequence[Row], sessions: Sequence[Row], locks: Sequence[Row]) -> tuple[str, ...]:
    """Given the sessions at both ends of the window and the locks held, return what a change must not meet.

    A session is told of once: a dump has no statement between two tables, most others have locks and statements.
    """
    looked = {"schema change": sessions, "backup": (*before, *sessions)}
    found = {
        (what, row["ID"]): f"{what} ({' '.join(str(row['INFO']).split())[:60]})"
        for what, rows in looked.items()
        for row in rows
        if BUSY[what].search(str(row["INFO"] or ""))
    }
    here = {row["ID"] for row in before}
    for row in sessions:
        if row["ID"] in here and row["USER"] in COPIERS and row["DB"] != HEALTH_CHECK:
            found.setdefault(("backup", row["ID"]), f"a copy or backup of the whole machine, by {row['USER']}")
    users = {row["ID"]: row["USER"] for row in sessions}
    for lock in locks:
        for what, pattern in HELD.items():
            if pattern.fullmatch(str(lock["HELD"])) and lock["ID"] in users:
                found.setdefault((what, lock["ID"]), f"{what} (by {users[lock['ID']]}, {lock['HELD']})")
    return tuple(dict.fromkeys(found.values()))


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"
