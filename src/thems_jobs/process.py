"""Knowing a process of this machine again: whether the run that holds a lease is still alive."""

import os
from pathlib import Path


def identify() -> str:
    """Return what identifies this process among all that ever ran: boot, pid namespace, pid, start time."""
    return f"{_here()}.{os.getpid()}.{_started(os.getpid())}"


def is_over(identity: str) -> bool:
    """Given an identity, return True only if it was a process of this boot and pid namespace that is certainly gone."""
    here, _, rest = identity.partition(".")
    pid, _, started = rest.partition(".")
    return here == _here() and pid.isdigit() and _started(int(pid)) != started


def _here() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")[:12]
    return f"{boot}-{Path('/proc/self/ns/pid').stat().st_ino}"


def _started(pid: int) -> str:
    """Return the start time of a process in clock ticks since boot (proc(5), field 22), "" if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
