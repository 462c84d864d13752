"""Calls about the cluster and its nodes."""

import time
from typing import Any

from thems_jobs.lab.api.cluster import Call
from thems_jobs.lab.api.errors import bad_parameters
from thems_jobs.lab.api.settings import GIB, NodeSpec

VERSION = {"version": "9.1.3", "release": "9.1", "repoid": "5d1a7a1c24c8e0ff"}
ROOT_FS = 32 * GIB
FIRST_VMID, LAST_VMID = 100, 999_999


def version(_call: Call) -> dict[str, str]:
    """GET version."""
    return VERSION


def cluster_status(call: Call) -> list[dict[str, Any]]:
    """GET cluster/status: quorum and nodes."""
    faults, nodes = call.cluster.faults, call.cluster.settings.nodes
    quorate = int(not faults.quorum_lost)
    entries: list[dict[str, Any]] = [
        {"type": "cluster", "id": "cluster", "name": "lab", "version": 2, "nodes": len(nodes), "quorate": quorate}
    ]
    for number, node in enumerate(nodes, 1):
        online = int(node.name not in faults.offline_nodes)
        local = int(node.name == call.cluster.local_node)
        entries.append(
            {"type": "node", "id": f"node/{node.name}", "name": node.name, "nodeid": number, "ip": f"10.77.0.{number}",
             "online": online, "local": local, "level": ""}
        )  # fmt: skip
    return entries


def next_id(call: Call) -> str:
    """GET cluster/nextid: the lowest free id. It is not reserved."""
    find = call.cluster.configs.find
    if "vmid" in call.params:
        vmid = call.params["vmid"]
        if find(vmid):
            raise bad_parameters({"vmid": f"VM {vmid} already exists"})
        return str(vmid)
    return str(next(vmid for vmid in range(FIRST_VMID, LAST_VMID + 1) if not find(vmid)))


def resources(call: Call) -> list[dict[str, Any]]:
    """GET cluster/resources: VMs, nodes, storages and pools the caller may see. Status lags behind."""
    makers = {"vm": _vms, "node": _nodes, "storage": _storages, "sdn": _zones}
    wanted = call.params.get("type")
    if wanted:
        return makers[wanted](call)
    return [*_pools(call), *(entry for maker in makers.values() for entry in maker(call))]


def _vms(call: Call) -> list[dict[str, Any]]:
    entries = []
    for vm in call.cluster.configs.all():
        if not call.may(f"/vms/{vm.vmid}", "VM.Audit"):
            continue
        entry: dict[str, Any] = {"id": f"qemu/{vm.vmid}", "type": "qemu", "vmid": vm.vmid, "node": vm.node}
        pool = call.cluster.access.pool_of(vm.vmid)
        if pool:
            entry["pool"] = pool
        entries.append({**entry, **call.cluster.stats.of_vm(vm), **vm.shown_at_once})
    return entries


def _nodes(call: Call) -> list[dict[str, Any]]:
    return [{**entry, "cgroup-mode": 2} for entry in list_nodes(call)]


def _storages(call: Call) -> list[dict[str, Any]]:
    cluster = call.cluster
    entries = []
    for spec in cluster.settings.storages:
        if not call.may(f"/storage/{spec.name}", "Datastore.Audit"):  # in this list Proxmox asks for no less
            continue
        for node in cluster.settings.nodes:
            entry = {
                "id": f"storage/{node.name}/{spec.name}",
                "type": "storage",
                "storage": spec.name,
                "node": node.name,
                "shared": int(spec.shared),
                "plugintype": spec.kind,
                "content": spec.content,
            }
            if node.name in cluster.faults.offline_nodes:
                entries.append({**entry, "status": "unknown"})
            else:
                used = cluster.volumes.used(spec.name, node.name)
                entries.append({**entry, "status": "available", "disk": used, "maxdisk": spec.size_gib * GIB})
    return entries


def _pools(call: Call) -> list[dict[str, Any]]:
    pools = sorted(call.cluster.access.entries["pools"])
    seen = [pool for pool in pools if call.may(f"/pool/{pool}", "Pool.Audit")]
    return [{"id": f"/pool/{pool}", "type": "pool", "pool": pool} for pool in seen]


def _zones(call: Call) -> list[dict[str, Any]]:
    if not call.may("/sdn/zones/localnetwork", "SDN.Audit", "SDN.Use", any_of=True):
        return []
    return [
        {"id": f"sdn/{node.name}/localnetwork", "type": "sdn", "sdn": "localnetwork", "node": node.name, "status": "ok"}
        for node in call.cluster.settings.nodes
    ]


def list_nodes(call: Call) -> list[dict[str, Any]]:
    """GET nodes: sizes and use only for those with Sys.Audit."""
    entries = []
    for node in call.cluster.settings.nodes:
        online = node.name not in call.cluster.faults.offline_nodes
        entry: dict[str, Any] = {
            "id": f"node/{node.name}",
            "type": "node",
            "node": node.name,
            "status": "online" if online else "offline",
        }
        if online and call.may(f"/nodes/{node.name}", "Sys.Audit"):
            entry.update(_use(call, node), level="")
        entries.append(entry)
    return entries


def _use(call: Call, node: NodeSpec) -> dict[str, Any]:
    return {
        "maxcpu": node.cores,
        "cpu": 0.02,
        "maxmem": node.memory_gib * GIB,
        "mem": call.cluster.stats.node_memory_used(node.name),
        "maxdisk": ROOT_FS,
        "disk": ROOT_FS // 4,
        "uptime": int(time.time() - call.cluster.started_at),
    }


def node_index(_call: Call) -> list[dict[str, str]]:
    """GET nodes/{node}: what is below it."""
    return [{"name": name} for name in ("network", "qemu", "status", "storage", "tasks", "version")]


def node_status(call: Call) -> dict[str, Any]:
    """GET nodes/{node}/status."""
    node = next(node for node in call.cluster.settings.nodes if node.name == call.node)
    use = _use(call, node)
    free = use["maxmem"] - use["mem"]
    return {
        "uptime": use["uptime"],
        "cpu": use["cpu"],
        "wait": 0,
        "idle": 0,
        "loadavg": ["0.10", "0.10", "0.10"],
        "cpuinfo": {"cpus": node.cores, "cores": node.cores, "sockets": 1, "model": "lab", "mhz": "2000.000"},
        "memory": {"total": use["maxmem"], "used": use["mem"], "free": free, "available": free},
        "swap": {"total": 0, "used": 0, "free": 0},
        "rootfs": {
            "total": ROOT_FS,
            "used": use["disk"],
            "free": ROOT_FS - use["disk"],
            "avail": ROOT_FS - use["disk"],
        },
        "ksm": {"shared": 0},
        "pveversion": f"pve-manager/{VERSION['version']}/{VERSION['repoid']}",
        "kversion": "Linux 6.17.2-1-pve",
    }


def node_network(call: Call) -> list[dict[str, Any]]:
    """GET nodes/{node}/network: the bridges."""
    node = next(node for node in call.cluster.settings.nodes if node.name == call.node)
    if call.params.get("type", "bridge") not in ("bridge", "any_bridge", "any_local_bridge", "include_sdn"):
        return []
    allowed = [
        bridge
        for bridge in node.bridges
        if call.may(f"/sdn/zones/localnetwork/{bridge}", "SDN.Audit", "SDN.Use", any_of=True)
        or call.may(f"/nodes/{node.name}", "Sys.Audit")
    ]
    return [
        {"iface": bridge, "type": "bridge", "active": 1, "autostart": 1, "method": "static", "families": ["inet"]}
        for bridge in allowed
    ]
