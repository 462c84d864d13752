"""Commands on machines by OpenSSH. Only host keys that were read through the guest agent are trusted."""

import shlex
import socket
import subprocess
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from thems_jobs.errors import Unreachable, UsageError
from thems_jobs.private_folder import PrivateFolder

PORT = 22
BANNER_TIMEOUT_S = 2.0  # a machine in the same network answers in milliseconds, a missing one never
CONNECT_TIMEOUT_S = 5
ALIVE_INTERVAL_S = 5  # a dead machine is noticed after two of them
FORGETS_S = 10.0  # the kernel tries an old hardware address for 5 s, asks for it three times, then looks anew: arp(7)
FORGETS_POLL_S = 0.5
PERSIST_S = 60  # a connection without commands is closed after so long, also if we are gone


@dataclass(frozen=True)
class Answer:
    """What a command did: its exit code, standard output and standard error."""

    code: int
    output: str
    error: str


class Ssh:
    """Connections to machines, one per machine, kept open and shared with Ansible until `close` or the end."""

    def __init__(self, user: str, key_file: Path, run_dir: Path) -> None:
        """Given the account, its private key and a private folder, connect to nothing yet."""
        self.user = user
        self.key_file = key_file.absolute()
        self._known_hosts = run_dir.absolute() / "known_hosts"
        self._keys: dict[str, str] = {}
        self._lock = threading.Lock()
        # A socket's path may have 107 bytes, and ssh appends a random suffix while connecting: so not in run_dir.
        self._sockets = PrivateFolder()
        self.close = weakref.finalize(self, _close_connections, self._sockets)

    @property
    def public_key(self) -> str:
        """The public half of our key, for machines to let us in. Raise UsageError if the key does not say it.

        A key that Jenkins binds to a file has no .pub beside it; so it is always asked of the private key.
        """
        asked = ["ssh-keygen", "-y", "-P", "", "-f", str(self.key_file)]
        said = subprocess.run(asked, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        if said.returncode or not said.stdout.strip():
            why = " ".join(said.stderr.split()) or "ssh-keygen said nothing"
            raise UsageError("ssh-key-unreadable", str(self.key_file), [f"this is no private key of ours: {why}."])
        return said.stdout.strip()

    @property
    def options(self) -> tuple[str, ...]:
        """The arguments of every ssh to our machines, also Ansible's. No user's or system's file counts."""
        settings = {
            "BatchMode": "yes",
            "ConnectTimeout": str(CONNECT_TIMEOUT_S),
            "ControlMaster": "auto",
            "ControlPath": f"{self._sockets.path}/%C",
            "ControlPersist": f"{PERSIST_S}s",
            "GlobalKnownHostsFile": "/dev/null",
            "IdentitiesOnly": "yes",
            "IdentityFile": f'"{self.key_file}"',
            "LogLevel": "ERROR",
            "PreferredAuthentications": "publickey",
            "ServerAliveCountMax": "2",
            "ServerAliveInterval": str(ALIVE_INTERVAL_S),
            "StrictHostKeyChecking": "yes",
            "UpdateHostKeys": "no",
            "UserKnownHostsFile": f'"{self._known_hosts}"',
        }
        return ("-F", "/dev/null", *(word for key, value in settings.items() for word in ("-o", f"{key}={value}")))

    def know(self, keys: Mapping[str, str]) -> None:
        """Given host keys ("type base64") by address, trust these from now on; a changed one ends the connection.

        Raise Unreachable if a key does not look like one: a machine said it.
        """
        for address, key in keys.items():
            if len(key.split()) != 2 or not key.startswith(("ssh-", "ecdsa-")):
                raise Unreachable(address, f"its host key is not one: {key[:60]!r}.")
        with self._lock:
            changed = {address for address, key in keys.items() if self._keys.get(address, key) != key}
            merged = {**self._keys, **keys}
            if merged != self._keys:
                self._keys = merged
                lines = [f"{address} {key}\n" for address, key in sorted(merged.items())]
                written = self._known_hosts.with_suffix(".new")
                written.write_text("".join(lines))
                written.rename(self._known_hosts)
        for address in changed:
            self._drop(address)

    def answers(self, address: str, connect_s: float = BANNER_TIMEOUT_S) -> bool:
        """Return whether an SSH server greets us at the address; one that is there takes the connection at once."""
        try:
            with socket.create_connection((address, PORT), timeout=connect_s) as connection:
                connection.settimeout(BANNER_TIMEOUT_S)
                return connection.recv(4) == b"SSH-"
        except OSError:
            return False

    def finds(self, address: str) -> bool:
        """Return whether an SSH server greets us at the address, also one that took it from a machine that is gone.

        While this host still tries the gone one's hardware address, silence means nothing: it is forgotten, or waited
        for where we may not do that.
        """
        deadline = time.monotonic() + FORGETS_S
        if _hardware_address_known(address):
            _forget_hardware_address(address)
        found, waited = self.answers(address), False
        while not found and _hardware_address_known(address) and time.monotonic() < deadline:
            time.sleep(FORGETS_POLL_S)
            waited = True
        return found or (waited and self.answers(address))

    def run(self, address: str, command: Sequence[str], stdin: str = "", timeout_s: float = 30.0) -> Answer:
        """Run a command on a machine and return what it did, whatever its exit code.

        Raise Unreachable if the machine does not answer, is not the one we know, or takes longer than timeout_s.
        Raise UsageError if our own key cannot be read.
        """
        arguments = self._arguments(address, command)
        try:
            done = subprocess.run(
                arguments, input=stdin, capture_output=True, text=True, errors="replace", timeout=timeout_s, check=False
            )
        except subprocess.TimeoutExpired:
            self._drop(address)
            raise Unreachable(address, f"no answer to {command[0]!r} within {timeout_s:g} s.") from None
        if done.returncode == 255:  # ssh's own; none of our commands ends so
            raise Unreachable(address, f"ssh: {_last_line(done.stderr) or 'connection lost'}.")
        return Answer(done.returncode, done.stdout, done.stderr)

    def begin(self, address: str, command: Sequence[str]) -> "subprocess.Popen[bytes]":
        """Begin a command on a machine whose output is read as it comes; it is the caller's to end.

        Its standard input stays open as long as we are. Raise as `run` does where it cannot begin.
        """
        arguments = self._arguments(address, command)
        return subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def _arguments(self, address: str, command: Sequence[str]) -> list[str]:
        if address not in self._keys:
            raise Unreachable(address, "its host key has not been read through the guest agent yet.")
        if not self.key_file.is_file():
            raise UsageError("ssh-key-unreadable", str(self.key_file), ["there is no such private key file."])
        return ["ssh", *self.options, f"{self.user}@{address}", "--", shlex.join(command)]

    def _drop(self, address: str) -> None:
        arguments = ["ssh", *self.options, "-O", "exit", f"{self.user}@{address}"]
        subprocess.run(arguments, capture_output=True, timeout=CONNECT_TIMEOUT_S, check=False)


def _close_connections(sockets: PrivateFolder) -> None:
    """End every connection whose control socket is in the folder, and remove the folder."""
    for path in sockets.path.glob("*"):
        arguments = ["ssh", "-F", "/dev/null", "-o", f"ControlPath={path}", "-O", "exit", "any"]
        with suppress(subprocess.TimeoutExpired):  # it ends by itself after PERSIST_S
            subprocess.run(arguments, capture_output=True, timeout=CONNECT_TIMEOUT_S, check=False)
    sockets.remove()


def _hardware_address_known(address: str) -> bool:
    """True if this host thinks that it knows who has the address (ATF_COM in the neighbour table of its network)."""
    with suppress(OSError), Path("/proc/thread-self/net/arp").open() as table:
        return any(words[0] == address and int(words[2], 16) & 0x2 for words in map(str.split, list(table)[1:]))
    return False


def _forget_hardware_address(address: str) -> None:
    """Let this host ask anew who has the address. Only root may do that; for others nothing happens."""
    with suppress(OSError):
        subprocess.run(["ip", "neighbour", "flush", "to", address], capture_output=True, check=False)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else ""
