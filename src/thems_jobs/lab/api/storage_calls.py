"""Calls about storages and what is on them."""

from typing import Any

from thems_jobs.lab.api.cluster import Call
from thems_jobs.lab.api.drives import IMPORTABLE, find_image
from thems_jobs.lab.api.errors import denied, failed
from thems_jobs.lab.api.formats import split_list
from thems_jobs.lab.api.settings import GIB, MIB, StorageSpec
from thems_jobs.lab.api.tasks import Task

SEEING = ("Datastore.Audit", "Datastore.AllocateSpace")


def list_storage_configs(call: Call) -> list[dict[str, Any]]:
    """GET storage."""
    kind = call.params.get("type")
    return [
        _config(spec)
        for spec in call.cluster.settings.storages
        if call.may(f"/storage/{spec.name}", *SEEING, any_of=True) and kind in (None, spec.kind)
    ]


def storage_config(call: Call) -> dict[str, Any]:
    """GET storage/{storage}."""
    return _config(call.cluster.volumes.spec(call.params["storage"]))


def _config(spec: StorageSpec) -> dict[str, Any]:
    config = {"storage": spec.name, "type": spec.kind, "content": spec.content, "digest": "0" * 40}
    return {**config, "shared": 1} if spec.shared else {**config, "path": "/var/lib/vz"}


def list_storages(call: Call) -> list[dict[str, Any]]:
    """GET nodes/{node}/storage."""
    entries = []
    content = set(split_list(call.params.get("content", "")))
    target = call.params.get("target")
    for spec in call.cluster.settings.storages:
        if not call.may(f"/storage/{spec.name}", *SEEING, any_of=True):
            continue
        if call.params.get("storage") not in (None, spec.name) or (target not in (None, call.node) and not spec.shared):
            continue
        if content and not content & set(spec.content.split(",")):
            continue
        entries.append({"storage": spec.name, **_status(call, spec)})
    return entries


def storage_status(call: Call) -> dict[str, Any]:
    """GET nodes/{node}/storage/{storage}/status."""
    return _status(call, call.cluster.volumes.spec(call.params["storage"]))


def _status(call: Call, spec: StorageSpec) -> dict[str, Any]:
    used, total = call.cluster.volumes.used(spec.name, call.node), spec.size_gib * GIB
    return {
        "type": spec.kind,
        "content": spec.content,
        "shared": int(spec.shared),
        "active": 1,
        "enabled": 1,
        "total": total,
        "used": used,
        "avail": total - used,
        "used_fraction": used / total,
    }


def list_content(call: Call) -> list[dict[str, Any]]:
    """GET nodes/{node}/storage/{storage}/content: images of VMs the caller may see, and what can be imported."""
    name, kind = call.params["storage"], call.params.get("content")
    call.cluster.volumes.spec(name)
    entries: list[dict[str, Any]] = []
    if kind in (None, "images"):
        entries += [entry for volid in _visible_volids(call, name) for entry in [_image_entry(call, volid)]]
    if kind in (None, "import") and name == IMPORTABLE.partition(":")[0] and "vmid" not in call.params:
        entries += [
            {"volid": IMPORTABLE + image, "content": "import", "format": image.rpartition(".")[2],
             "size": offered.size_mib * MIB, "ctime": int(offered.source.stat().st_mtime)}
            for image, offered in call.cluster.settings.images.items()
            if offered.source.exists()
        ]  # fmt: skip
    return entries


def _visible_volids(call: Call, storage: str) -> list[str]:
    sees_all = call.may(f"/storage/{storage}", "Datastore.Allocate")
    wanted = call.params.get("vmid")
    return [
        volume.volid
        for volume in call.cluster.volumes.on(storage, call.node)
        if wanted in (None, volume.vmid) and (sees_all or call.may(f"/vms/{volume.vmid}", "VM.Audit"))
    ]


def _image_entry(call: Call, volid: str) -> dict[str, Any]:
    volume = call.cluster.volumes.get(volid, call.node)
    entry = {"volid": volid, "content": "images", "format": volume.format, "size": volume.size, "used": volume.used,
             "vmid": volume.vmid, "ctime": volume.made_at}  # fmt: skip
    return {**entry, "parent": volume.parent} if volume.parent else entry


def _volid(call: Call) -> str:
    storage, volume = call.params.get("storage"), call.params["volume"]
    return volume if ":" in volume else f"{storage}:{volume}"


def volume_info(call: Call) -> dict[str, Any]:
    """GET content/{volume}."""
    volid = _volid(call)
    call.demand(f"/storage/{volid.partition(':')[0]}", *SEEING, any_of=True)
    if volid.startswith(IMPORTABLE):
        image = find_image(call.cluster, volid)
        return {
            "path": str(image.source),
            "size": image.size_mib * MIB,
            "used": image.size_mib * MIB,
            "format": "qcow2",
        }
    volume = call.cluster.volumes.get(volid, call.node)
    return {"path": f"/var/lib/vz/images/{volume.vmid}/{volume.name}", "size": volume.size, "used": volume.used,
            "format": volume.format}  # fmt: skip


def remove_volume(call: Call) -> str:
    """DELETE content/{volume}: only what no VM uses any more."""
    volid, cluster, node = _volid(call), call.cluster, call.node
    storage = volid.partition(":")[0]
    volume = cluster.volumes.get(volid, node)
    if not call.may(f"/storage/{storage}", "Datastore.Allocate"):
        raise denied(f"/storage/{storage}, Datastore.Allocate")
    owner = cluster.configs.find(volume.vmid)
    if owner and any(str(value).startswith(volid) for value in owner.values.values()):
        raise failed(f"cannot remove image, a guest with VMID '{volume.vmid}' exists!")

    def work(_task: Task) -> None:
        cluster.volumes.free(volid, cluster.hypervisor.delete_disk)

    return call.fork("imgdel", f"{volume.vmid}@{storage}", work)
