"""What the pretended cluster consists of, and how slow and impatient it is."""

from dataclasses import dataclass, field
from pathlib import Path

GIB = 1024**3
MIB = 1024**2


@dataclass
class Latencies:
    """Slowness of a real cluster; changed at run time through the control socket. 0 slots means no limit."""

    clone_s: float = 0.0
    boot_s: float = 0.0
    clone_slots_per_storage: int = 0
    api_s: float = 0.0


@dataclass(frozen=True)
class NodeSpec:
    """A Proxmox node and its size."""

    name: str
    memory_gib: int = 64
    cores: int = 16
    bridges: tuple[str, ...] = ("vmbr0",)


@dataclass(frozen=True)
class StorageSpec:
    """A storage; one that is not shared exists once per node, with the same size."""

    name: str
    kind: str
    shared: bool
    size_gib: int
    content: str


@dataclass(frozen=True)
class Image:
    """A disk image offered for import: the directory that holds it and the size it pretends to have."""

    source: Path
    size_mib: int = 2048


@dataclass(frozen=True)
class Settings:
    """Sizes and waiting times. The defaults of the times are those of Proxmox VE."""

    nodes: tuple[NodeSpec, ...] = (NodeSpec("pve1"), NodeSpec("pve2"))
    storages: tuple[StorageSpec, ...] = (
        StorageSpec("local", "dir", shared=False, size_gib=200, content="images,import,iso,snippets"),
        StorageSpec("shared", "nfs", shared=True, size_gib=1000, content="images"),
    )
    images: dict[str, Image] = field(default_factory=dict)  # by name, offered as local:import/NAME on every node
    stats_period_s: float = 10.0  # pvestatd
    auth_delay_s: float = 3.0  # before a 401
    lock_wait_s: float = 10.0  # lock of a config file, lock of a storage
    new_id_wait_s: float = 1.0  # locks taken by a clone
    agent_wait_s: float = 3.0  # guest-ping
    proxy_wait_s: float = 30.0  # pveproxy waiting for pvedaemon or another node
    unreachable_s: float = 3.0  # until "No route to host"
    cleanup_delay_s: float = 1.0  # from the end of a guest to `qm cleanup`
    cleanup_hold_s: float = 30.0  # `qm cleanup` holding the lock of a guest that was started again
    daemon_workers: int = 3  # pvedaemon, per node

    def node(self, name: str) -> NodeSpec | None:
        """Return the node of that name, or None."""
        return next((node for node in self.nodes if node.name == name), None)

    def storage(self, name: str) -> StorageSpec | None:
        """Return the storage of that name, or None."""
        return next((storage for storage in self.storages if storage.name == name), None)
