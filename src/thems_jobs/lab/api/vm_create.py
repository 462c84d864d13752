"""Creating VMs, listing them, converting them to templates, resizing and destroying them."""

import time
import uuid

from thems_jobs.lab.api.cluster import Call, Cluster
from thems_jobs.lab.api.configs import Values, Vm
from thems_jobs.lab.api.drives import check_storages
from thems_jobs.lab.api.errors import ApiError, denied, failed
from thems_jobs.lab.api.options import check_option_rights
from thems_jobs.lab.api.power import start_vm
from thems_jobs.lab.api.tasks import Task
from thems_jobs.lab.api.values import DRIVE, drives_of, is_disk, parse_drive, print_drive
from thems_jobs.lab.api.vm_config import options_of, stored_value
from thems_jobs.lab.api.volumes import format_size, parse_size

QEMU_VERSION = "10.1.2"


def list_vms(call: Call) -> list[Values]:
    """GET qemu: the VMs of the node that the caller may see, as of the last round of pvestatd."""
    entries = []
    for vm in call.cluster.configs.all():
        if vm.node == call.node and call.may(f"/vms/{vm.vmid}", "VM.Audit"):
            seen = call.cluster.stats.of_vm(vm)
            if not seen.get("template"):
                seen.pop("template", None)
            if "maxcpu" in seen:
                seen["cpus"] = seen.pop("maxcpu")
            entries.append({"vmid": vm.vmid, **seen, **vm.shown_at_once})
    return entries


def vm_index(_call: Call) -> list[Values]:
    """GET qemu/{vmid}: what is below it."""
    names = ("config", "pending", "clone", "status", "agent", "migrate", "resize", "template", "cloudinit")
    return [{"subdir": name} for name in names]


def create_vm(call: Call) -> str:
    """POST qemu: a new VM, with its drives."""
    vmid, pool = call.vmid, call.params.get("pool")
    options = options_of(call.params)
    _check_may_create(call, vmid, pool)
    if "archive" in call.params:
        raise failed(f"unable to restore VM {vmid} - volume '{call.params['archive']}' does not exist")
    check_option_rights(call, vmid, pool, options)
    check_storages(call, {key: value for key, value in options.items() if DRIVE.fullmatch(key)})
    existing = call.cluster.configs.find(vmid)
    if existing:
        raise failed(f"unable to create VM {vmid} - VM {vmid} already exists on node '{existing.node}'")
    try:
        call.cluster.configs.create(vmid, call.node, {"lock": "create"})
    except ApiError as error:
        raise failed(f"unable to create VM {vmid} - {error}") from error

    def work(task: Task) -> None:
        _fill_new_vm(call, task, options)
        if pool:
            call.cluster.access.add_to_pool(pool, vmid)
        if call.params.get("start"):
            start_vm(call.cluster, vmid, call.node, task)

    return call.fork("qmcreate", vmid, work)


def _check_may_create(call: Call, vmid: int, pool: str | None) -> None:
    if pool is not None and pool not in call.cluster.access.entries["pools"]:
        raise denied(f"pool '{pool}' does not exist")
    if not call.may(f"/vms/{vmid}", "VM.Allocate") and not (pool and call.may(f"/pool/{pool}", "VM.Allocate")):
        raise denied()


def _fill_new_vm(call: Call, task: Task, options: Values) -> None:
    cluster, vmid, node = call.cluster, call.vmid, call.node
    with cluster.vm_locked(vmid, log=task.log):
        values: Values = {}
        try:
            for key, value in options.items():
                values[key] = stored_value(call, Vm(vmid, node, values), key, value)
                if DRIVE.fullmatch(key):
                    task.log(f"{key}: successfully created disk '{values[key]}'")
        except Exception as error:
            destroy_volumes(cluster, vmid)
            cluster.configs.remove(vmid)
            raise failed(f"unable to create VM {vmid} - {error}") from error
        if order := _boot_order(values):
            values.setdefault("boot", f"order={order}")
        values.setdefault("smbios1", f"uuid={uuid.uuid4()}")
        values["vmgenid"] = str(uuid.uuid4())
        values["meta"] = f"creation-qemu={QEMU_VERSION},ctime={int(time.time())}"
        cluster.configs.save(Vm(vmid, node, values))


