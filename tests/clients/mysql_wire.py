"""Servers that speak the MySQL protocol over TLS, in this process, as unkind as real ones can be.

The protocol is mysql-mimic's; what stands between it and the client is a relay that can be slow, deaf, refuse, cut
an answer in its middle or talk nonsense.
"""

import asyncio
import ssl
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trustme
from mysql_mimic import IdentityProvider, MysqlServer, NativePasswordAuthPlugin, Session, User
from mysql_mimic.errors import ErrorCode, MysqlError

Rows = list[tuple[Any, ...]]
Answer = tuple[Rows, list[str]]  # rows and columns
Answering = Callable[[str], Answer]  # given a statement; raises Refusal
NONE: Answer = ([], [])


class Refusal(Exception):
    """An error that the server answers with."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass
class Trouble:
    """What is wrong with the way to a server."""

    refuse: bool = False  # connections are closed at once
    deaf: bool = False  # they are taken, and nothing is ever said
    nonsense: bytes = b""  # said instead of the protocol
    cut_after: int | None = None  # bytes of the server's after which the connection ends
    drip_s: float = 0.0  # pause between single bytes
    delay_s: float = 0.0  # before each piece that the server says


class _Accounts(IdentityProvider):
    def __init__(self, passwords: dict[str, str]) -> None:
        self._passwords = passwords

    async def get_user(self, username: str) -> User | None:
        password = self._passwords.get(username)
        hashed = NativePasswordAuthPlugin.create_auth_string(password if password is not None else "nobody's")
        return User(username, hashed, NativePasswordAuthPlugin.name)


class _Session(Session):
    """A session that passes each statement, as it is, to what answers it."""

    def __init__(self, answering: Answering) -> None:
        super().__init__()
        self._answering = answering

    async def init(self, connection: Any) -> None:
        if self.username is None:
            raise ConnectionError("a real server hangs up on a wrong password; mysql-mimic would go on")
        await super().init(connection)

    async def handle_query(self, sql: str, attrs: dict[str, str]) -> Any:  # noqa: ARG002
        if sql.upper().startswith(("SET NAMES", "SET AUTOCOMMIT", "SET CHARACTER")):
            return NONE
        try:
            return await asyncio.to_thread(self._answering, sql)
        except Refusal as refusal:
            raise MysqlError(str(refusal), _code(refusal.code)) from None


def _code(number: int) -> Any:
    """Return an error code as mysql-mimic writes it; it does not know all of them."""
    with suppress(ValueError):
        return ErrorCode(number)
    unknown = int.__new__(ErrorCode, number)
    unknown._name_, unknown._value_ = f"ER_{number}", number
    return unknown


@dataclass
class Served:
    """One server: where it is, and what is wrong with the way to it."""

    address: str  # ip:port
    trouble: Trouble


class Wires:
    """Any number of servers on one event loop, in a thread of its own, with one authority."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = trustme.CA()
        self.ca_file = folder / "database-ca.pem"
        self.authority.cert_pem.write_to_path(str(self.ca_file))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def serve(
        self, answering: Answering, passwords: dict[str, str], *, by: trustme.CA | None = None, at: str = "127.0.0.1:0"
    ) -> Served:
        """Start a server; its certificate is signed by our authority, or by another one."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        (by or self.authority).issue_cert("database.example").configure_cert(context)
        return self._run(self._serve(answering, passwords, context, at))

    def serve_openly(self, answering: Answering, passwords: dict[str, str]) -> Served:
        """Start a server without TLS."""
        return self._run(self._serve(answering, passwords, None, "127.0.0.1:0"))

    def close(self) -> None:
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _run(self, what: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(20)

    async def _stop(self) -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(
        self, answering: Answering, passwords: dict[str, str], context: ssl.SSLContext | None, at: str
    ) -> Served:
        server = MysqlServer(lambda: _Session(answering), identity_provider=_Accounts(passwords), ssl=context)
        await server.start_server(host="127.0.0.1", port=0)
        port, trouble = server.sockets()[0].getsockname()[1], Trouble()

        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with suppress(OSError, asyncio.IncompleteReadError, ConnectionError):
                await _relay(reader, writer, port, trouble)
            writer.close()

        host, _, wanted = at.partition(":")
        front = await asyncio.start_server(relay, host, int(wanted))
        return Served(f"{host}:{front.sockets[0].getsockname()[1]}", trouble)


async def _relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int, trouble: Trouble) -> None:
    """Carry a connection to the server behind, as well as the trouble lets it."""
    if trouble.refuse:
        writer.transport.abort()
        return
    if trouble.nonsense:
        writer.write(trouble.nonsense)
        await writer.drain()
        return
    if trouble.deaf:
        await reader.read()
        return
    behind_reader, behind_writer = await asyncio.open_connection("127.0.0.1", port)

    async def there() -> None:
        # The server begins TLS after the first packet; what asyncio has read before that would be lost to it.
        head = await reader.readexactly(4)
        behind_writer.write(head + await reader.readexactly(int.from_bytes(head[:3], "little")))
        await behind_writer.drain()
        await asyncio.sleep(0.005)
        for _ in range(10):
            await asyncio.sleep(0)
        while data := await reader.read(65536):
            behind_writer.write(data)

    async def back() -> None:
        said = 0
        while data := await behind_reader.read(65536):
            await asyncio.sleep(trouble.delay_s)
            if trouble.cut_after is not None and said + len(data) >= trouble.cut_after:
                writer.write(data[: trouble.cut_after - said])
                await writer.drain()
                return
            said += len(data)
            if trouble.drip_s:
                for byte in data:
                    writer.write(bytes([byte]))
                    await asyncio.sleep(trouble.drip_s)
            else:
                writer.write(data)
            await writer.drain()

    tasks = [asyncio.create_task(there()), asyncio.create_task(back())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        behind_writer.close()


@contextmanager
def open_wires(folder: Path) -> Iterator[Wires]:
    wires = Wires(folder)
    try:
        yield wires
    finally:
        wires.close()
