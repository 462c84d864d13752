"""What pvestatd saw in its last round. Lists show this, so they lag behind."""

import threading
from typing import Any

from thems_jobs.lab.api.configs import Configs, Vm
from thems_jobs.lab.api.guests import Guests
from thems_jobs.lab.api.settings import MIB, Settings
from thems_jobs.lab.api.values import cores_of, disk_size_of, memory_mib_of
from thems_jobs.lab.faults import Faults

SYSTEM_MEMORY = 2048 * MIB  # what a node's own system uses


class Stats:
    """Status of VMs and nodes as of the last round of each node."""

    def __init__(self, configs: Configs, guests: Guests, settings: Settings, faults: Faults) -> None:
        self._configs = configs
        self._guests = guests
        self._settings = settings
        self._faults = faults
        self._vms: dict[int, dict[str, Any]] = {}
        self._memory: dict[str, int] = {}
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._rounds, name="pvestatd", daemon=True)

    def start(self) -> None:
        """Make the first round now and go on in the background."""
        self.look()
        self._thread.start()

    def close(self) -> None:
        """Stop."""
        self._closed.set()

    def of_vm(self, vm: Vm) -> dict[str, Any]:
        """Return the fields of a VM; only status `unknown` until a round has seen it, or when its node is gone."""
        seen = self._vms.get(vm.vmid)
        if seen is None or vm.node in self._faults.offline_nodes:
            return {"status": "unknown"}
        return dict(seen)

    def node_memory_used(self, node: str) -> int:
        """Return the bytes in use on a node."""
        return SYSTEM_MEMORY + self._memory.get(node, 0)

    def forget(self, vmid: int) -> None:
        """A destroyed VM is gone from the lists at once, and its id starts unknown."""
        self._vms.pop(vmid, None)

    def look(self) -> None:
        """Make a round."""
        vms = self._configs.all()
        seen = {vm.vmid: self.now(vm) for vm in vms}
        self._memory = {
            node.name: sum(seen[vm.vmid]["mem"] for vm in vms if vm.node == node.name) for node in self._settings.nodes
        }
        self._vms = seen

    def now(self, vm: Vm) -> dict[str, Any]:
        """Return the fields of a VM as they are at this moment."""
        running = self._guests.running(vm.vmid)
        return {
            "status": "running" if running else "stopped",
            "name": vm.values.get("name", f"VM {vm.vmid}"),
            "template": int(vm.is_template),
            "maxcpu": cores_of(vm.values),
            "cpu": 0.01 if running else 0,
            "maxmem": memory_mib_of(vm.values) * MIB,
            "mem": self._guests.memory_used(vm.vmid),
            "maxdisk": disk_size_of(vm.values),
            "disk": 0,
            "uptime": self._guests.uptime_s(vm.vmid),
            "netin": 0,
            "netout": 0,
            "diskread": 0,
            "diskwrite": 0,
        }

    def _rounds(self) -> None:
        while not self._closed.wait(self._settings.stats_period_s):
            self.look()
