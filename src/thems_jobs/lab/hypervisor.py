"""What the lab's API asks of whatever runs the guests, and a pretended one for tests without machines."""

import base64
import os
import struct
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

HOST_KEY_PATH = "/etc/ssh/ssh_host_ed25519_key.pub"


@dataclass(frozen=True)
class GuestSpec:
    """One guest as it shall run: hardware from the VM's config, the rest from its cloud-init keys."""

    vmid: int
    name: str  # hostname
    cores: int
    memory_mib: int
    addresses: tuple[str, ...]  # CIDR per NIC, e.g. ("10.77.1.11/16",)
    gateway: str | None
    mac: str
    user: str  # cloud-init ciuser
    ssh_keys: tuple[str, ...]
    instance_id: str  # first boot work is done when this differs from the one on the disk


class GuestError(Exception):
    """Something the guest or its disk refused; the text is what the real thing would give."""


class Hypervisor(Protocol):
    """Runs guests. Every call may come from any thread; calls about one VMID may come at the same time."""

    def create_disk(self, disk: Path, source: Path | None, *, linked: bool) -> None:
        """Make the directory `disk`: empty, a copy of source, or an overlay over source (left unchanged)."""

    def delete_disk(self, disk: Path) -> None:
        """Remove the disk; nothing happens when there is none."""

    def start(self, spec: GuestSpec, disk: Path) -> None:
        """Start the guest; return when its pid 1 runs. Raise GuestError if it does not."""

    def kill(self, vmid: int) -> None:
        """Power off hard. Idempotent."""

    def shutdown(self, vmid: int) -> None:
        """Ask for a clean power off and return at once."""

    def running(self, vmid: int) -> bool:
        """Tell whether the guest has power."""

    def agent_ping(self, vmid: int) -> bool:
        """Tell whether the guest agent answers: systemd is up enough to run commands."""

    def agent_exec(self, vmid: int, argv: list[str], input_data: bytes) -> tuple[int, bytes, bytes]:
        """Run argv in the guest; return exit code, stdout, stderr. Raise GuestError if argv[0] is missing."""

    def agent_read(self, vmid: int, path: str) -> bytes:
        """Return the content of a file of the guest. Raise GuestError if it cannot be read."""

    def agent_write(self, vmid: int, path: str, content: bytes) -> None:
        """Write a file of the guest. Raise GuestError if that fails."""

    def agent_interfaces(self, vmid: int) -> list[dict[str, object]]:
        """Return what qga guest-network-get-interfaces returns."""

    def cut_network(self, vmid: int, cut: bool) -> None:
        """Unplug the guest's network cable, or plug it in again."""

    def freeze(self, vmid: int, frozen: bool) -> None:
        """Stop the guest's processor, or let it go on."""

    def memory_used(self, vmid: int) -> int:
        """Return the bytes the guest uses; 0 when it is off."""


@dataclass
class _PretendGuest:
    spec: GuestSpec
    disk: Path
    answers_at: float  # time.monotonic()
    frozen: bool = False
    cut: bool = False


