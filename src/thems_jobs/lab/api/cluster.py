"""The pretended cluster: its state, its hypervisor, its faults, in one place for all calls."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from thems_jobs.lab.api.access import ROOT, Access
from thems_jobs.lab.api.configs import Configs, Vm
from thems_jobs.lab.api.errors import bad_parameters, denied
from thems_jobs.lab.api.guests import Guests
from thems_jobs.lab.api.locks import Locks, Slots
from thems_jobs.lab.api.settings import Latencies, Settings
from thems_jobs.lab.api.stats import Stats
from thems_jobs.lab.api.tasks import Task, Tasks
from thems_jobs.lab.api.volumes import Volumes
from thems_jobs.lab.faults import Faults
from thems_jobs.lab.hypervisor import Hypervisor

ROOT_PARAMETERS = ("skiplock", "keepActive", "migratedfrom", "stateuri")


class Cluster:
    """Everything a call may read or change."""

    def __init__(
        self, state_dir: Path, hypervisor: Hypervisor, latencies: Latencies, settings: Settings, root_password: Path
    ) -> None:
        state_dir.mkdir(parents=True, exist_ok=True)
        self.settings = settings
        self.latencies = latencies
        self.hypervisor = hypervisor
        self.faults = Faults()
        self.locks = Locks()
        self.clone_slots = Slots()
        self.daemons = {node.name: threading.Semaphore(settings.daemon_workers) for node in settings.nodes}
        self.access = Access(state_dir, root_password)
        self.tasks = Tasks(state_dir / "tasks")
        self.configs = Configs(state_dir / "nodes")
        self.volumes = Volumes(state_dir, settings)
        self.guests = Guests(hypervisor, latencies, self.faults)
        self.stats = Stats(self.configs, self.guests, settings, self.faults)
        self.started_at = time.time()

    @property
    def local_node(self) -> str:
        """The node that answers the requests."""
        return self.settings.nodes[0].name

    @contextmanager
    def vm_locked(
        self,
        vmid: int,
        *,
        timeout_s: float | None = None,
        shared: bool = False,
        log: Callable[[str], None] | None = None,
    ) -> Iterator[None]:
        """Hold the lock of a VM's config file. Raise 500 if others hold it for too long."""
        wait_s = self.settings.lock_wait_s if timeout_s is None else timeout_s
        name = f"/var/lock/qemu-server/lock-{vmid}.conf"
        with self.locks.held(name, wait_s, shared=shared, log=log):
            yield

    @contextmanager
    def storage_locked(self, storage: str) -> Iterator[None]:
        """Hold the lock under which a storage allocates. Raise 500 if others hold it for too long."""
        if self.volumes.spec(storage).shared:
            text: str | None = f"cfs-lock 'storage-{storage}' error: got lock request timeout"
        else:
            text = None
        name = f"/var/lock/pve-manager/pve-storage-{storage}"
        with self.locks.held(name, self.settings.lock_wait_s, text=text):
            yield


@dataclass
class Call:
    """One request, allowed and checked, for the function that carries it out."""

    cluster: Cluster
    who: str  # user or token
    params: dict[str, Any]
    extra: dict[str, Any] = field(default_factory=dict)  # what stands beside `data` in the answer

    @property
    def node(self) -> str:
        """The node in the path; localhost is the one that answers."""
        name: str = self.params["node"]
        return self.cluster.local_node if name == "localhost" else name

    @property
    def vmid(self) -> int:
        """The VMID in the path."""
        vmid: int = self.params["vmid"]
        return vmid

    @property
    def vm(self) -> Vm:
        """The VM in the path. Raise the 500 that says there is none."""
        return self.cluster.configs.get(self.vmid, self.node)

    def fork(self, kind: str, subject: str | int, work: Callable[[Task], None]) -> str:
        """Start a task of the caller on the call's node and return its UPID."""
        return self.cluster.tasks.fork(self.node, kind, subject, self.who, work)

    def may(self, path: str, *names: str, any_of: bool = False) -> bool:
        """Tell whether the caller has all (or any) of the privileges at that path."""
        granted = self.cluster.access.privileges(self.who, path)
        return any(name in granted for name in names) if any_of else all(name in granted for name in names)

    def demand(self, path: str, *names: str, any_of: bool = False) -> None:
        """Raise 403 unless the caller has all (or any) of the privileges at that path."""
        if not self.may(path, *names, any_of=any_of):
            granted = self.cluster.access.privileges(self.who, path)
            missing = "|".join(names) if any_of else next(name for name in names if name not in granted)
            raise denied(f"{path}, {missing}")

    def demand_vm(self, vmid: int, pool: str | None, *names: str, any_of: bool = False) -> None:
        """As demand, for a VM that is in a pool or about to be."""
        if not (pool and self.may(f"/pool/{pool}", *names, any_of=any_of)):
            self.demand(f"/vms/{vmid}", *names, any_of=any_of)

    def check_skiplock(self) -> bool:
        """Return whether config locks are to be ignored. Raise 400 for what only root@pam with a password may ask."""
        for name in ROOT_PARAMETERS:
            if self.params.get(name) and self.who != ROOT:
                raise bad_parameters({name: "Only root may use this option."})
        return bool(self.params.get("skiplock"))
