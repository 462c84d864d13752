"""What an operator prepares once on a cluster for thems-jobs, done through the lab's API in the same way."""

import os

from thems_jobs.lab.client import RootClient
from thems_jobs.lab.layout import LabLayout

POOL = "shop"
USER, TOKEN = "thems@pve", "jobs"
RECORD_VMID = 9000

# Exactly what the jobs use, granted where they work ...
ROLE, PRIVILEGES = "ThemsJobs", (
    "VM.Allocate", "VM.Audit", "VM.Clone", "VM.Config.CPU", "VM.Config.Memory", "VM.Config.Network",
    "VM.Config.Disk", "VM.Config.Cloudinit", "VM.Config.Options", "VM.PowerMgmt", "VM.GuestAgent.Audit",
    "VM.GuestAgent.FileRead", "Pool.Audit", "Datastore.AllocateSpace", "Datastore.Audit", "SDN.Use", "Sys.Audit",
)  # fmt: skip
PATHS = ("/pool/shop", "/storage/shared", "/storage/local", "/sdn/zones/localnetwork", "/nodes")
# ... and to look everywhere: whose VM has an id, name or address of ours cannot be told otherwise.
LOOK_ROLE, LOOK_PRIVILEGES = "ThemsLook", ("VM.Audit", "Sys.Audit")


def prepare_cluster(client: RootClient, layout: LabLayout, node: str) -> None:
    """Make pool, roles, user, token and record VM; write the token's secret to its file."""
    client.call("POST", "/pools", poolid=POOL, comment="The shop platform")
    client.call("POST", "/access/roles", roleid=ROLE, privs=",".join(PRIVILEGES))
    client.call("POST", "/access/roles", roleid=LOOK_ROLE, privs=",".join(LOOK_PRIVILEGES))
    client.call("POST", "/access/users", userid=USER, comment="thems-jobs")
    token = client.call("POST", f"/access/users/{USER}/token/{TOKEN}", privsep=0, comment="thems-jobs")
    with os.fdopen(os.open(layout.token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(token["value"] + "\n")
    client.call("PUT", "/access/acl", path="/", roles=LOOK_ROLE, users=USER)
    for path in PATHS:
        client.call("PUT", "/access/acl", path=path, roles=ROLE, users=USER)
    record = {"vmid": RECORD_VMID, "name": "shop-record", "pool": POOL, "memory": 16, "cores": 1}
    client.finish(client.call("POST", f"/nodes/{node}/qemu", **record))