@dataclass
class PretendHypervisor:
    """No machines: guests "boot" after boot_delay_s and answer the agent with a generated host key."""

    boot_delay_s: float = 0.0
    shutdown_delay_s: float = 0.0
    _guests: dict[int, _PretendGuest] = field(default_factory=dict)
    _files: dict[Path, dict[str, bytes]] = field(default_factory=dict)  # by disk
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def create_disk(self, disk: Path, source: Path | None, *, linked: bool) -> None:
        """Make a directory; it has the source's files but its host key. Linked or not makes no difference."""
        del linked
        if source is not None and not source.exists():
            raise GuestError(f"volume '{source}' does not exist")
        disk.mkdir(parents=True)
        with self._lock:
            copied = dict(self._files.get(source, {})) if source else {}
            copied.pop(HOST_KEY_PATH, None)
            self._files[disk] = copied

    def delete_disk(self, disk: Path) -> None:
        """Remove the directory."""
        if disk.is_dir():
            disk.rmdir()
        with self._lock:
            self._files.pop(disk, None)

    def start(self, spec: GuestSpec, disk: Path) -> None:
        """Note the guest as running; a new disk gets its host key now."""
        with self._lock:
            files = self._files.setdefault(disk, {})
            files.setdefault(HOST_KEY_PATH, _new_host_key(spec.name))
            files["/etc/hostname"] = f"{spec.name}\n".encode()
            self._guests[spec.vmid] = _PretendGuest(spec, disk, time.monotonic() + self.boot_delay_s)

    def kill(self, vmid: int) -> None:
        """Forget the guest."""
        with self._lock:
            self._guests.pop(vmid, None)

    def shutdown(self, vmid: int) -> None:
        """Power off after shutdown_delay_s, as a guest does that listens; a frozen one does not."""
        guest = self._guests.get(vmid)

        def power_off() -> None:
            with self._lock:
                if guest is not None and self._guests.get(vmid) is guest and not guest.frozen:
                    del self._guests[vmid]

        timer = threading.Timer(self.shutdown_delay_s, power_off)
        timer.daemon = True
        timer.start()

    def running(self, vmid: int) -> bool:
        """Tell whether the guest was started and not powered off."""
        return vmid in self._guests

    def agent_ping(self, vmid: int) -> bool:
        """Answer once boot_delay_s has passed."""
        guest = self._guests.get(vmid)
        return guest is not None and not guest.frozen and time.monotonic() >= guest.answers_at

    def agent_exec(self, vmid: int, argv: list[str], input_data: bytes) -> tuple[int, bytes, bytes]:
        """Know true, false, cat (of its input), hostname and sh (does nothing); all others are missing."""
        guest = self._answering(vmid)
        match argv[0].rsplit("/", 1)[-1]:
            case "true" | "sh":
                return 0, b"", b""
            case "false":
                return 1, b"", b""
            case "cat":
                return 0, input_data, b""
            case "hostname":
                return 0, f"{guest.spec.name}\n".encode(), b""
        raise GuestError(f"Failed to execute child process “{argv[0]}” (No such file or directory)")

    def agent_read(self, vmid: int, path: str) -> bytes:
        """Return a file written before, the host key or /etc/hostname."""
        guest = self._answering(vmid)
        content = self._files[guest.disk].get(path)
        if content is None:
            raise GuestError(f"failed to open file '{path}' (mode: 'r'): No such file or directory")
        return content

    def agent_write(self, vmid: int, path: str, content: bytes) -> None:
        """Keep the file with the guest's disk."""
        self._files[self._answering(vmid).disk][path] = content

    def agent_interfaces(self, vmid: int) -> list[dict[str, object]]:
        """Return lo and one interface per address."""
        spec = self._answering(vmid).spec
        interfaces = [_interface("lo", "00:00:00:00:00:00", "127.0.0.1/8")]
        interfaces += [_interface(f"eth{n}", spec.mac.lower(), cidr) for n, cidr in enumerate(spec.addresses)]
        return interfaces

    def cut_network(self, vmid: int, cut: bool) -> None:
        """Note it."""
        self._guests[vmid].cut = cut

    def freeze(self, vmid: int, frozen: bool) -> None:
        """A frozen guest keeps running but answers nothing."""
        self._guests[vmid].frozen = frozen

    def memory_used(self, vmid: int) -> int:
        """Half of what it has."""
        guest = self._guests.get(vmid)
        return guest.spec.memory_mib * 1024 * 1024 // 2 if guest else 0

    def spec_of(self, vmid: int) -> GuestSpec:
        """Return what a running guest was started with."""
        return self._guests[vmid].spec

    def _answering(self, vmid: int) -> _PretendGuest:
        guest = self._guests.get(vmid)
        if guest is None or not self.agent_ping(vmid):
            raise GuestError("QEMU guest agent is not running")
        return guest


def _new_host_key(name: str) -> bytes:
    blob = struct.pack(">I", 11) + b"ssh-ed25519" + struct.pack(">I", 32) + os.urandom(32)
    return b"ssh-ed25519 " + base64.b64encode(blob) + f" root@{name}\n".encode()


def _interface(name: str, mac: str, cidr: str) -> dict[str, object]:
    address, _, prefix = cidr.partition("/")
    return {
        "name": name,
        "hardware-address": mac,
        "ip-addresses": [{"ip-address": address, "ip-address-type": "ipv4", "prefix": int(prefix)}],
        "statistics": {"rx-bytes": 0, "tx-bytes": 0, "rx-packets": 0, "tx-packets": 0},
    }
