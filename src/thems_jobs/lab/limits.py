"""Limits of the host's kernel that many systemds at once run into."""

from collections.abc import Callable
from pathlib import Path

# A machine's systemd, journald, logind, udev and services take some ten inotify instances; the kernel's default
# is 128 for all of root's processes together, and a systemd that gets none does not boot.
INOTIFY_INSTANCES = 1024
INOTIFY = Path("/proc/sys/fs/inotify/max_user_instances")


def raise_limits(report: Callable[[str], None]) -> None:
    """Raise the host's limits where they are too low for sixteen machines, and say so; they last until a reboot."""
    allowed = int(INOTIFY.read_text())
    if allowed < INOTIFY_INSTANCES:
        INOTIFY.write_text(str(INOTIFY_INSTANCES))
        report(f"fs.inotify.max_user_instances raised from {allowed} to {INOTIFY_INSTANCES}, until the next boot")
