"""Tasks: a UPID at once, a worker in a thread, a log, and an exit status that is OK or the error text itself."""

import itertools
import json
import re
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from thems_jobs.lab.api.errors import ApiError
from thems_jobs.lab.hypervisor import GuestError

ARCHIVED_TASKS = 2000  # two index files of about 1000 entries
UPID = re.compile(
    r"UPID:(?P<node>[^:]+):(?P<pid>[0-9A-F]{8}):(?P<pstart>[0-9A-F]{8,9}):(?P<start>[0-9A-F]{8}):"
    r"(?P<type>[^:\s]+):(?P<id>[^:\s]*):(?P<user>[^:\s]+):"
)


class TaskStopped(Exception):
    """Somebody deleted the running task: the worker got SIGTERM."""


class WorkerDied(BaseException):
    """The worker is gone without a last line: killed, or its node crashed. Nothing is cleaned up."""


@dataclass
class Task:
    """One task; also what its worker uses to log and to sleep."""

    upid: str
    node: str
    kind: str
    subject: str  # the VMID in most cases
    user: str
    started_at: int
    log_file: Path
    status: str | None = None  # None while running
    ended_at: int | None = None
    warnings: int = 0
    ended: threading.Event = field(default_factory=threading.Event)
    _signal: threading.Event = field(default_factory=threading.Event)
    _died: bool = False

    def log(self, line: str) -> None:
        """Append a line to the log."""
        with self.log_file.open("a") as file:
            file.write(line + "\n")

    def warn(self, text: str) -> None:
        """Log a warning; it is counted in the exit status."""
        self.warnings += 1
        self.log(f"WARN: {text}")

    def sleep(self, seconds: float | None) -> None:
        """Work for so long, or for ever. Raise TaskStopped or WorkerDied if that happens meanwhile."""
        self._signal.wait(seconds)
        self.check()

    def check(self) -> None:
        """Raise TaskStopped or WorkerDied if that has happened."""
        if self._died:
            raise WorkerDied
        if self._signal.is_set():
            raise TaskStopped

    def stop(self, *, died: bool = False) -> None:
        """Send the worker SIGTERM, or let it die."""
        self._died = died
        self._signal.set()


class Tasks:
    """All tasks of all nodes; finished ones survive a restart, running ones end as `unexpected status`."""

    def __init__(self, directory: Path) -> None:
        self._logs = directory / "log"
        self._logs.mkdir(parents=True, exist_ok=True)
        self._index = directory / "index.jsonl"
        self._lock = threading.Lock()
        self._pids = itertools.count(int(time.time()) % 0x400000 + 1000)
        self._active: dict[str, Task] = {}
        self._archive: deque[Task] = deque(maxlen=ARCHIVED_TASKS)
        self._load()

    def fork(self, node: str, kind: str, subject: str | int, user: str, work: Callable[[Task], None]) -> str:
        """Start a worker and return its UPID: it says no more than that the worker was started."""
        now = int(time.time())
        pstart = int(time.monotonic() * 100) & 0xFFFFFFFF
        upid = f"UPID:{node}:{next(self._pids):08X}:{pstart:08X}:{now:08X}:{kind}:{subject}:{user}:"
        task = Task(upid, node, kind, str(subject), user, now, self._logs / upid)
        task.log_file.touch()
        with self._lock:
            self._active[upid] = task
        threading.Thread(target=self._run, args=(task, work), name=upid, daemon=True).start()
        return upid

    def find(self, upid: str) -> Task | None:
        """Return the task, or None if there is none such (any more)."""
        with self._lock:
            return self._active.get(upid) or next((t for t in self._archive if t.upid == upid), None)

    def active(self) -> list[Task]:
        """Return the running tasks, newest first."""
        with self._lock:
            return sorted(self._active.values(), key=lambda task: -task.started_at)

    def archive(self) -> list[Task]:
        """Return the finished tasks, last finished first."""
        with self._lock:
            return list(reversed(self._archive))

    def _run(self, task: Task, work: Callable[[Task], None]) -> None:
        try:
            work(task)
            status = f"WARNINGS: {task.warnings}" if task.warnings else "OK"
        except WorkerDied:
            self._finish(task, "unexpected status", None)
            return
        except TaskStopped:
            status = "received interrupt"
        except (ApiError, GuestError) as error:
            status = str(error)
        except Exception as error:  # the worker ends, whatever happened in it, and says what
            task.log(traceback.format_exc())
            status = f"{type(error).__name__}: {error}"
        if status == "OK" or status.startswith("WARNINGS: "):
            self._finish(task, status, f"TASK {status}")
        else:
            self._finish(task, " ".join(status.split("\n")), f"TASK ERROR: {status}")

    def _finish(self, task: Task, status: str, last_line: str | None) -> None:
        if last_line:
            task.log(last_line)
        with self._lock:
            task.status, task.ended_at = status, int(time.time())
            self._active.pop(task.upid, None)
            self._archive.append(task)
            with self._index.open("a") as index:
                index.write(json.dumps([task.upid, status, task.ended_at]) + "\n")
        task.ended.set()

    def _load(self) -> None:
        finished: dict[str, tuple[str, int]] = {}
        if self._index.exists():
            for line in self._index.read_text().splitlines()[-ARCHIVED_TASKS:]:
                upid, status, ended_at = json.loads(line)
                finished[upid] = (status, ended_at)
        for upid, (status, ended_at) in finished.items():
            self._restore(upid, status, ended_at)
        for log in self._logs.iterdir():
            if log.name not in finished and self._restore(log.name, "unexpected status", int(time.time())):
                with self._index.open("a") as index:
                    index.write(json.dumps([log.name, "unexpected status", int(time.time())]) + "\n")

    def _restore(self, upid: str, status: str, ended_at: int) -> bool:
        parts = UPID.fullmatch(upid)
        if parts is None:
            return False
        started_at = int(parts["start"], 16)
        task = Task(upid, parts["node"], parts["type"], parts["id"], parts["user"], started_at, self._logs / upid)
        task.status, task.ended_at = status, ended_at
        self._archive.append(task)
        return True


def describe(task: Task) -> dict[str, Any]:
    """Return what lists and status answers have in common."""
    parts = UPID.fullmatch(task.upid)
    if parts is None:
        raise AssertionError(f"a UPID of our own does not parse: {task.upid}")
    user, _, token = task.user.partition("!")
    entry: dict[str, Any] = {
        "upid": task.upid, "node": task.node, "pid": int(parts["pid"], 16), "pstart": int(parts["pstart"], 16),
        "starttime": task.started_at, "type": task.kind, "id": task.subject, "user": user,
    }  # fmt: skip
    if token:
        entry["tokenid"] = token
    return entry
