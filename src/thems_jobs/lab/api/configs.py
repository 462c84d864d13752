"""The configuration files of the VMs, as the cluster's file system holds them: one per VMID, on one node."""

import hashlib
import json
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from thems_jobs.lab.api.errors import failed, not_found
from thems_jobs.lab.api.files import read_json, write_json

Values = dict[str, Any]


@dataclass(frozen=True)
class Vm:
    """A VM's config as it is. Never changed in place; `pending` waits for the next cold start."""

    vmid: int
    node: str
    values: Values
    pending: Values = field(default_factory=dict)
    pending_delete: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """SHA1 of the config, pending changes included."""
        content = json.dumps([self.values, self.pending, self.pending_delete], sort_keys=True)
        return hashlib.sha1(content.encode(), usedforsecurity=False).hexdigest()

    @property
    def merged(self) -> Values:
        """The values as they will be after the next cold start."""
        kept = {key: value for key, value in self.values.items() if key not in self.pending_delete}
        return {**kept, **self.pending}

    @property
    def is_template(self) -> bool:
        """Tell whether this is a template."""
        return bool(self.values.get("template"))

    @property
    def shown_at_once(self) -> Values:
        """What lists show without waiting for pvestatd: lock and tags."""
        return {key: self.values[key] for key in ("lock", "tags") if key in self.values}

    def applied(self) -> "Vm":
        """Return the config with its pending changes applied."""
        return replace(self, values=self.merged, pending={}, pending_delete=())

    def check_lock(self) -> None:
        """Raise `VM is locked (...)` if it is."""
        if lock := self.values.get("lock"):
            raise failed(f"VM is locked ({lock})")


class Configs:
    """All VMs of the cluster. A change is on disk before anybody sees it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.RLock()
        self._vms: dict[int, Vm] = {}
        for path in directory.glob("*/*.json"):
            content = read_json(path, {})
            vm = Vm(
                int(path.stem),
                path.parent.name,
                content["values"],
                content["pending"],
                tuple(content["pending_delete"]),
            )
            self._vms[vm.vmid] = vm

    def all(self) -> list[Vm]:
        """Return all VMs by VMID."""
        with self._lock:
            return [self._vms[vmid] for vmid in sorted(self._vms)]

    def find(self, vmid: int) -> Vm | None:
        """Return the VM, on whichever node, or None."""
        return self._vms.get(vmid)

    def get(self, vmid: int, node: str) -> Vm:
        """Return the VM of that node. Raise the 500 that says there is none."""
        vm = self._vms.get(vmid)
        if vm is None or vm.node != node:
            raise not_found(vmid, node)
        return vm

    def create(self, vmid: int, node: str, values: Values) -> Vm:
        """Make a new file; the cluster's file system refuses a second one with that id on another node."""
        with self._lock:
            if vmid in self._vms:
                path = f"/etc/pve/nodes/{node}/qemu-server/{vmid}.conf"
                raise failed(f"close (rename) atomic file '{path}' failed: File exists")
            return self.save(Vm(vmid, node, values))

    def save(self, vm: Vm) -> Vm:
        """Write the VM's file, on the node it names."""
        with self._lock:
            old = self._vms.get(vm.vmid)
            content = {"values": vm.values, "pending": vm.pending, "pending_delete": vm.pending_delete}
            write_json(self._path(vm), content)
            if old and old.node != vm.node:
                self._path(old).unlink()
            self._vms[vm.vmid] = vm
            return vm

    def change(self, vm: Vm, **values: Any) -> Vm:
        """Write single values; None removes one. Only for a caller that holds the VM's lock."""
        changed = {key: value for key, value in {**vm.values, **values}.items() if value is not None}
        return self.save(replace(vm, values=changed))

    def remove(self, vmid: int) -> None:
        """Remove the file."""
        with self._lock:
            vm = self._vms.pop(vmid, None)
            if vm:
                self._path(vm).unlink(missing_ok=True)

    def _path(self, vm: Vm) -> Path:
        return self._directory / vm.node / f"{vm.vmid}.json"
