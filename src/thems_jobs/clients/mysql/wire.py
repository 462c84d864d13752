"""One connection to one server of the MySQL protocol, over TLS, within a time; its errors said once.

The whole retry policy: a connection that was refused or lost at once is tried once more; one that nobody answered is
not. What was asked on a connection is not repeated.
"""

import ssl
import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from socket import SHUT_RDWR
from typing import Any, TypeVar

import pymysql
from pymysql.cursors import DictCursor
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_fixed

from thems_jobs.errors import Unreachable, UsageError
from thems_jobs.trusted_files import check_authority

CONNECT_S = 3.0  # a machine in the same house takes milliseconds
ANSWER_S = 5.0  # one answer
CUT_AGAIN_S = 0.05
AT_ONCE = 64
UNCONNECTED = (2003, 2006, 2013)  # no connection, or one that broke before it was of any use

# What pymysql raises when the other side does not speak the protocol.
_GARBAGE = (struct.error, IndexError, AssertionError, ValueError, TypeError, KeyError, AttributeError)

Row = Mapping[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Account:
    """How to log in. Host names are not compared: machines are known by addresses, and the authority is ours."""

    user: str
    port: int
    authority: ssl.SSLContext
    password: str = field(repr=False)


def read_account(user: str, port: int, password_file: Path, ca_file: Path) -> Account:
    """Given where password and authority are, return the account. Raise UsageError if one of them cannot be used."""
    try:
        password = password_file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise UsageError("unreadable-file", str(password_file), [f"it cannot be read: {reason}."]) from error
    remedy = "It is the certificate of the authority that signs the database machines' certificates."
    authority = ssl.create_default_context(cafile=str(check_authority(ca_file, remedy)))
    authority.check_hostname = False
    return Account(user, port, authority, password)


class Session:
    """A connection that is open."""

    def __init__(self, name: str, connection: "pymysql.Connection[Any]") -> None:
        self.name = name
        self._connection = connection

    def rows(self, statement: str, values: Sequence[object] = ()) -> list[Row]:
        """Ask, and return all rows, by column. Raise Unreachable if the answer does not come or is an error."""
        with _translated(self.name), self._connection.cursor(DictCursor) as cursor:
            cursor.execute(statement, values or None)
            return list(cursor.fetchall())

    def do(self, statement: str) -> None:
        """Let the server do something. Raise Unreachable if it does not say that it did."""
        with _translated(self.name), self._connection.cursor() as cursor:
            cursor.execute(statement)


def code_of(error: Unreachable) -> int:
    """Return the number of the error that the server answered with, 0 if it was none of the server's."""
    cause = error.__cause__
    return int(cause.args[0]) if isinstance(cause, pymysql.MySQLError) and cause.args else 0


@contextmanager
def opened(name: str, address: str, account: Account, limit_s: float, waits_s: float = 0.0) -> Iterator[Session]:
    """Open a session with one server for at most limit_s; then it is cut, however slowly the server still talks.

    `waits_s`: the server waits so long before it answers, on purpose. Raise Unreachable if there is none, if it is not
    one of ours, or does not let us in.
    """
    connections: list[pymysql.Connection[Any]] = []
    over, done = threading.Event(), threading.Event()

    def cut() -> None:
        over.set()
        while not done.wait(CUT_AGAIN_S):  # a connection that is just being made has no socket yet
            for connection in connections:
                with suppress(OSError, AttributeError):
                    connection._sock.shutdown(SHUT_RDWR)  # type: ignore[attr-defined]  # close() would wait for it

    timer = threading.Timer(limit_s, cut)
    timer.daemon = True
    timer.start()
    try:
        yield Session(name, _connect(name, address, account, connections, over, ANSWER_S + waits_s))
    except Unreachable as error:
        if over.is_set():
            raise Unreachable(name, f"it does not come to an end within {limit_s:g} s.") from error
        raise
    finally:
        timer.cancel()
        done.set()
        for connection in connections:
            with suppress(pymysql.MySQLError, OSError):
                connection.close()  # says goodbye and waits for nothing; unsaid, the server would log a warning


class _NoConnectionError(Unreachable):
    """Nothing was asked yet: worth another try."""


@retry(
    retry=retry_if_exception_type(_NoConnectionError), stop=stop_after_attempt(2), wait=wait_fixed(0.2), reraise=True
)
def _connect(
    name: str, address: str, account: Account, connections: list["pymysql.Connection[Any]"], over: threading.Event,
    answer_s: float,
) -> "pymysql.Connection[Any]":  # fmt: skip
    host, _, port = address.partition(":")
    connection: pymysql.Connection[Any] = pymysql.Connection(
        host=host, port=int(port or account.port), user=account.user, password=account.password, ssl=account.authority,
        connect_timeout=CONNECT_S, read_timeout=answer_s, write_timeout=ANSWER_S, charset="utf8mb4", autocommit=True,
        local_infile=False, defer_connect=True,
    )  # fmt: skip
    connections.append(connection)
    try:
        with _translated(name):
            connection.connect()
    except Unreachable as error:
        cause = error.__cause__
        final = isinstance(getattr(cause, "original_exception", None), (ssl.SSLError, TimeoutError))
        lost = isinstance(cause, pymysql.OperationalError) and cause.args[0] in UNCONNECTED
        if lost and not final and not over.is_set():
            raise _NoConnectionError(name, error.detail) from error
        raise
    return connection


@contextmanager
def _translated(name: str) -> Iterator[None]:
    """Turn whatever pymysql and the network raise into Unreachable; no password is ever among it."""
    try:
        yield
    except (pymysql.MySQLError, OSError) as error:
        raise Unreachable(name, f"{_reason(error)}.") from error
    except _GARBAGE as error:
        raise Unreachable(name, f"it does not speak the MySQL protocol ({type(error).__name__}).") from error


def _reason(error: Exception) -> str:
    """Given an error of pymysql or of the network, return what it says, without what pymysql wraps around it."""
    below = getattr(error, "original_exception", None) or error
    if isinstance(below, ssl.SSLError):
        detail = getattr(below, "verify_message", "") or below.reason or str(below)
        return f"its certificate is not one of ours ({detail})"
    if isinstance(below, OSError):
        return below.strerror or str(below) or type(below).__name__
    code, text = (*below.args, "", "")[:2]
    return f"{str(text or 'an error').rstrip('.')} ({code})"


def each(hosts: Mapping[str, str], question: Callable[[str, str], T]) -> dict[str, T]:
    """Do the same with every server at once; all are waited for before the first error is raised."""
    if not hosts:
        return {}
    with ThreadPoolExecutor(min(AT_ONCE, len(hosts))) as pool:
        futures = {name: pool.submit(question, name, address) for name, address in hosts.items()}
    return {name: future.result() for name, future in futures.items()}
