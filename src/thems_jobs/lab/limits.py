"""A limit of the host's kernel that many systemds at once run into: raised by the first lab, restored by the last."""

import fcntl
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from thems_jobs.lab.layout import LabLayout

# A machine's systemd, journald, logind, udev and services take some ten inotify instances; the kernel's default
# is 128 for all of root's processes together, and a systemd that gets none does not boot.
INOTIFY_INSTANCES = 1024
INOTIFY = Path("/proc/sys/fs/inotify/max_user_instances")
RECORD = Path("/run/thems-lab-limits.json")  # forgotten at a boot, as the limit itself


@dataclass(frozen=True)
class _Raised:
    """What the first lab found, and the folders of the labs that need more."""

    found: int
    labs: list[str]


def raise_limits(
    layout: LabLayout, report: Callable[[str], None], limit: Path = INOTIFY, record: Path = RECORD
) -> None:
    """Raise the host's limit where it is too low for sixteen machines, and say so; note that this lab needs it."""
    with _alone(limit):
        allowed, known = int(limit.read_text()), _read(record)
        if allowed >= INOTIFY_INSTANCES and known is None:
            return  # somebody else's choice, or an earlier version's, which did not note what it had found
        found = known.found if known and allowed >= INOTIFY_INSTANCES else allowed
        _write(record, _Raised(found, sorted({*(known.labs if known else ()), str(layout.directory)})))
        if allowed < INOTIFY_INSTANCES:
            limit.write_text(str(INOTIFY_INSTANCES))
            report(
                f"fs.inotify.max_user_instances raised from {allowed} to {INOTIFY_INSTANCES}, until the last lab goes"
            )


def restore_limits(layout: LabLayout, limit: Path = INOTIFY, record: Path = RECORD) -> None:
    """Given a lab that is gone, put the limit back if no other lab needs it and nobody has changed it since."""
    with _alone(limit):
        known = _read(record)
        if known is None:
            return
        others = [lab for lab in known.labs if lab != str(layout.directory) and LabLayout(Path(lab)).lock.exists()]
        if others:
            _write(record, _Raised(known.found, others))
            return
        if int(limit.read_text()) == INOTIFY_INSTANCES:
            limit.write_text(str(known.found))
        record.unlink()


@contextmanager
def _alone(limit: Path) -> Iterator[None]:
    """Let one lab at a time change the limit. The lock is on the limit itself: so no lock file is left behind."""
    with limit.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _read(record: Path) -> _Raised | None:
    return _Raised(**json.loads(record.read_text())) if record.exists() else None


def _write(record: Path, raised: _Raised) -> None:
    written = record.with_suffix(".new")
    written.write_text(json.dumps(asdict(raised)))
    written.rename(record)
