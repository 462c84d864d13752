"""HTTPS as pveproxy speaks it: the error text in the reason phrase, keep-alive that ends soon, small bodies only."""

import contextlib
import http.server
import logging
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

from thems_jobs.lab.api.dispatch import Answer, Request

IDLE_S = 5  # keep-alive
REQUESTS_PER_CONNECTION = 100
BODY_BYTES = 512 * 1024
READ_AWAY_BYTES = 4 * 1024 * 1024  # so that a client that sends first and reads then gets to read the answer
HEADER_LINES = 64

log = logging.getLogger(__name__)


class HttpsListener:
    """Accepts on some sockets; every connection has its thread."""

    def __init__(
        self, sockets: list[socket.socket], certificate: Path, key: Path, answer: Callable[[Request], Answer]
    ) -> None:
        self._sockets = sockets
        self._answer = answer
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.minimum_version = ssl.TLSVersion.TLSv1_2
        self._certificate, self._key = certificate, key
        self.read_certificate()
        self._closed = threading.Event()
        self._threads = [threading.Thread(target=self._accept, args=(s,), daemon=True) for s in sockets]

    def read_certificate(self) -> None:
        """Use what is in the files of certificate and key for new connections."""
        self._tls.load_cert_chain(self._certificate, self._key)

    def start(self) -> None:
        """Accept from now on."""
        for listening in self._sockets:
            listening.settimeout(None)
            listening.listen(128)
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Accept no more."""
        self._closed.set()
        for listening in self._sockets:
            with contextlib.suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)
            listening.close()

    def wait(self) -> None:
        """Return after close()."""
        self._closed.wait()

    def _accept(self, listening: socket.socket) -> None:
        while not self._closed.is_set():
            try:
                connection, _ = listening.accept()
            except OSError:
                if self._closed.is_set():
                    return
                continue
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            connection.settimeout(IDLE_S)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._tls.wrap_socket(connection, server_side=True) as encrypted:
                Conversation(encrypted, self._answer)
        except (OSError, ssl.SSLError) as error:
            log.debug("connection ended: %s", error)
        finally:
            connection.close()


class Conversation(http.server.BaseHTTPRequestHandler):
    """The requests of one connection."""

    protocol_version = "HTTP/1.1"
    server_version = "pve-api-daemon/3.0"
    sys_version = ""
    timeout = IDLE_S

    def __init__(self, connection: ssl.SSLSocket, answer: Callable[[Request], Answer]) -> None:
        self._answer = answer
        self._served = 0
        super().__init__(connection, ("", 0), None)  # type: ignore[arg-type]

    def _serve_one(self) -> None:
        self._served += 1
        if len(self.headers) > HEADER_LINES:
            self._send(Answer(501, f"too many http header lines (> {HEADER_LINES})", b""))
            return
        length = self.headers.get("Content-Length", "0")
        if not length.isdigit() or int(length) > BODY_BYTES:
            self.rfile.read(min(int(length), READ_AWAY_BYTES) if length.isdigit() else 0)
            self._send(Answer(501, "for data too large", b""))
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        self._send(self._answer(Request(self.command, self.path, headers, self.rfile.read(int(length)))))

    do_GET = do_POST = do_PUT = do_DELETE = _serve_one  # noqa: N815

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what cannot be parsed, or a verb nobody knows."""
        del explain
        if code == 501:
            message = f"method '{self.command}' not available"
        self._send(Answer(code, message or "bad request", b""))

    def _send(self, answer: Answer) -> None:
        if answer.status >= 400 or self._served >= REQUESTS_PER_CONNECTION:
            self.close_connection = True
        self.send_response(answer.status, answer.reason)
        self.send_header("Cache-Control", "max-age=0")
        self.send_header("Pragma", "no-cache")
        if answer.body:
            self.send_header("Content-Type", "application/json;charset=UTF-8")
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("Connection", "close" if self.close_connection else "Keep-Alive")
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Requests are counted, not logged."""
