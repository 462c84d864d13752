"""Starting the platform without machines, and running thems-jobs on it."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thems_jobs.lab import faults
from thems_jobs.lab.layout import LabLayout

WORLD = Path(__file__).with_name("stand_in_world.py")
COMMAND = "from thems_jobs.cli import main; main()"


@dataclass(frozen=True)
class Ran:
    """What became of one command: its report, and the most memory its process ever had (children not counted)."""

    report: dict[str, Any]
    peak_mib: float


@dataclass(frozen=True)
class World:
    """The platform without machines."""

    layout: LabLayout

    def control(self, do: str, **keys: Any) -> dict[str, Any]:
        return faults.ask(self.layout.control, {"do": do, **keys})

    def run(self, *arguments: str) -> Ran:
        """Run thems-jobs to its good end."""
        peak_file = self.layout.directory / "peak"
        environment = {
            **os.environ, "THEMS_PLATFORM": str(self.layout.platform), "ANSIBLE_SSH_TRANSFER_METHOD": "piped",
            "PATH": f"{self.layout.directory / 'bin'}:{os.environ['PATH']}",
        }  # fmt: skip
        # VmHWM and not ru_maxrss, which a process inherits from the one that started it.
        at_exit = (
            "import atexit, pathlib; atexit.register(lambda: "
            f"pathlib.Path({str(peak_file)!r}).write_text(pathlib.Path('/proc/self/status').read_text()))\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", at_exit + COMMAND, *arguments, "--json", "--yes"],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        peak_kib = re.search(r"VmHWM:\s+(\d+) kB", peak_file.read_text())
        assert peak_kib is not None
        return Ran(json.loads(done.stdout), int(peak_kib[1]) / 1024)


@contextmanager
def stand_in_world(directory: Path) -> Iterator[World]:
    """Run a platform without machines in a network of its own."""
    with (directory / "log").open("w+") as log:
        process = subprocess.Popen(
            ["unshare", "--net", "--", sys.executable, str(WORLD), str(directory)],
            stdout=subprocess.PIPE, stderr=log, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        try:
            said = process.stdout.readline()
            assert said == "ready\n", (directory / "log").read_text()[-3000:]
            layout = LabLayout(directory)
            layout.netns.symlink_to(f"/proc/{process.pid}/ns/net")
            yield World(layout)
        finally:
            process.kill()
            process.wait()
