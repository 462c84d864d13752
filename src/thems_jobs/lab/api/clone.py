"""Cloning: the new id is taken when the worker gets to it, not before, and may then be somebody else's."""

import uuid
from dataclasses import dataclass

from thems_jobs.lab.api.cluster import Call
from thems_jobs.lab.api.configs import Values, Vm
from thems_jobs.lab.api.drives import make_cloudinit_volume, make_volume
from thems_jobs.lab.api.errors import denied, failed
from thems_jobs.lab.api.options import check_bridges
from thems_jobs.lab.api.tasks import Task, TaskStopped, WorkerDied
from thems_jobs.lab.api.values import drives_of, is_disk, print_drive, with_new_mac
from thems_jobs.lab.api.vm_create import destroy_volumes
from thems_jobs.lab.api.volumes import Volume, format_size

NOT_COPIED = ("template", "lock", "parent", "snaptime", "vmgenid", "meta", "smbios1")


@dataclass(frozen=True)
class Wish:
    """What a clone request asks for."""

    source: int
    newid: int
    node: str
    target: str
    name: str | None
    description: str | None
    pool: str | None
    full: bool
    storage: str | None
    suffix: str | None


def clone_vm(call: Call) -> str:
    """POST clone."""
    params, source = call.params, call.vm
    wish = Wish(
        source=call.vmid,
        newid=params["newid"],
        node=call.node,
        target=params.get("target", call.node),
        name=params.get("name"),
        description=params.get("description"),
        pool=params.get("pool"),
        full=bool(params.get("full", not source.is_template)),
        storage=params.get("storage"),
        suffix=params.get("format"),
    )
    _check_wish(call, wish)
    _check_source(call, wish)

    def work(task: Task) -> None:
        _work(call, wish, task)

    return call.fork("qmclone", wish.source, work)


def _check_wish(call: Call, wish: Wish) -> None:
    cluster = call.cluster
    if wish.pool is not None and wish.pool not in cluster.access.entries["pools"]:
        raise denied(f"pool '{wish.pool}' does not exist")
    if cluster.settings.node(wish.target) is None:
        raise failed(f"no such cluster node '{wish.target}'")
    if wish.storage is not None:
        spec = cluster.volumes.spec(wish.storage)
        if wish.target != wish.node and not spec.shared:
            raise failed(f"can't clone to non-shared storage '{wish.storage}'")
    if snapshot := call.params.get("snapname"):
        raise failed(f"snapshot '{snapshot}' does not exist")
    if not wish.full:
        for name in ("storage", "format"):
            if name in call.params:
                raise failed(f"parameter '{name}' not allowed for linked clones")


def _check_source(call: Call, wish: Wish) -> Vm:
    """Made twice: before there is a task, and by the worker under the locks."""
    cluster = call.cluster
    vm = cluster.configs.get(wish.source, wish.node)
    vm.check_lock()
    for option, drive in drives_of(vm.values).items():
        storage = drive["file"].partition(":")[0]
        if ":" not in drive["file"]:
            continue
        if wish.target != wish.node and not cluster.volumes.spec(storage).shared:
            raise failed(f"can't clone VM to node '{wish.target}' (VM uses local storage)")
        call.demand(f"/storage/{wish.storage or storage}", "Datastore.AllocateSpace")
        if not wish.full and is_disk(drive) and not vm.is_template:
            raise failed(f"Linked clone feature is not supported for '{drive['file']}' ({option})")
    check_bridges(call, vm.values)
    existing = cluster.configs.find(wish.newid)
    if existing and existing.node == wish.node:
        raise failed(f"unable to create VM {wish.newid}: config file already exists")
    return vm


