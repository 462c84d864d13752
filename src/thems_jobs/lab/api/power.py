"""Power operations. All are tasks; that a start succeeded does not mean that the guest has booted."""

import hashlib
import json
import re
import threading
import time

from thems_jobs.lab.api.access import ROOT
from thems_jobs.lab.api.cluster import Call, Cluster
from thems_jobs.lab.api.configs import Values, Vm
from thems_jobs.lab.api.errors import ApiError, failed
from thems_jobs.lab.api.tasks import Task
from thems_jobs.lab.api.values import (
    addresses_of,
    boot_disk_of,
    cores_of,
    drives_of,
    has_cloudinit_drive,
    memory_mib_of,
    nics_of,
    ssh_keys_of,
)
from thems_jobs.lab.hypervisor import GuestError, GuestSpec

SHUTDOWN_S = 60
POLL_S = 0.25


def current_status(call: Call) -> Values:
    """GET status/current: the truth of this moment."""
    vm, cluster = call.vm, call.cluster
    seen = cluster.stats.now(vm)
    cpus, template = seen.pop("maxcpu"), seen.pop("template")
    status: Values = {"vmid": vm.vmid, **seen, "cpus": cpus, "qmpstatus": seen["status"], "ha": {"managed": 0}}
    if seen["status"] == "running":
        status.update({"pid": 10000 + vm.vmid, "running-qemu": "10.1.2", "running-machine": "pc-i440fx-10.1+pve0"})
    if template:
        status["template"] = 1
    if agent_enabled(vm.values):
        status["agent"] = 1
    return {**status, **vm.shown_at_once}


def agent_enabled(values: Values) -> bool:
    """Tell whether the guest agent's device is there."""
    return bool(re.match(r"(?:enabled=)?(?:1|on|yes|true)\b", str(values.get("agent", "0"))))


def start(call: Call) -> str:
    """POST start."""
    cluster, vmid, node, skiplock = call.cluster, call.vmid, call.node, call.check_skiplock()

    def work(task: Task) -> None:
        start_vm(cluster, vmid, node, task, skiplock=skiplock)

    return call.fork("qmstart", vmid, work)


def start_vm(cluster: Cluster, vmid: int, node: str, task: Task, *, skiplock: bool = False) -> None:
    """Apply pending changes and switch the VM on. Raise 500 with what speaks against it."""
    with cluster.vm_locked(vmid, log=task.log):
        vm = cluster.configs.get(vmid, node)
        if vm.is_template:
            raise failed("you can't start a vm if it's a template")
        if not skiplock:
            vm.check_lock()
        if cluster.guests.running(vmid):
            raise failed(f"VM {vmid} already running")
        vm = cluster.configs.save(vm.applied())
        _check_hardware(cluster, vm, task)
        switch_on(cluster, vm, task)


def _check_hardware(cluster: Cluster, vm: Vm, task: Task) -> None:
    node = cluster.settings.node(vm.node)
    for nic in nics_of(vm.values).values():
        bridge = nic.get("bridge")
        if node and bridge and bridge not in node.bridges:
            raise failed(f"bridge '{bridge}' does not exist")
    for drive in drives_of(vm.values).values():
        if ":" in drive["file"]:
            cluster.volumes.get(drive["file"], vm.node)
    if node and memory_mib_of(vm.values) > node.memory_gib * 1024:
        task.log("kvm: cannot set up guest memory 'pc.ram': Cannot allocate memory")
        raise failed("start failed: QEMU exited with code 1")


def switch_on(cluster: Cluster, vm: Vm, task: Task) -> None:
    """Give the guest power with the hardware and the cloud-init data its config states."""
    volid = boot_disk_of(vm.values)
    volume = cluster.volumes.find(volid, vm.node) if volid else None
    boots = volume is not None and not volume.blank
    if has_cloudinit_drive(vm.values):
        task.log("generating cloud-init ISO")
    disk = cluster.volumes.path(volume) if boots and volume else None
    try:
        cluster.guests.power_on(vm, guest_spec(vm), disk)
    except GuestError as error:
        task.log(str(error))
        raise failed("start failed: QEMU exited with code 1") from error


def guest_spec(vm: Vm) -> GuestSpec:
    """Given a config, return the guest. Without a cloud-init drive it gets no address, user or key."""
    values = vm.values
    nic = next(iter(nics_of(values).values()), {})
    name = values.get("name", f"VM{vm.vmid}")
    initialised = has_cloudinit_drive(values)
    addresses, gateway = addresses_of(values) if initialised else ((), None)
    keys = ssh_keys_of(values) if initialised else ()
    user = str(values.get("ciuser", "root")) if initialised else ""
    data = [name, addresses, gateway, keys, user, values.get("cipassword"), values.get("searchdomain")]
    return GuestSpec(
        vmid=vm.vmid,
        name=name,
        cores=cores_of(values),
        memory_mib=memory_mib_of(values),
        addresses=addresses,
        gateway=gateway,
        mac=nic.get("macaddr", ""),
        user=user,
        ssh_keys=keys,
        instance_id=hashlib.sha1(json.dumps(data).encode(), usedforsecurity=False).hexdigest(),
    )


