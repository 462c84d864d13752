"""What Proxmox answers, as plain values."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from thems_jobs.core.facts import Node, Storage
from thems_jobs.errors import EffectFailed


@dataclass(frozen=True)
class VmRow:
    """A VM or container as the list of the whole cluster shows it; name, size and status lag by up to 10 s."""

    vmid: int
    name: str
    node: str
    pool: str
    tags: tuple[str, ...]
    template: bool
    status: str
    lock: str
    memory_mib: int
    cores: int
    kind: str  # qemu or lxc


@dataclass(frozen=True)
class Resources:
    """What the cluster has, in one answer."""

    vms: tuple[VmRow, ...]
    nodes: dict[str, Node]
    storages: tuple[Storage, ...]


@dataclass(frozen=True)
class VmConfig:
    """A VM's configuration. `created_at` is 0 where Proxmox does not know it; `options` has every key as text."""

    name: str
    description: str
    digest: str
    tags: tuple[str, ...]
    lock: str
    protection: bool
    created_at: float
    options: dict[str, str]

    @property
    def memory_mib(self) -> int:
        """Its memory, which Proxmox writes as a number or as current=NUMBER; 512 is Proxmox's own default."""
        return int(self.options.get("memory", "512").removeprefix("current=").partition(",")[0])

    @property
    def cores(self) -> int:
        return int(self.options.get("cores", "1")) * int(self.options.get("sockets", "1"))


@dataclass(frozen=True)
class Task:
    """A worker of Proxmox. `ended_at` is None and `error` "" while it runs; `error` is "" if it ended well."""

    upid: str
    node: str
    kind: str
    vmid: int | None
    user: str
    started_at: float
    ended_at: float | None
    error: str


def vm_row(row: Mapping[str, Any]) -> VmRow:
    return VmRow(
        vmid=int(row["vmid"]),
        # pvestatd lists a VM that it saw before it had a name as "VM 105", and for 10 s on
        name=str(row.get("name", "")).removeprefix(f"VM {row['vmid']}"),
        node=row["node"],
        pool=row.get("pool", ""),
        tags=tags(row.get("tags", "")),
        template=bool(row.get("template", 0)),
        status=row.get("status", "unknown"),
        lock=row.get("lock", ""),
        memory_mib=int(row.get("maxmem", 0)) >> 20,
        cores=int(row.get("maxcpu", 0)),
        kind=row["type"],
    )


def tags(text: str) -> tuple[str, ...]:
    return tuple(tag for tag in re.split(r"[;, ]+", text) if tag)


def node(row: Mapping[str, Any], vms: Iterable[VmRow]) -> Node:
    """Given a node's row and the VMs that count, return the node with what is promised on it."""
    mine = [vm for vm in vms if vm.node == row["node"]]
    return Node(
        name=row["node"],
        online=row.get("status") == "online",
        cores=int(row.get("maxcpu", 0)),
        cores_used=sum(vm.cores for vm in mine),
        memory_mib=int(row.get("maxmem", 0)) >> 20,
        memory_used_mib=sum(vm.memory_mib for vm in mine),
    )


def storage(row: Mapping[str, Any]) -> Storage:
    free_bytes = int(row.get("maxdisk", 0)) - int(row.get("disk", 0))
    return Storage(
        name=row["storage"],
        node=row["node"],
        shared=bool(row.get("shared", 0)),
        active=row.get("status") == "available",
        free_mib=max(0, free_bytes) >> 20,
    )


def vm_config(row: Mapping[str, Any]) -> VmConfig:
    created = re.search(r"\bctime=(\d+)", str(row.get("meta", "")))
    return VmConfig(
        name=str(row.get("name", "")),
        description=str(row.get("description", "")),
        digest=str(row.get("digest", "")),
        tags=tags(str(row.get("tags", ""))),
        lock=str(row.get("lock", "")),
        protection=bool(int(row.get("protection", 0))),
        created_at=float(created.group(1)) if created else 0.0,
        options={name: str(value) for name, value in row.items()},
    )


def parse_upid(upid: str) -> dict[str, Any]:
    """Given a UPID, return what is written in it. Raise EffectFailed if it is none."""
    match = re.fullmatch(r"UPID:([^:]+):[0-9A-F]{8}:[0-9A-F]{8,9}:([0-9A-F]{8}):([^:]+):([^:]*):([^:]+):", upid, re.I)
    if not match:
        raise EffectFailed("task", f"{upid!r} is no task of Proxmox.")
    node, started, kind, vmid, user = match.groups()
    return {"upid": upid, "node": node, "starttime": int(started, 16), "type": kind, "id": vmid, "user": user}


def task(row: Mapping[str, Any]) -> Task:
    """Given a row of a task list, return the task. Success is OK or WARNINGS; any other text is the error itself."""
    ended, status = row.get("endtime"), str(row.get("status", ""))
    vmid, token = str(row.get("id", "")), row.get("tokenid")
    well = ended is None or status == "OK" or re.fullmatch(r"WARNINGS: \d+", status)
    return Task(
        upid=row["upid"],
        node=row["node"],
        kind=row["type"],
        vmid=int(vmid) if vmid.isdigit() else None,
        user=f"{row['user']}!{token}" if token else row["user"],
        started_at=float(row["starttime"]),
        ended_at=None if ended is None else float(ended),
        error="" if well else status or "unexpected status",
    )
