"""The lab's one process as the host sees it: known by pid and start, so that no stranger is ever killed."""

import json
import os
import signal
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from thems_jobs.lab.errors import LabError

KILL_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class ProcessRecord:
    """A process of this host since its last boot."""

    pid: int
    started_ticks: int  # clock ticks after boot, from /proc/PID/stat
    boot_id: str

    def is_alive(self) -> bool:
        """Tell whether that very process still runs (a zombie does not)."""
        with suppress(OSError):
            return _boot_id() == self.boot_id and _state_and_start(self.pid) == ("alive", self.started_ticks)
        return False

    def kill(self) -> None:
        """Kill it, if it still is that process, and wait until it is gone. Raise LabError if it stays."""
        deadline = time.monotonic() + KILL_TIMEOUT_S
        while self.is_alive():
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            if time.monotonic() > deadline:
                raise LabError(f"process {self.pid} of the lab does not die; look at /proc/{self.pid}/stack")
            time.sleep(0.02)


def record_process(pid: int, file: Path) -> ProcessRecord:
    """Write down which process that is and return it."""
    record = ProcessRecord(pid, _state_and_start(pid)[1], _boot_id())
    file.write_text(json.dumps(asdict(record)) + "\n")
    return record


def read_process(file: Path) -> ProcessRecord | None:
    """Return the recorded process; None when there is no record or it was cut off while it was written."""
    try:
        return ProcessRecord(**json.loads(file.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _state_and_start(pid: int) -> tuple[str, int]:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return "dead" if fields[0] in "ZX" else "alive", int(fields[19])


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