def _boot_order(values: Values) -> str:
    drives = [key for key in sorted(drives_of(values)) if not key.startswith(("efi", "tpm"))]
    nics = [key for key in sorted(values) if key.startswith("net")]
    disks = [key for key in drives if is_disk(parse_drive(key, values[key]))]
    others = [key for key in drives if key not in disks and "cloudinit" not in values[key]]
    return ";".join([*disks[:1], *others, *nics[:1]])


def destroy_volumes(cluster: Cluster, vmid: int) -> list[str]:
    """Remove every volume of a VM; return the texts of those that could not be removed."""
    problems = []
    for volume in cluster.volumes.all():
        if volume.vmid == vmid:
            try:
                cluster.volumes.free(volume.volid, cluster.hypervisor.delete_disk)
            except (ApiError, OSError) as error:
                problems.append(f"Could not remove disk '{volume.volid}', check manually: {error}")
    return problems


def destroy_vm(call: Call) -> str:
    """DELETE qemu/{vmid}."""
    cluster, vmid, node = call.cluster, call.vmid, call.node
    skiplock = call.check_skiplock()
    vm = call.vm
    if vm.values.get("protection"):
        raise failed(f"can't remove VM {vmid} - protection mode enabled")
    if cluster.guests.running(vmid):
        raise failed(f"VM {vmid} is running - destroy failed")

    def work(task: Task) -> None:
        with cluster.vm_locked(vmid, log=task.log):
            vm = cluster.configs.get(vmid, node)
            if not skiplock:
                vm.check_lock()
            if cluster.guests.running(vmid):
                raise failed(f"VM {vmid} is running - destroy failed")
            _check_bases_unused(cluster, vm)
            cluster.configs.change(vm, lock="destroyed")
            for problem in destroy_volumes(cluster, vmid):
                task.warn(problem)
            cluster.access.forget_vm(vmid)
            cluster.configs.remove(vmid)
            cluster.stats.forget(vmid)

    return call.fork("qmdestroy", vmid, work)


def _check_bases_unused(cluster: Cluster, vm: Vm) -> None:
    used = {volume.parent for volume in cluster.volumes.all()}
    for drive in drives_of(vm.values).values():
        if drive["file"] in used:
            raise failed(f"base volume '{drive['file']}' is still in use by linked cloned")


def make_template(call: Call) -> str:
    """POST template: the disks become bases."""
    cluster, vmid, node = call.cluster, call.vmid, call.node
    _check_can_be_template(cluster, call.vm)

    def work(task: Task) -> None:
        with cluster.vm_locked(vmid, log=task.log):
            vm = cluster.configs.get(vmid, node)
            vm.check_lock()
            _check_can_be_template(cluster, vm)
            values = {**vm.applied().values, "template": 1}
            for key, drive in drives_of(values).items():
                if is_disk(drive) and cluster.volumes.find(drive["file"], node):
                    values[key] = print_drive({**drive, "file": cluster.volumes.to_base(drive["file"])})
            cluster.configs.save(Vm(vmid, node, values))

    return call.fork("qmtemplate", vmid, work)


def _check_can_be_template(cluster: Cluster, vm: Vm) -> None:
    if vm.is_template:
        raise failed("you can't convert a template to a template")
    if cluster.guests.running(vm.vmid):
        raise failed("you can't convert a VM to template if VM is running")


def resize_disk(call: Call) -> str:
    """PUT resize: grow a disk."""
    cluster, vmid, node, option = call.cluster, call.vmid, call.node, call.params["disk"]
    skiplock = call.check_skiplock()
    call.vm  # noqa: B018 - it must exist before there is a task

    def work(task: Task) -> None:
        with cluster.vm_locked(vmid, log=task.log):
            vm = cluster.configs.get(vmid, node)
            if not skiplock:
                vm.check_lock()
            if call.params.get("digest") not in (None, vm.digest):
                raise failed("checksum mismatch (file change by other user?)")
            _grow(cluster, vm, option, call.params["size"])

    return call.fork("resize", vmid, work)


def _grow(cluster: Cluster, vm: Vm, option: str, wanted: str) -> None:
    if option not in vm.values:
        raise failed(f"disk '{option}' does not exist")
    drive = parse_drive(option, vm.values[option])
    volume = cluster.volumes.get(drive["file"], vm.node)
    size = parse_size(wanted.removeprefix("+")) + (volume.size if wanted.startswith("+") else 0)
    if size < volume.size:
        raise failed("shrinking disks is not supported")
    cluster.volumes.change(volume.volid, size=size, used=volume.used + size - volume.size)
    cluster.configs.change(vm, **{option: print_drive({**drive, "size": format_size(size)})})
