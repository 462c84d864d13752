"""Platforms without machines, each a program that runs in a network of its own, and thems-jobs in them."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from thems_jobs.lab.layout import LabLayout

COMMAND = "from thems_jobs.cli import main; main()"
W = TypeVar("W", bound="World")


@dataclass
class World:
    """A platform that runs, and what may be asked of it."""

    layout: LabLayout
    process: "subprocess.Popen[str]"

    def tell(self, **order: Any) -> str:
        """Give the world an order, and return the line that it answers."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline()

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        """Start thems-jobs."""
        environment = {
            **os.environ, "THEMS_PLATFORM": str(self.layout.platform), "COLUMNS": "150",
            "ANSIBLE_SSH_TRANSFER_METHOD": "piped", "PATH": f"{self.layout.directory / 'bin'}:{os.environ['PATH']}",
        }  # fmt: skip
        return subprocess.Popen(
            [sys.executable, "-c", COMMAND, *arguments],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip


@contextmanager
def running(kind: type[W], program: str, folder: Path, *arguments: str) -> Iterator[W]:
    """Given a program beside this one and an empty folder for it, run it, and give the world that it makes."""
    with (folder / "log").open("w+") as log:
        process = subprocess.Popen(
            ["unshare", "--net", "--", sys.executable, str(Path(__file__).with_name(program)), str(folder), *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        try:
            said = process.stdout.readline()
            assert said == "ready\n", (folder / "log").read_text()[-3000:]
            layout = LabLayout(folder)
            layout.netns.symlink_to(f"/proc/{process.pid}/ns/net")
            yield kind(layout, process)
        finally:
            process.kill()
            process.wait()
