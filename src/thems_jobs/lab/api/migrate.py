"""Moving a VM to another node."""

from dataclasses import replace

from thems_jobs.lab.api.access import ROOT
from thems_jobs.lab.api.cluster import Call, Cluster
from thems_jobs.lab.api.configs import Values, Vm
from thems_jobs.lab.api.errors import bad_parameters, failed, gateway
from thems_jobs.lab.api.tasks import Task
from thems_jobs.lab.api.values import drives_of


def preconditions(call: Call) -> Values:
    """GET migrate: what stands in the way."""
    vm, settings = call.vm, call.cluster.settings
    local = [{"volid": volid, "cdrom": 0} for volid in _local_volumes(call.cluster, vm)]
    return {
        "running": int(call.cluster.guests.running(vm.vmid)),
        "local_disks": local,
        "local_resources": [],
        "mapped-resources": [],
        "allowed_nodes": [node.name for node in settings.nodes if node.name != vm.node and not local],
    }


def migrate_vm(call: Call) -> str:
    """POST migrate: offline, or online while the guest runs on."""
    cluster, vmid, node, target = call.cluster, call.vmid, call.node, call.params["target"]
    if target == node:
        raise bad_parameters({"target": "target is local node."})
    if cluster.settings.node(target) is None:
        raise bad_parameters({"target": f"no such cluster node '{target}'"})
    if target in cluster.faults.offline_nodes:
        raise gateway(595, "No route to host")
    if call.params.get("force") and call.who != ROOT:
        raise bad_parameters({"force": "Only root may use this option."})
    vm = call.vm
    vm.check_lock()
    running = cluster.guests.running(vmid)
    if running and not call.params.get("online"):
        raise failed("can't migrate running VM without --online")
    with_disks = bool(call.params.get("with-local-disks"))

    def work(task: Task) -> None:
        with cluster.vm_locked(vmid, log=task.log):
            vm = cluster.configs.get(vmid, node)
            vm.check_lock()
            local = _local_volumes(cluster, vm)
            if local and running and not with_disks:
                why = f"can't live migrate attached local disks without with-local-disks option\n{local[0]}"
                raise failed(f"migration aborted: {why}")
            vm = cluster.configs.change(vm, lock="migrate")
            task.log(f"starting migration of VM {vmid} to node '{target}'")
            try:
                task.sleep(cluster.latencies.clone_s if local else 0)
                for volid in local:
                    cluster.volumes.change(volid, node=target)
            except Exception:
                cluster.configs.change(vm, lock=None)
                raise
            values = {key: value for key, value in vm.values.items() if key != "lock"}
            cluster.configs.save(replace(vm, node=target, values=values))

    return call.fork("qmigrate", vmid, work)


def _local_volumes(cluster: Cluster, vm: Vm) -> list[str]:
    volids = [drive["file"] for drive in drives_of(vm.values).values() if ":" in drive["file"]]
    return [volid for volid in volids if not cluster.volumes.spec(volid.partition(":")[0]).shared]
