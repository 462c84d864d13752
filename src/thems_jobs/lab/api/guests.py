"""Power and agent of the guests: the hypervisor's word, with the slowness and the faults in between."""

import contextlib
import threading
import time
from pathlib import Path

from thems_jobs.lab.api.configs import Vm
from thems_jobs.lab.api.settings import Latencies
from thems_jobs.lab.faults import Faults
from thems_jobs.lab.hypervisor import GuestError, GuestSpec, Hypervisor


class Guests:
    """A guest has power when the hypervisor says so, or while it is still at its (slow, or endless) BIOS."""

    def __init__(self, hypervisor: Hypervisor, latencies: Latencies, faults: Faults) -> None:
        self._hypervisor = hypervisor
        self._latencies = latencies
        self._faults = faults
        self._lock = threading.RLock()
        self._booting: dict[int, threading.Event] = {}  # set: power was cut meanwhile
        self._since: dict[int, float] = {}

    def power_on(self, vm: Vm, spec: GuestSpec | None, disk: Path | None) -> None:
        """Start the guest. Without a disk to boot from, or by a fault, it has power and does nothing."""
        cut = threading.Event()
        with self._lock:
            self._since[vm.vmid] = time.time()
            self._booting[vm.vmid] = cut
        if spec is None or disk is None or self._faults.takes_boot(vm.vmid, vm.values.get("name", "")):
            return
        if self._latencies.boot_s > 0:
            threading.Thread(target=self._boot_slowly, args=(spec, disk, cut), daemon=True).start()
            return
        try:
            self._boot(spec, disk, cut)
        except GuestError:
            self._forget_boot(vm.vmid)
            raise

    def _boot_slowly(self, spec: GuestSpec, disk: Path, cut: threading.Event) -> None:
        if not cut.wait(self._latencies.boot_s):
            with contextlib.suppress(GuestError):  # QEMU runs, nothing in it does
                self._boot(spec, disk, cut)

    def _boot(self, spec: GuestSpec, disk: Path, cut: threading.Event) -> None:
        self._hypervisor.start(spec, disk)
        with self._lock:
            if cut.is_set():
                self._hypervisor.kill(spec.vmid)
            else:
                self._booting.pop(spec.vmid, None)

    def power_off(self, vmid: int) -> None:
        """Cut the power."""
        self._forget_boot(vmid)
        self._hypervisor.kill(vmid)

    def ask_to_shut_down(self, vmid: int) -> None:
        """Press the button. A guest that has not booted does not listen."""
        if vmid not in self._booting:
            self._hypervisor.shutdown(vmid)

    def running(self, vmid: int) -> bool:
        """Tell whether the guest has power."""
        return vmid in self._booting or self._hypervisor.running(vmid)

    def uptime_s(self, vmid: int) -> int:
        """Return seconds since power on (or since the API saw it run first); 0 when off."""
        if not self.running(vmid):
            self._since.pop(vmid, None)
            return 0
        return int(time.time() - self._since.setdefault(vmid, time.time()))

    def memory_used(self, vmid: int) -> int:
        """Return bytes the guest uses."""
        return 0 if vmid in self._booting else self._hypervisor.memory_used(vmid)

    def agent_answers(self, vm: Vm) -> bool:
        """Tell whether a guest-ping is answered."""
        if vm.vmid in self._booting or self._faults.is_silent(vm.vmid, vm.values.get("name", "")):
            return False
        return self._hypervisor.agent_ping(vm.vmid)

    def _forget_boot(self, vmid: int) -> None:
        with self._lock:
            cut = self._booting.pop(vmid, None)
            if cut:
                cut.set()
