"""What this host adds to a run: who asks, which network it is in, and where a crash is written down."""

import ctypes
import errno
import os
import pwd
import socket
import tempfile
import time
import traceback
from collections.abc import Mapping
from pathlib import Path

from thems_jobs.errors import UsageError

CLONE_NEWNET = 0x40000000  # from linux/sched.h
NAME_LIMIT = 60  # characters; a name is kept in the record, which is small


def who(environment: Mapping[str, str] = os.environ) -> str:
    """Return who asks, as far as this host knows: a person under Jenkins or sudo, or the account; and the host."""
    person = next((environment[key] for key in ("BUILD_USER", "SUDO_USER", "USER") if environment.get(key)), "")
    if not person:
        try:
            person = pwd.getpwuid(os.geteuid()).pw_name
        except KeyError:
            person = f"uid {os.geteuid()}"
    return f"{person}@{socket.gethostname()}"[:NAME_LIMIT]


def enter_network(path: str) -> None:
    """Given a network namespace's file, go there with this thread and all that it starts. Raise UsageError if not."""
    subject, lab = f"reach.netns {path}", "For the lab: thems-jobs lab up."
    needs_root = "the machines are in a network namespace that only root may enter: run it as root (sudo)."
    try:
        with Path(path).open("rb") as namespace:
            libc = ctypes.CDLL(None, use_errno=True)  # os.setns came with Python 3.12
            if libc.setns(namespace.fileno(), CLONE_NEWNET) == 0:
                return
            number = ctypes.get_errno()
    except PermissionError as error:
        raise UsageError("network-unreachable", subject, [needs_root]) from error
    except OSError as error:
        sentence = f"the machines' network namespace cannot be opened ({error.strerror})."
        raise UsageError("network-unreachable", subject, [sentence], lab) from error
    if number == errno.EPERM:
        raise UsageError("network-unreachable", subject, [needs_root])
    sentence = f"this is no network namespace that can be entered ({os.strerror(number)})."
    raise UsageError("network-unreachable", subject, [sentence], lab)


def write_crash(error: BaseException, folder: Path | None) -> Path | None:
    """Given what nobody expected, write its traceback to a file, and return that; None if no place can be written."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")  # noqa: PTH111 - must not raise
    for place in [folder, Path(state) / "thems-jobs", Path(tempfile.gettempdir())]:
        if place is None:
            continue
        path = place / f"crash-{stamp}-{os.getpid()}.log"
        try:
            place.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(traceback.format_exception(error)), encoding="utf-8", errors="replace")
        except OSError:
            continue
        return path
    return None
