"""Volumes on storages: names, sizes, what is allocated, and the directory that holds each for the hypervisor."""

import re
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from thems_jobs.lab.api.errors import failed
from thems_jobs.lab.api.files import read_json, write_json
from thems_jobs.lab.api.settings import GIB, MIB, Settings, StorageSpec

BASE_USE = GIB  # what a new storage already holds
LINKED_USE = 256 * MIB  # what a linked clone takes at first
UNITS = {"": 1, "K": 1024, "M": MIB, "G": GIB, "T": 1024 * GIB}


@dataclass(frozen=True)
class Volume:
    """One disk of one VM."""

    volid: str
    vmid: int
    node: str | None  # None on a shared storage
    size: int
    used: int
    made_at: int
    directory: str | None  # below the disks' directory; None for a cloud-init drive
    blank: bool  # nothing was ever written to it, so nothing boots from it
    parent: str | None = None  # the base a linked clone needs

    @property
    def storage(self) -> str:
        """The storage's name."""
        return self.volid.partition(":")[0]

    @property
    def name(self) -> str:
        """The last part of the volume id."""
        return re.split("[:/]", self.volid)[-1]

    @property
    def format(self) -> str:
        """Format, from the name's end."""
        return self.name.rpartition(".")[2]

    @property
    def is_cloudinit(self) -> bool:
        """Tell whether it is a cloud-init drive."""
        return "cloudinit" in self.name


class Volumes:
    """All volumes of the cluster, and which storages are full by a fault."""

    def __init__(self, state_dir: Path, settings: Settings) -> None:
        self._file = state_dir / "volumes.json"
        self._disks = state_dir / "disks"
        self._settings = settings
        self._lock = threading.RLock()
        self._volumes = {entry["volid"]: Volume(**entry) for entry in read_json(self._file, [])}
        self.full: set[str] = set()

    def spec(self, name: str) -> StorageSpec:
        """Return the storage. Raise 500 if there is none."""
        spec = self._settings.storage(name)
        if spec is None:
            raise failed(f"storage '{name}' does not exist")
        return spec

    def all(self) -> list[Volume]:
        """Return all volumes."""
        with self._lock:
            return list(self._volumes.values())

    def find(self, volid: str, node: str) -> Volume | None:
        """Return the volume as that node sees it."""
        volume = self._volumes.get(volid)
        return volume if volume and volume.node in (None, node) else None

    def get(self, volid: str, node: str) -> Volume:
        """Return the volume. Raise 500 if that node has none such."""
        volume = self.find(volid, node)
        if volume is None:
            raise failed(f"volume '{volid}' does not exist")
        return volume

    def on(self, storage: str, node: str) -> list[Volume]:
        """Return the volumes of a storage as that node sees it."""
        return [v for v in self.all() if v.storage == storage and v.node in (None, node)]

    def used(self, storage: str, node: str) -> int:
        """Return the bytes in use."""
        spec = self.spec(storage)
        if storage in self.full:
            return spec.size_gib * GIB
        return min(spec.size_gib * GIB, BASE_USE + sum(v.used for v in self.on(storage, node)))

    def allocate(
        self,
        storage: str,
        node: str,
        vmid: int,
        *,
        size: int,
        suffix: str,
        blank: bool = True,
        base: Volume | None = None,
        cloudinit: bool = False,
    ) -> Volume:
        """Register a new volume and its space; base makes it a linked clone. Raise 500 if the storage is full."""
        spec = self.spec(storage)
        with self._lock:
            kind = "cloudinit" if cloudinit else f"disk-{self._free_number(storage, node, vmid)}"
            name = f"vm-{vmid}-{kind}.{suffix}"
            parent = f"{base.volid.partition(':')[2]}/" if base else ""
            volid = f"{storage}:{parent}{vmid}/{name}"
            used = 4 * MIB if cloudinit else LINKED_USE if base else size
            if self.used(storage, node) + used > spec.size_gib * GIB:
                path = f"/mnt/pve/{storage}/images/{vmid}/{name}"
                raise failed(f"unable to create image: qemu-img: {path}: No space left on device")
            where = storage if spec.shared else f"{storage}@{node}"
            now = time.time()
            directory = None if cloudinit else f"{where}/{vmid}/{int(now * 1e6):x}"
            owner = None if spec.shared else node
            parent_id = base.volid if base else None
            volume = Volume(volid, vmid, owner, size, used, int(now), directory, blank, parent_id)
            self._save({**self._volumes, volid: volume})
            return volume

    def free(self, volid: str, delete: Callable[[Path], None]) -> None:
        """Remove a volume and its directory. Raise 500 if linked clones still need it."""
        with self._lock:
            volume = self._volumes.get(volid)
            if volume is None:
                return
            if any(other.parent == volid for other in self._volumes.values()):
                raise failed(f"base volume '{volid}' is still in use by linked cloned")
        if path := self.path(volume):
            delete(path)
        with self._lock:
            self._save({key: other for key, other in self._volumes.items() if key != volid})

    def to_base(self, volid: str) -> str:
        """Rename vm-N-disk-M to base-N-disk-M; return the new volume id."""
        with self._lock:
            volume = self._volumes[volid]
            head, _, name = volid.rpartition("/")
            base = replace(volume, volid=f"{head}/{name.replace('vm-', 'base-', 1)}")
            self._save(
                {
                    base.volid if key == volid else key: base if key == volid else other
                    for key, other in self._volumes.items()
                }
            )
            return base.volid

    def change(self, volid: str, **values: object) -> None:
        """Change size, node or blankness of a volume."""
        with self._lock:
            self._save({**self._volumes, volid: replace(self._volumes[volid], **values)})  # type: ignore[arg-type]

    def path(self, volume: Volume) -> Path | None:
        """Return the directory for the hypervisor, or None for a volume that has none."""
        return self._disks / volume.directory if volume.directory else None

    def _free_number(self, storage: str, node: str, vmid: int) -> int:
        names = {v.name.partition(".")[0] for v in self.on(storage, node)}
        number = 0
        while {f"vm-{vmid}-disk-{number}", f"base-{vmid}-disk-{number}"} & names:
            number += 1
        return number

    def _save(self, volumes: dict[str, Volume]) -> None:
        write_json(self._file, [asdict(volume) for volume in volumes.values()])
        self._volumes = volumes


def parse_size(text: str) -> int:
    """Given `10G`, return bytes."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)", text)
    if match is None:
        raise failed(f"unable to parse size '{text}'")
    return int(float(match[1]) * UNITS[match[2]])


def format_size(size: int) -> str:
    """Given bytes, return them as in `size=10G`."""
    for unit in ("T", "G", "M", "K"):
        if size % UNITS[unit] == 0:
            return f"{size // UNITS[unit]}{unit}"
    return str(size)