def _running_or_gone(cluster: Cluster, vmid: int, node: str) -> bool:
    vm = cluster.configs.find(vmid)
    if vm is None or vm.node != node:
        raise failed(f"unable to find configuration file for VM {vmid} on node '{node}'")
    return cluster.guests.running(vmid)


def stop(call: Call) -> str:
    """POST stop: pull the plug."""
    cluster, vmid, node, skiplock = call.cluster, call.vmid, call.node, call.check_skiplock()
    overrule = call.params.get("overrule-shutdown")

    def work(task: Task) -> None:
        if overrule:
            for other in cluster.tasks.active():
                if other.kind == "qmshutdown" and other.subject == str(vmid):
                    other.stop()
        with cluster.vm_locked(vmid, log=task.log):
            if not _running_or_gone(cluster, vmid, node):
                return
            if not skiplock:
                cluster.configs.get(vmid, node).check_lock()
            cluster.guests.power_off(vmid)
        _clean_up_later(cluster, vmid, node)

    return call.fork("qmstop", vmid, work)


def shutdown(call: Call) -> str:
    """POST shutdown: ask the guest, wait, and only with forceStop pull the plug."""
    cluster, vmid, node, skiplock = call.cluster, call.vmid, call.node, call.check_skiplock()
    timeout_s, force = call.params.get("timeout", SHUTDOWN_S), bool(call.params.get("forceStop"))

    def work(task: Task) -> None:
        with cluster.vm_locked(vmid, log=task.log):
            if not _running_or_gone(cluster, vmid, node):
                return
            if not skiplock:
                cluster.configs.get(vmid, node).check_lock()
            _wait_until_off(cluster, vmid, task, timeout_s, force=force)
        _clean_up_later(cluster, vmid, node)

    return call.fork("qmshutdown", vmid, work)


def _wait_until_off(cluster: Cluster, vmid: int, task: Task, timeout_s: float, *, force: bool) -> None:
    vm = cluster.configs.find(vmid)
    if vm and agent_enabled(vm.values):
        agent_answers_in_time(cluster, vm)
    cluster.guests.ask_to_shut_down(vmid)
    deadline = time.monotonic() + timeout_s
    while cluster.guests.running(vmid):
        if time.monotonic() > deadline:
            if not force:
                raise failed("VM quit/powerdown failed - got timeout")
            task.log("VM quit/powerdown failed - terminating now with SIGTERM")
            cluster.guests.power_off(vmid)
            return
        task.sleep(POLL_S)


def agent_answers_in_time(cluster: Cluster, vm: Vm) -> bool:
    """Tell whether a guest-ping is answered before its timeout; an answer comes at once, silence takes the time."""
    deadline = time.monotonic() + cluster.settings.agent_wait_s
    while not cluster.guests.agent_answers(vm):
        if time.monotonic() > deadline or not cluster.guests.running(vm.vmid):
            return False
        time.sleep(POLL_S)
    return True


def reboot(call: Call) -> str:
    """POST reboot: shutdown, then a start by the cleanup hook, which applies pending changes."""
    cluster, vmid, node = call.cluster, call.vmid, call.node
    _check_running(call)
    timeout_s = call.params.get("timeout", SHUTDOWN_S)

    def work(task: Task) -> None:
        with cluster.vm_locked(vmid, log=task.log):
            cluster.configs.get(vmid, node).check_lock()
            _wait_until_off(cluster, vmid, task, timeout_s, force=False)
        _clean_up_later(cluster, vmid, node, start_again=True)

    return call.fork("qmreboot", vmid, work)


def reset(call: Call) -> str:
    """POST reset: the reset button; pending changes stay pending."""
    cluster, vmid, node, skiplock = call.cluster, call.vmid, call.node, call.check_skiplock()
    _check_running(call)

    def work(task: Task) -> None:
        with cluster.vm_locked(vmid, log=task.log):
            vm = cluster.configs.get(vmid, node)
            if not skiplock:
                vm.check_lock()
            cluster.guests.power_off(vmid)
            switch_on(cluster, vm, task)

    return call.fork("qmreset", vmid, work)


def _check_running(call: Call) -> None:
    vm = call.vm
    if not call.cluster.guests.running(vm.vmid):
        raise failed(f"VM {vm.vmid} not running")


def _clean_up_later(cluster: Cluster, vmid: int, node: str, *, start_again: bool = False) -> None:
    """The hook that runs after a guest has ended. It mistakes a guest started again for one that does not end,
    and holds its lock."""

    def clean_up() -> None:
        time.sleep(cluster.settings.cleanup_delay_s)
        try:
            with cluster.vm_locked(vmid):
                deadline = time.monotonic() + cluster.settings.cleanup_hold_s
                while cluster.guests.running(vmid) and time.monotonic() < deadline:
                    time.sleep(POLL_S)
        except ApiError:
            return  # as the real one, which writes this to the system's log only
        if start_again:
            cluster.tasks.fork(node, "qmstart", vmid, ROOT, lambda task: start_vm(cluster, vmid, node, task))

    threading.Thread(target=clean_up, name=f"cleanup-{vmid}", daemon=True).start()
