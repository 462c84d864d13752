"""What an operator prepares once on a cluster for thems-jobs, done through the lab's API in the same way."""

import os

from thems_jobs.lab.client import RootClient
from thems_jobs.lab.layout import LabLayout

POOL = "shop"
USER, TOKEN = "thems@pve", "jobs"
RECORD_VMID = 9000

# The roles of docs/proxmox-role.md and where they are given; a test compares them with what the jobs ask for.
ROLES = {
    "ThemsLook": ("Sys.Audit", "VM.Audit"),
    "ThemsMachines": (
        "Pool.Audit", "VM.Allocate", "VM.Clone", "VM.Config.CPU", "VM.Config.Disk", "VM.Config.HWType",
        "VM.Config.Memory", "VM.Config.Network", "VM.Config.Options", "VM.GuestAgent.FileRead", "VM.PowerMgmt",
    ),
    "ThemsStorage": ("Datastore.AllocateSpace", "Datastore.Audit"),
    "ThemsImages": ("Datastore.Audit",),
    "ThemsBridges": ("SDN.Use",),
}  # fmt: skip
GRANTS = {
    "/": "ThemsLook",
    "/pool/shop": "ThemsMachines",
    "/storage/shared": "ThemsStorage",
    "/storage/local": "ThemsImages",
    "/sdn/zones/localnetwork/vmbr0": "ThemsBridges",
}


def prepare_cluster(client: RootClient, layout: LabLayout, node: str) -> None:
    """Make pool, roles, user, token and record VM; write the token's secret to its file."""
    client.call("POST", "/pools", poolid=POOL, comment="The shop platform")
    for role, privileges in ROLES.items():
        client.call("POST", "/access/roles", roleid=role, privs=",".join(privileges))
    client.call("POST", "/access/users", userid=USER, comment="thems-jobs")
    token = client.call("POST", f"/access/users/{USER}/token/{TOKEN}", privsep=0, comment="thems-jobs")
    with os.fdopen(os.open(layout.token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(token["value"] + "\n")
    for path, role in GRANTS.items():
        client.call("PUT", "/access/acl", path=path, roles=role, users=USER)
    record: dict[str, str | int] = {"vmid": RECORD_VMID, "name": "shop-record", "pool": POOL, "memory": 16, "cores": 1}
    client.finish(client.call("POST", f"/nodes/{node}/qemu", **record))
