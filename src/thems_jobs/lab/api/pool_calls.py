"""Calls about pools."""

from typing import Any

from thems_jobs.lab.api.cluster import Call
from thems_jobs.lab.api.errors import failed
from thems_jobs.lab.api.formats import split_list
from thems_jobs.lab.api.node_calls import resources


def list_pools(call: Call) -> list[dict[str, Any]]:
    """GET pools: those the caller may see; with poolid that one and its members."""
    poolid = call.params.get("poolid")
    if poolid is not None:
        call.demand(f"/pool/{poolid}", "Pool.Audit")
        return [{"poolid": poolid, **pool_members(call)}]
    pools = call.cluster.access.entries["pools"]
    return [
        {"poolid": pool, **({"comment": entry["comment"]} if entry.get("comment") else {})}
        for pool, entry in sorted(pools.items())
        if call.may(f"/pool/{pool}", "Pool.Audit")
    ]


def pool_members(call: Call) -> dict[str, Any]:
    """GET pools/{poolid}: comment and members."""
    poolid, kind = call.params["poolid"], call.params.get("type")
    pool = call.cluster.access.entries["pools"].get(poolid)
    if pool is None:
        raise failed(f"pool '{poolid}' does not exist")
    seen = resources(Call(call.cluster, call.who, {}))
    members = [entry for entry in seen if entry["type"] == "qemu" and entry["vmid"] in pool["vms"]]
    members += [entry for entry in seen if entry["type"] == "storage" and entry["storage"] in pool["storage"]]
    members = [entry for entry in members if kind in (None, entry["type"])]
    return {**({"comment": pool["comment"]} if pool.get("comment") else {}), "members": members}


def create_pool(call: Call) -> None:
    """POST pools."""
    poolid = call.params["poolid"]
    with call.cluster.access.changed() as entries:
        if poolid in entries["pools"]:
            raise failed(f"create pool failed: pool '{poolid}' already exists")
        entries["pools"][poolid] = {"comment": call.params.get("comment"), "vms": [], "storage": []}


def change_pool(call: Call) -> None:
    """PUT pools: comment and members."""
    poolid, remove = call.params["poolid"], bool(call.params.get("delete"))
    with call.cluster.access.changed() as entries:
        pool = entries["pools"].get(poolid)
        if pool is None:
            raise failed(f"update pools failed: pool '{poolid}' does not exist")
        if "comment" in call.params:
            pool["comment"] = call.params["comment"]
        for text in split_list(call.params.get("vms", "")):
            _change_vm(call, entries["pools"], poolid, int(text), remove=remove)
        for storage in split_list(call.params.get("storage", "")):
            _change_storage(call, pool, storage, remove=remove)


def _change_vm(call: Call, pools: dict[str, Any], poolid: str, vmid: int, *, remove: bool) -> None:
    call.demand(f"/vms/{vmid}", "VM.Allocate")
    pool = pools[poolid]
    if remove:
        if vmid not in pool["vms"]:
            raise failed(f"update pools failed: VM {vmid} is not a pool member")
        pool["vms"].remove(vmid)
        return
    if vmid in pool["vms"]:
        raise failed(f"update pools failed: VM {vmid} is already a pool member")
    if call.cluster.configs.find(vmid) is None:
        raise failed(f"update pools failed: VM {vmid} does not exist")
    other = next((name for name, entry in pools.items() if vmid in entry["vms"]), None)
    if other:
        if not call.params.get("allow-move"):
            raise failed(f"update pools failed: VM {vmid} belongs to pool '{other}'")
        call.demand(f"/pool/{other}", "Pool.Allocate")
        pools[other]["vms"].remove(vmid)
    pool["vms"].append(vmid)


def _change_storage(call: Call, pool: dict[str, Any], storage: str, *, remove: bool) -> None:
    call.demand(f"/storage/{storage}", "Datastore.Allocate")
    if remove:
        if storage not in pool["storage"]:
            raise failed(f"update pools failed: Storage '{storage}' is not a pool member")
        pool["storage"].remove(storage)
        return
    call.cluster.volumes.spec(storage)
    if storage in pool["storage"]:
        raise failed(f"update pools failed: Storage '{storage}' is already a pool member")
    pool["storage"].append(storage)


def delete_pool(call: Call) -> None:
    """DELETE pools: only an empty one."""
    poolid = call.params["poolid"]
    with call.cluster.access.changed() as entries:
        pool = entries["pools"].get(poolid)
        if pool is None:
            raise failed(f"delete pool failed: pool '{poolid}' does not exist")
        for kind, member in [("VM", vmid) for vmid in pool["vms"]] + [("storage", name) for name in pool["storage"]]:
            shown = member if kind == "VM" else f"'{member}'"
            raise failed(f"delete pool failed: pool '{poolid}' is not empty (contains {kind} {shown})")
        del entries["pools"][poolid]
        entries["acl"].pop(f"/pool/{poolid}", None)