def _work(call: Call, wish: Wish, task: Task) -> None:
    cluster, wait_s = call.cluster, call.cluster.settings.new_id_wait_s
    shared = not cluster.guests.running(wish.source)
    with (
        cluster.vm_locked(wish.source, timeout_s=wait_s, shared=shared, log=task.log),
        cluster.vm_locked(wish.newid, timeout_s=wait_s, log=task.log),
    ):
        source = _check_source(call, wish)
        temporary = {"lock": "clone", "description": " qmclone temporary file"}
        cluster.configs.create(wish.newid, wish.node, temporary)
        try:
            values = _copied_values(source, wish)
            cluster.configs.save(Vm(wish.newid, wish.node, {**values, "lock": "clone"}))
            values = _copy_drives(call, source, wish, values, task)
            cluster.configs.save(Vm(wish.newid, wish.target, values))
        except Exception as error:
            destroy_volumes(cluster, wish.newid)
            cluster.configs.remove(wish.newid)
            text = "copy failed: interrupted by signal" if isinstance(error, TaskStopped) else str(error)
            raise failed("clone failed: " + text.removeprefix("clone failed: ")) from error
        if wish.pool:
            cluster.access.add_to_pool(wish.pool, wish.newid)


def _copied_values(source: Vm, wish: Wish) -> Values:
    values = {
        key: value
        for key, value in source.values.items()
        if key not in NOT_COPIED and not key.startswith("unused") and key not in drives_of(source.values)
    }
    for key in values:
        if key.startswith("net") and key[3:].isdigit():
            values[key] = with_new_mac(values[key])
    values["name"] = wish.name or f"Copy-of-VM-{source.values.get('name', source.vmid)}"
    if wish.description is not None:
        values["description"] = wish.description
    return {
        **values,
        "smbios1": f"uuid={uuid.uuid4()}",
        "vmgenid": str(uuid.uuid4()),
        "meta": source.values.get("meta", "creation-qemu=10.1.2"),
    }


def _copy_drives(call: Call, source: Vm, wish: Wish, values: Values, task: Task) -> Values:
    """Wait for a place in the queue of the storage, take as long as a real cluster, then copy."""
    cluster = call.cluster
    drives = drives_of(source.values)
    volumes = [drive["file"] for drive in drives.values() if ":" in drive["file"]]
    queue = wish.storage or (volumes[0].partition(":")[0] if volumes else "")
    fault = cluster.faults.take_clone()
    with cluster.clone_slots.taken(queue, lambda: cluster.latencies.clone_slots_per_storage, task.check):
        task.sleep(cluster.latencies.clone_s + (fault.seconds if fault else 0))
        match fault.kind if fault else None:
            case "hang":
                task.sleep(None)
            case "lost":
                raise WorkerDied
            case "fail":
                raise failed(fault.text if fault else "")
        for option, drive in drives.items():
            kind = "full" if wish.full or not is_disk(drive) else "linked"
            task.log(f"create {kind} clone of drive {option} ({drive['file']})")
            values = {**values, option: _copied_drive(call, wish, drive)}
            task.check()
    return values


def _copied_drive(call: Call, wish: Wish, drive: dict[str, str]) -> str:
    if ":" not in drive["file"]:
        return print_drive(drive)
    volumes = call.cluster.volumes
    original = volumes.get(drive["file"], wish.node)
    storage = wish.storage or original.storage
    if original.is_cloudinit:
        made = make_cloudinit_volume(call.cluster, storage, wish.node, wish.newid)
    elif wish.full:
        made = _full_copy(call, wish, original, storage)
    else:
        made = make_volume(
            call.cluster,
            storage,
            wish.node,
            wish.newid,
            size=original.size,
            suffix="qcow2",
            source=volumes.path(original),
            base=original,
        )
    return print_drive({**drive, "file": made.volid, "size": format_size(made.size)})


def _full_copy(call: Call, wish: Wish, original: Volume, storage: str) -> Volume:
    path = None if original.blank else call.cluster.volumes.path(original)
    return make_volume(
        call.cluster,
        storage,
        wish.node,
        wish.newid,
        size=original.size,
        suffix=wish.suffix or original.format,
        source=path,
    )
