"""Making, attaching and removing the volumes behind a VM's drives."""

import re
from pathlib import Path

from thems_jobs.lab.api.cluster import Call, Cluster
from thems_jobs.lab.api.configs import Values
from thems_jobs.lab.api.errors import failed
from thems_jobs.lab.api.settings import GIB, MIB, Image
from thems_jobs.lab.api.values import drives_of, parse_drive, print_drive
from thems_jobs.lab.api.volumes import Volume, format_size
from thems_jobs.lab.hypervisor import GuestError

CLOUDINIT_SIZE = 4 * MIB
IMPORTABLE = "local:import/"


def make_volume(
    cluster: Cluster,
    storage: str,
    node: str,
    vmid: int,
    *,
    size: int,
    suffix: str,
    source: Path | None = None,
    base: Volume | None = None,
) -> Volume:
    """Allocate a disk: empty, a copy of the directory source, or a linked clone of base. Raise 500 if it fails."""
    with cluster.storage_locked(storage):
        volume = cluster.volumes.allocate(
            storage, node, vmid, size=size, suffix=suffix, blank=base.blank if base else source is None, base=base
        )
    path = cluster.volumes.path(volume)
    if path is None:
        raise AssertionError("a disk has a directory")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        cluster.hypervisor.create_disk(path, source, linked=base is not None)
    except GuestError as error:
        cluster.volumes.free(volume.volid, cluster.hypervisor.delete_disk)
        raise failed(f"unable to create image: {error}") from error
    return volume


def make_cloudinit_volume(cluster: Cluster, storage: str, node: str, vmid: int) -> Volume:
    """Allocate a cloud-init drive."""
    with cluster.storage_locked(storage):
        return cluster.volumes.allocate(
            storage, node, vmid, size=CLOUDINIT_SIZE, suffix="qcow2", blank=False, cloudinit=True
        )


def check_storages(call: Call, options: Values) -> None:
    """Raise 403 or 500 unless the caller may allocate on the storages the new drives name."""
    for option, text in options.items():
        keys = parse_drive(option, text)
        storage = keys["file"].partition(":")[0]
        if ":" not in keys["file"]:
            continue
        spec = call.cluster.volumes.spec(storage)
        call.demand(f"/storage/{storage}", "Datastore.AllocateSpace")
        if "images" not in spec.content.split(","):
            raise failed(f"storage '{storage}' does not support content-type 'images'")
        if "import-from" in keys:
            origin = keys["import-from"].partition(":")[0]
            call.cluster.volumes.spec(origin)
            call.demand(f"/storage/{origin}", "Datastore.AllocateSpace", "Datastore.Audit", any_of=True)


def attach(cluster: Cluster, node: str, vmid: int, option: str, text: str, values: Values) -> str:
    """Given what a request says of a drive, make what it asks for and return the text for the config."""
    keys = parse_drive(option, text)
    storage, _, name = keys["file"].partition(":")
    suffix = keys.pop("format", "raw")
    if name == "cloudinit":
        for other, drive in drives_of(values).items():
            if "cloudinit" in drive["file"] and other != option:
                raise failed(f"{option} - cloud-init drive is already attached at '{other}'")
        volume = make_cloudinit_volume(cluster, storage, node, vmid)
        keys["media"] = "cdrom"
    elif "import-from" in keys:
        volume = _import(cluster, storage, node, vmid, keys.pop("import-from"), suffix)
    elif re.fullmatch(r"\d+(?:\.\d+)?", name):
        volume = make_volume(cluster, storage, node, vmid, size=int(float(name) * GIB), suffix=suffix)
    elif name:
        volume = cluster.volumes.get(keys["file"], node)
    else:
        return print_drive(keys)
    return print_drive({**keys, "file": volume.volid, "size": format_size(volume.size)})


def _import(cluster: Cluster, storage: str, node: str, vmid: int, origin: str, suffix: str) -> Volume:
    source, size = _origin(cluster, node, origin)
    return make_volume(cluster, storage, node, vmid, size=size, suffix=suffix, source=source)


def _origin(cluster: Cluster, node: str, origin: str) -> tuple[Path | None, int]:
    if origin.startswith(IMPORTABLE):
        image = find_image(cluster, origin)
        return image.source, image.size_mib * MIB
    volume = cluster.volumes.get(origin, node)
    return cluster.volumes.path(volume), volume.size


def find_image(cluster: Cluster, volid: str) -> Image:
    """Return the image offered under that volume id. Raise 500 if there is none."""
    image = cluster.settings.images.get(volid.removeprefix(IMPORTABLE))
    if image is None or not image.source.exists():
        raise failed(f"volume '{volid}' does not exist")
    return image


def detach(cluster: Cluster, node: str, values: Values, option: str, *, remove: bool) -> Values:
    """Return the values without that drive: its volume becomes unusedN, or is removed (always if cloud-init)."""
    left = {key: value for key, value in values.items() if key != option}
    drive = parse_drive(option, values[option])
    volume = cluster.volumes.find(drive["file"], node)
    if volume is None:
        return left
    if remove or volume.is_cloudinit:
        cluster.volumes.free(volume.volid, cluster.hypervisor.delete_disk)
        return left
    number = next(n for n in range(256) if f"unused{n}" not in left)
    return {**left, f"unused{number}": volume.volid}
