"""Real lab machines: systemd-nspawn on overlay disks, one network namespace and control group each.

Runs inside the lab's own namespaces only (see world.py): killing their first process removes all of it.
"""

import os
import signal
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from thems_jobs.lab import disks, first_boot, guest_agent, network
from thems_jobs.lab.cgroups import LabGroups
from thems_jobs.lab.hypervisor import GuestError, GuestSpec

REBOOT_STATUS = 133  # systemd-nspawn --keep-unit: "start me again"
POWER_OFF_SIGNAL = signal.SIGRTMIN + 4  # systemd as pid 1: clean power off, as after an ACPI power button
START_TIMEOUT_S = 30.0


@dataclass
class _Machine:
    spec: GuestSpec
    disk: Path
    root: Path
    leaf: str  # its control group
    leader: int | None = None  # pid 1 of the guest, as seen from the lab
    killed: bool = False
    frozen: bool = False
    off: threading.Event = field(default_factory=threading.Event)


class NspawnHypervisor:
    """Real machines. Given a folder for consoles' output and the lab's control groups."""

    def __init__(self, logs: Path, groups: LabGroups, mounts: Path = Path("/run/lab")) -> None:
        """Mount points of running machines are made below `mounts`."""
        self._logs = logs
        self._groups = groups
        self._mounts = mounts
        self._machines: dict[int, _Machine] = {}
        self._lock = threading.Lock()

    def create_disk(self, disk: Path, source: Path | None, *, linked: bool) -> None:
        """Make the disk: empty, a linked clone, or a full copy that shares only a base image."""
        disks.create_disk(disk, source, linked=linked)

    def delete_disk(self, disk: Path) -> None:
        """Remove the disk; nothing happens when there is none."""
        disks.delete_disk(disk)

    def start(self, spec: GuestSpec, disk: Path) -> None:
        """Boot the guest; return when its pid 1 runs. Raise GuestError when it does not."""
        machine = _Machine(spec, disk, self._mounts / str(spec.vmid), leaf=f"vm{spec.vmid}")
        with self._lock:
            if spec.vmid in self._machines:
                raise GuestError(f"VM {spec.vmid} already running")
            self._machines[spec.vmid] = machine
        try:
            disks.mount_disk(disk, machine.root)
            first_boot.prepare(machine.root, spec)
            network.plug(spec)
            self._groups.make(machine.leaf)
            self._groups.limit_memory(machine.leaf, spec.memory_mib)
            self._groups.make(f"{machine.leaf}/agent")
        except BaseException:
            self._clear_away(machine)
            raise
        threading.Thread(target=self._keep_powered, args=(machine,), name=machine.leaf, daemon=True).start()
        deadline = time.monotonic() + START_TIMEOUT_S
        while machine.leader is None:
            if machine.off.wait(0.01) or time.monotonic() > deadline:
                self.kill(spec.vmid)
                raise GuestError(f"start failed: the guest's pid 1 did not start; see {self._console(machine)}")

    def kill(self, vmid: int) -> None:
        """Power off hard and wait until nothing of the guest is left. Idempotent."""
        machine = self._machines.get(vmid)
        if machine is None:
            return
        machine.killed = True
        while not machine.off.is_set():
            self._groups.kill(machine.leaf)  # again and again: it may just be between two boots
            machine.off.wait(0.05)

    def shutdown(self, vmid: int) -> None:
        """Press the power button and return at once."""
        machine = self._machines.get(vmid)
        if machine is not None and machine.leader is not None:
            with suppress(ProcessLookupError):
                os.kill(machine.leader, POWER_OFF_SIGNAL)

    def running(self, vmid: int) -> bool:
        """Tell whether the guest has power."""
        return vmid in self._machines

    def agent_ping(self, vmid: int) -> bool:
        """Tell whether the guest has reached multi-user, is not frozen and not shutting down."""
        machine = self._machines.get(vmid)
        return (
            machine is not None
            and machine.leader is not None
            and not machine.frozen
            and guest_agent.answers(machine.leader)
        )

    def agent_exec(self, vmid: int, argv: list[str], input_data: bytes) -> tuple[int, bytes, bytes]:
        """Run argv in the guest; return exit code, stdout, stderr. Raise GuestError if argv[0] is missing."""
        return guest_agent.execute(*self._agent(vmid), argv, input_data)

    def agent_read(self, vmid: int, path: str) -> bytes:
        """Return the content of a file of the guest. Raise GuestError if it cannot be read."""
        return guest_agent.read_file(*self._agent(vmid), path)

    def agent_write(self, vmid: int, path: str, content: bytes) -> None:
        """Write a file of the guest. Raise GuestError if that fails."""
        guest_agent.write_file(*self._agent(vmid), path, content)

    def agent_interfaces(self, vmid: int) -> list[dict[str, object]]:
        """Return what qga guest-network-get-interfaces returns."""
        self._agent(vmid)
        return network.interfaces(vmid)

    def cut_network(self, vmid: int, cut: bool) -> None:
        """Unplug the guest's network cables, or plug them in again."""
        self._powered(vmid)
        network.cut(vmid, cut)

    def freeze(self, vmid: int, frozen: bool) -> None:
        """Stop the guest's processors, or let them go on."""
        machine = self._powered(vmid)
        self._groups.freeze(machine.leaf, frozen)
        machine.frozen = frozen

    def memory_used(self, vmid: int) -> int:
        """Return the bytes the guest uses; 0 when it is off."""
        machine = self._machines.get(vmid)
        return self._groups.memory_used(machine.leaf) if machine is not None else 0

    def _powered(self, vmid: int) -> _Machine:
        machine = self._machines.get(vmid)
        if machine is None:
            raise GuestError(f"VM {vmid} not running")
        return machine

    def _agent(self, vmid: int) -> tuple[int, list[Path]]:
        """Return the guest's pid 1 and the control groups its agent's commands run in."""
        machine = self._machines.get(vmid)
        if machine is None or machine.leader is None or not self.agent_ping(vmid):
            raise GuestError(guest_agent.NOT_RUNNING)
        return machine.leader, self._groups.make(f"{machine.leaf}/agent")

    def _keep_powered(self, machine: _Machine) -> None:
        """Run the guest until it powers off or is killed; a reboot inside starts it again."""
        status: int | None = REBOOT_STATUS
        try:
            while status == REBOOT_STATUS and not machine.killed:
                with self._console(machine).open("ab") as console:
                    process = subprocess.Popen(
                        self._boot_command(machine), stdin=subprocess.DEVNULL, stdout=console, stderr=console
                    )
                    self._find_leader(machine, process)
                    status = process.wait()
                machine.leader = None
        finally:
            self._clear_away(machine)

    def _boot_command(self, machine: _Machine) -> list[str]:
        folders = self._groups.make(machine.leaf)
        joins = "".join(f'echo $$ > "{folder}/cgroup.procs"; ' for folder in folders)
        return [
            "sh", "-c", joins + 'exec "$@"', "boot",
            "env", "SYSTEMD_NSPAWN_API_VFS_WRITABLE=network",  # a guest sets its own network's sysctls
            "systemd-nspawn", "-q", "-b", "-D", str(machine.root), "-M", f"vm{machine.spec.vmid}",
            f"--hostname={machine.spec.name}", "--register=no", "--keep-unit", "--console=read-only",
            f"--network-namespace-path=/run/netns/{network.namespace_name(machine.spec.vmid)}",
            "--capability=CAP_NET_ADMIN",  # keepalived moves addresses
            "--resolv-conf=off", "--timezone=off", "--link-journal=no",
        ]  # fmt: skip

    def _find_leader(self, machine: _Machine, process: subprocess.Popen[bytes]) -> None:
        """Wait until one of nspawn's children is pid 1 of its namespace and is systemd; note it as the leader."""
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while process.poll() is None:
            with suppress(OSError):
                for child in children.read_text().split():
                    if _is_guest_init(Path("/proc") / child):
                        machine.leader = int(child)
                        return
            time.sleep(0.01)

    def _clear_away(self, machine: _Machine) -> None:
        """Unmount the disk and remove the guest's namespace and groups; only then is it off."""
        vmid = machine.spec.vmid
        self._groups.kill(machine.leaf)
        self._groups.remove(machine.leaf)
        network.unplug(vmid)
        disks.unmount_disk(machine.root)
        with self._lock:
            del self._machines[vmid]
        machine.off.set()

    def _console(self, machine: _Machine) -> Path:
        return self._logs / f"console-{machine.spec.vmid}.log"


def _is_guest_init(process: Path) -> bool:
    status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines() if ":\t" in line)
    return status["Name"] == "systemd" and status["NSpid"].split()[-1] == "1"
