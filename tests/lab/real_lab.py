"""A lab with real machines, and ways for tests to use it."""

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from thems_jobs.lab.client import RootClient
from thems_jobs.lab.errors import LabError
from thems_jobs.lab.hypervisor import HOST_KEY_PATH
from thems_jobs.lab.layout import DEFAULT_DIRECTORY, LabLayout
from waiting import eventually

BASE_VMID = 9100  # the template of these tests
# Shared with `make demo` and with earlier runs: building it takes a minute.
CACHE = Path(os.environ.get("THEMS_LAB_CACHE", DEFAULT_DIRECTORY / "cache"))


def lab_command(*arguments: str | Path) -> list[str]:
    """Return the command for `thems-jobs lab ...` of this very checkout."""
    return [sys.executable, "-c", "from thems_jobs.lab.cli import app; app()", *map(str, arguments)]


def run_lab(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run `thems-jobs lab ...` and return what it said."""
    return subprocess.run(lab_command(*arguments), capture_output=True, text=True, check=False, timeout=240)


@dataclass
class Machine:
    """A VM of the test, with ways to use it."""

    lab: "Lab"
    vmid: int
    name: str
    address: str

    @property
    def path(self) -> str:
        """Its path in the API."""
        return f"/nodes/pve1/qemu/{self.vmid}"

    def do(self, action: str, **params: str | int) -> None:
        """Start, stop, shutdown ...: wait for the task to end well."""
        self.lab.client.finish(self.lab.client.call("POST", f"{self.path}/status/{action}", **params))

    def boot(self) -> "Machine":
        """Start it and wait for its agent and its sshd."""
        self.do("start")
        return self.wait()

    def wait(self) -> "Machine":
        """Wait for its agent and its sshd."""
        eventually(self.agent_answers, f"no agent in {self.name}", within_s=60)
        eventually(lambda: self.ssh("true").returncode == 0, f"no ssh to {self.name}", within_s=60)
        return self

    def status(self) -> str:
        """Return running or stopped."""
        return str(self.lab.client.call("GET", f"{self.path}/status/current")["status"])

    def agent_answers(self) -> bool:
        """Ping the guest agent."""
        try:
            self.lab.client.call("POST", f"{self.path}/agent/ping")
        except LabError:
            return False
        return True

    def read(self, file: str) -> str:
        """Read a file through the guest agent."""
        return str(self.lab.client.call("GET", f"{self.path}/agent/file-read", file=file)["content"])

    def ssh(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run a command over SSH, with the host key that the agent gives (as `lab ssh` does, which starts slowly)."""
        layout = self.lab.layout
        known_hosts = layout.directory / f"known-{self.vmid}"
        if not known_hosts.exists():
            known_hosts.write_text(f"{self.address} {' '.join(self.read(HOST_KEY_PATH).split()[:2])}\n")
        login = [
            "nsenter", f"--net={layout.netns}", "ssh", "-F", "none", "-i", str(layout.ssh_key),
            "-o", "StrictHostKeyChecking=yes", "-o", f"UserKnownHostsFile={known_hosts}", "-o", "ConnectTimeout=5",
            f"thems@{self.address}", command,
        ]  # fmt: skip
        return subprocess.run(login, capture_output=True, text=True, check=False, timeout=60)

    def says(self, command: str) -> str:
        """Run a command over SSH that must succeed and return its output."""
        done = self.ssh(command)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def clone(self, name: str, *, full: bool = False) -> "Machine":
        """Clone it; the clone is not started."""
        return self.lab.clone(self.vmid, name, full=full)


@dataclass
class Lab:
    """A lab that is up."""

    layout: LabLayout
    client: RootClient
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def clone(self, source: int, name: str, *, full: bool = False, node: str = "pve1") -> Machine:
        """Clone a VM of a node under a new id with a new address, on pve1."""
        number = next(self.numbers)
        machine = Machine(self, 5000 + number, name, f"10.77.9.{number}")
        upid = self.client.call(
            "POST", f"/nodes/{node}/qemu/{source}/clone", newid=machine.vmid, name=name, full=int(full), target="pve1"
        )
        self.client.finish(upid)
        self.client.call("PUT", f"{machine.path}/config", ipconfig0=f"ip={machine.address}/16,gw=10.77.0.1")
        return machine

    def remove(self, machine: Machine) -> None:
        """Destroy a VM, running or not. Proxmox locks one just started again for half a minute."""
        eventually(lambda: self._stopped(machine), f"{machine.name} stays locked", within_s=60)
        self.client.finish(self.client.call("DELETE", f"{machine.path}?purge=1"))

    @staticmethod
    def _stopped(machine: Machine) -> bool:
        try:
            machine.do("stop")
        except LabError as error:
            if "got timeout" in str(error):
                return False
            raise
        return True


def connect(layout: LabLayout) -> RootClient:
    """Log in to the API of a lab."""
    return RootClient(layout, layout.endpoint.read_text().strip())


@dataclass
class NewMachine:
    """Call it with a name."""

    lab: Lab
    machines: list[Machine] = field(default_factory=list)

    def __call__(self, name: str, source: int = BASE_VMID, *, full: bool = False) -> Machine:
        """Return a new clone, not started."""
        machine = self.lab.clone(source, name, full=full)
        self.machines.append(machine)
        return machine
