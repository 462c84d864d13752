"""Control groups of a lab: one folder of its own, one below it per machine, the same way on every host.

Inside the lab /sys/fs/cgroup is always the unified (v2) tree, so machines boot alike on unified and on hybrid hosts.
Where the host keeps the memory controller in its v1 tree, machines are entered there too.
"""

import errno
import os
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from thems_jobs.lab.errors import LabError

V1_MEMORY = Path("/run/lab/cgroup-memory")
UNIFIED = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class HostTrees:
    """Where the host has mounted the unified tree and, when memory is counted by v1, that tree."""

    unified: Path
    v1_memory: Path | None


def find_trees() -> HostTrees:
    """Return the host's control group mounts. Raise LabError when it has no unified tree."""
    unified: Path | None = None
    v1_memory: Path | None = None
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, kind, options, *_ = line.split()
        if kind == "cgroup2" and unified is None:
            unified = Path(place)
        if kind == "cgroup" and "memory" in options.split(","):
            v1_memory = Path(place)
    if unified is None:
        raise LabError(
            "no cgroup2 file system is mounted, and lab machines run systemd, which needs one: "
            "run `mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 none /sys/fs/cgroup/unified`, then try again"
        )
    return HostTrees(unified, v1_memory)


def show_unified(trees: HostTrees) -> None:
    """In the lab's own mount namespace, put the unified tree where systemd looks for it."""
    if trees.v1_memory is not None:
        V1_MEMORY.mkdir(parents=True)
        subprocess.run(["mount", "--bind", str(trees.v1_memory), str(V1_MEMORY)], check=True)
    if trees.unified != UNIFIED:
        subprocess.run(["mount", "--bind", str(trees.unified), str(UNIFIED)], check=True)


def remove_lab_groups(name: str) -> None:
    """Remove what a stopped lab left in the host's trees. Raise LabError when processes are still in there."""
    trees = find_trees()
    for tree in (trees.unified, trees.v1_memory):
        if tree is not None and not _remove_tree(tree / name, within_s=5.0):
            raise LabError(f"control group {tree / name} cannot be removed: processes of the lab are still in it")


def kill_lab_groups(name: str) -> None:
    """Kill whatever still runs in the lab's groups (nothing, unless the lab was cut off while it started)."""
    _kill(find_trees().unified / name)


class LabGroups:
    """The lab's folder in both trees, seen from inside the lab."""

    def __init__(self, name: str) -> None:
        """Make the lab's groups and move this process into one of them."""
        self._unified = UNIFIED / name
        self._v1_memory = V1_MEMORY / name if V1_MEMORY.is_dir() else None
        self._unified.mkdir(exist_ok=True)
        if self._v1_memory is not None:
            self._v1_memory.mkdir(exist_ok=True)
        self.enter("world")
        # Without these (a container's root group that holds processes) machines run uncounted: memory is read as 0.
        for group in (UNIFIED, self._unified):
            for controller in ("memory", "pids"):
                with suppress(OSError):
                    (group / "cgroup.subtree_control").write_text(f"+{controller}")

    def enter(self, leaf: str) -> None:
        """Move the calling process into the leaf."""
        for folder in self.make(leaf):
            (folder / "cgroup.procs").write_text(str(os.getpid()))

    def make(self, leaf: str) -> list[Path]:
        """Make the folders of a leaf, if need be, and return them."""
        folders = [self._unified / leaf]
        if self._v1_memory is not None:
            folders.append(self._v1_memory / leaf.split("/")[0])
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        return folders

    def limit_memory(self, leaf: str, memory_mib: int) -> None:
        """Give a machine no more memory than its VM has; where nothing counts memory, nothing limits it."""
        limit = str(memory_mib * 1024 * 1024)
        with suppress(OSError):
            if self._v1_memory is not None:
                (self._v1_memory / leaf / "memory.limit_in_bytes").write_text(limit)
            else:
                (self._unified / leaf / "memory.max").write_text(limit)

    def memory_used(self, leaf: str) -> int:
        """Return the bytes a machine uses, without file cache that could be dropped; 0 where nothing counts them."""
        with suppress(OSError):
            if self._v1_memory is not None:
                folder, usage, cache = self._v1_memory / leaf, "memory.usage_in_bytes", "total_inactive_file"
            else:
                folder, usage, cache = self._unified / leaf, "memory.current", "inactive_file"
            numbers = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            return max(int((folder / usage).read_text()) - int(numbers[cache]), 0)
        return 0

    def kill(self, leaf: str) -> None:
        """Kill every process of a machine, frozen or not; nothing happens when its group is gone."""
        _kill(self._unified / leaf)

    def freeze(self, leaf: str, frozen: bool) -> None:
        """Stop every process of a machine, or let them go on."""
        (self._unified / leaf / "cgroup.freeze").write_text("1" if frozen else "0")

    def remove(self, leaf: str) -> bool:
        """Remove a machine's groups; return False when processes were still in them after five seconds."""
        trees = [tree for tree in (self._unified, self._v1_memory) if tree is not None]
        removed = [_remove_tree(tree / leaf, within_s=5.0) for tree in trees]  # each is tried
        return all(removed)


def _kill(group: Path) -> None:
    try:
        (group / "cgroup.kill").write_text("1")
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENODEV):  # ENODEV: removed between open and write
            raise


def _remove_tree(folder: Path, within_s: float) -> bool:
    """Remove a control group with all below it; a group whose last process is just ending is waited for."""
    deadline = time.monotonic() + within_s
    while folder.is_dir():
        for inner, _, _ in os.walk(folder, topdown=False):
            with suppress(OSError):
                Path(inner).rmdir()
        if not folder.is_dir():
            break
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
