"""Copies of the database's data in a folder of this machine, streamed there from a member.

A copy is NAME.tar.gz with NAME.json beside it. It grows as NAME.tar.gz.partial; the rename, last of all, makes it
count.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import selectors
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from thems_jobs.clock import detached
from thems_jobs.core.backups import CLOCKS_DIFFER_S
from thems_jobs.core.facts import Backup, Unknown
from thems_jobs.errors import EffectFailed, Transient, Unreachable

CHUNK = 1 << 20
TAIL = 1 << 16  # of what a machine says on standard error, so much is kept
STALLED_S = 180.0  # without a byte or a word; a copy that gets on says so every five seconds
ANSWERS_S = 10.0  # a folder that does not answer for so long is on a share that hangs
LOOK_S = 0.2  # how soon a cancel is noticed
COPY, PARTIAL, NOTE = ".tar.gz", ".tar.gz.partial", ".json"
ENDS_S = 10.0  # from the end of its output to its own
BAD_USAGE, UNEXPECTED, CONNECTION = 2, 9, 255  # exit codes: the program's for arguments and states, and ssh's own
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Backups:
    """The backup folder of one platform's database tier."""

    def __init__(
        self, folder: Path, prefix: str, keep: int, stalled_s: float = STALLED_S, answers_s: float = ANSWERS_S
    ) -> None:
        """Given the folder, how the tier's machines' names begin, and how many copies are kept, touch nothing yet."""
        self._folder = folder
        self._name = re.compile(rf"{re.escape(prefix)}\d+-\d{{8}}T\d{{6}}Z")
        self._keep = keep
        self._stalled_s = stalled_s
        self._answers_s = answers_s
        self._looking: Future[Backup | Unknown | None] | None = None
        self._until = 0.0
        self._beginning = threading.Lock()
        self._cancelled = threading.Event()
        self._under_way: set[str] = set()

    @property
    def under_way(self) -> frozenset[str]:
        """The members that are copied just now."""
        return frozenset(self._under_way)

    def newest(self) -> Backup | Unknown | None:
        """Return the newest whole copy, None if there is none, or why the folder cannot be used.

        A share that hangs holds whoever looks at it: that is one thread, which no run waits for longer than once.
        """
        with self._beginning:
            if self._looking is None or self._looking.done():
                self._until, self._looking = time.monotonic() + self._answers_s, detached(self._look)
            looking, until = self._looking, self._until
        with suppress(TimeoutError):
            return looking.result(max(0.0, until - time.monotonic()))
        return Unknown(f"it does not answer within {self._answers_s:g} s")

    def _look(self) -> Backup | Unknown | None:
        try:
            there = self._folder.is_dir()
            if not os.access(self._folder if there else self._folder.parent, os.W_OK | os.X_OK):
                missing = "it is not there, and cannot be made" if not there else "it cannot be written to"
                return Unknown(f"{missing} by {self._account()}")
            return next(iter(self._whole()), None)
        except OSError as error:
            return Unknown(f"it cannot be read: {error.strerror}")

    def cancel(self) -> None:
        """End every copy that is under way or begun from now on, within a second; nothing of it remains."""
        self._cancelled.set()

    def save(self, member: str, begin: Callable[[], subprocess.Popen[bytes]]) -> Backup:
        """Given what begins to give a member's data, copy it into the folder, and remove copies beyond those kept.

        Raise EffectFailed, Transient or Unreachable if no whole copy came; then nothing of it remains.
        """
        if isinstance(there := self.newest(), Unknown):
            raise self._unusable(there.reason)
        self._under_way.add(member)
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            self._sweep()
            name = f"{member}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
            with self._partial(name) as file:
                note = self._copy(member, begin, file)
                self._write_note(name, note)
                (self._folder / f"{name}{PARTIAL}").rename(self._folder / f"{name}{COPY}")
                self._sync_folder()
            self._forget_old()
            return self._read(name) or self._lost(name)
        except OSError as error:
            raise self._unwritable(error) from error
        finally:
            self._under_way.discard(member)

    # Copying

    @contextmanager
    def _partial(self, name: str) -> Iterator[IO[bytes]]:
        """Give a new file, locked as long as we live: that is how others know that it is not left over."""
        path = self._folder / f"{name}{PARTIAL}"
        with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
            try:
                with suppress(OSError):  # a file system without locks: what is left over stays then
                    fcntl.flock(file, fcntl.LOCK_EX)
                yield file
            finally:
                path.unlink(missing_ok=True)

    def _copy(self, member: str, begin: Callable[[], subprocess.Popen[bytes]], file: IO[bytes]) -> dict[str, Any]:
        """Stream the copy into the file; return its note."""
        began = time.monotonic()
        with begin() as process:
            try:
                size, digest, said = self._stream(member, process, file)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(ENDS_S)
                code = process.poll()
            finally:
                process.kill()
        told = _last_word(said)
        if code != 0:
            raise _why(member, code, told, said)
        file.flush()
        os.fsync(file.fileno())
        try:
            return {
                "member": str(told["member"]), "uuid": str(told["uuid"]), "seqno": int(told["seqno"]),
                "stopped": bool(told["stopped"]), "version": str(told["version"]), "bytes": size, "sha256": digest,
                "at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", "seconds": round(time.monotonic() - began, 1),
            }  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            without = f"its backup came without its note: {said[-200:]!r}."
            raise EffectFailed(member, without, "Look at its log.", "backup-failed") from error

    def _stream(self, member: str, process: subprocess.Popen[bytes], file: IO[bytes]) -> tuple[int, str, str]:
        """Given a process, write what it puts out into the file until it ends; return bytes, digest and its words."""
        size, digest, said, last = 0, hashlib.sha256(), b"", time.monotonic()
        with selectors.DefaultSelector() as ready:
            for pipe in (process.stdout, process.stderr):
                if pipe is not None:
                    ready.register(pipe, selectors.EVENT_READ)
            while ready.get_map():
                for key, _ in ready.select(LOOK_S):
                    last, data = time.monotonic(), os.read(key.fd, CHUNK)
                    if not data:
                        ready.unregister(key.fileobj)
                    elif key.fileobj is process.stderr:
                        said = (said + data)[-TAIL:]
                    else:
                        file.write(data)
                        digest.update(data)
                        size += len(data)
                if self._cancelled.is_set():
                    raise EffectFailed(member, "its backup was cancelled.", "Run the command again.", "backup-failed")
                if time.monotonic() - last > self._stalled_s:
                    raise EffectFailed(
                        member, f"its backup did not get on for {self._stalled_s:g} s, after {size >> 20} MiB.",
                        "Look what its database waits for (SHOW PROCESSLIST), then run the same command again.",
                        "backup-failed",
                    )  # fmt: skip
        return size, digest.hexdigest(), said.decode(errors="replace")

    # The folder

    def _whole(self) -> list[Backup]:
        """Return all whole copies, newest first; last those whose time has not come yet: their clock was wrong."""
        if not self._folder.is_dir():
            return []
        names = [path.name.removesuffix(COPY) for path in self._folder.glob(f"*{COPY}")]
        found = [self._read(name) for name in names if self._name.fullmatch(name)]
        latest = time.time() + CLOCKS_DIFFER_S
        return sorted((b for b in found if b), key=lambda backup: (backup.at <= latest, backup.at), reverse=True)

    def _read(self, name: str) -> Backup | None:
        """Given a name, return the copy, or None if it is not whole."""
        path = self._folder / f"{name}{COPY}"
        try:
            note = json.loads((self._folder / f"{name}{NOTE}").read_text())
            if path.stat().st_size != note["bytes"]:
                return None
            at = datetime.fromisoformat(note["at"]).timestamp()
            return Backup(at, str(note["member"]), str(note["uuid"]), int(note["seqno"]), str(path))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _write_note(self, name: str, note: dict[str, Any]) -> None:
        path = self._folder / f"{name}{NOTE}"
        with os.fdopen(os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "w") as file:
            file.write(json.dumps(note, indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _sweep(self) -> None:
        """Remove what runs have left that died: files that nobody writes any more, and notes without a copy."""
        for path in self._folder.glob(f"*{PARTIAL}"):
            if self._name.fullmatch(path.name.removesuffix(PARTIAL)) and not _is_held(path):
                path.unlink(missing_ok=True)
        for path in self._folder.glob(f"*{NOTE}"):
            name = path.name.removesuffix(NOTE)
            ours = self._name.fullmatch(name)
            if ours and not any((self._folder / f"{name}{kind}").exists() for kind in (COPY, PARTIAL)):
                path.unlink(missing_ok=True)

    def _forget_old(self) -> None:
        for backup in self._whole()[self._keep :]:
            path = Path(backup.path)
            path.unlink(missing_ok=True)
            path.with_name(path.name.removesuffix(COPY) + NOTE).unlink(missing_ok=True)

    def _sync_folder(self) -> None:
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _lost(self, name: str) -> Backup:
        raise EffectFailed(str(self._folder), f"{name}{COPY} is not there any more.", "", "backup-failed")

    def _unwritable(self, error: OSError) -> EffectFailed:
        if error.errno in FULL:
            return self._unusable("it is full", "Free space there, or keep fewer copies (database.cluster.backup.keep)")
        return self._unusable(f"a backup cannot be kept there by {self._account()}: {error.strerror or error}")

    def _unusable(self, what: str, remedy: str = "Mount it, or mend its rights") -> EffectFailed:
        again = f"{remedy}, and run the same command again."
        return EffectFailed(str(self._folder), f"{what}.", again, "backup-folder")

    @staticmethod
    def _account() -> str:
        return f"the account with uid {os.geteuid()}"


def _is_held(path: Path) -> bool:
    """True if somebody who lives writes this file."""
    with suppress(FileNotFoundError), path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def _last_word(said: str) -> dict[str, Any]:
    """Given standard error, return the last line of it that is a JSON object; {} if there is none."""
    for line in reversed(said.splitlines()):
        with suppress(ValueError):
            told = json.loads(line)
            if isinstance(told, dict):
                return told
    return {}


def _why(member: str, code: int | None, told: dict[str, Any], said: str) -> Transient | EffectFailed | Unreachable:
    """Given how the program on the machine ended (None: it did not), return that as an error."""
    words = " ".join(line for line in said.splitlines() if not line.startswith("{"))[-200:]
    detail = f"{told.get('error') or words.strip().rstrip('.') or f'its backup ended with {code}'}."
    if code == UNEXPECTED:
        return Transient(member, detail)
    if code == BAD_USAGE:
        detail = "its thems-galera knows no such backup: the machine was configured by an older version."
        return EffectFailed(member, detail, "Renew its configuration: thems-jobs provision.", "backup-failed")
    if code == CONNECTION:
        return Unreachable(member, f"the connection was lost while it was copied: {detail}")
    remedy = "Look at it (journalctl, SHOW PROCESSLIST), then run the same command again."
    return EffectFailed(member, detail, remedy, "backup-failed")
