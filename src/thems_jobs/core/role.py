"""What thems-jobs may do on a cluster: exactly the privileges it uses, where and why. See docs/proxmox-role.md.

Names and paths are those of Proxmox VE 9, where VM.Monitor was replaced by VM.GuestAgent.*.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from thems_jobs.core.platform import Platform


@dataclass(frozen=True)
class Grant:
    """A role, the kinds of path it is given on, and its privileges with the reason for each."""

    role: str
    where: str
    privileges: dict[str, str]


LOOK = Grant(
    "ThemsLook",
    "the whole cluster",
    {
        "Sys.Audit": "see which nodes are online, their size, whether there is quorum, how long tasks take",
        "VM.Audit": "see who has an id or a name of ours and how full nodes are; read our machines' configuration",
    },
)
MACHINES = Grant(
    "ThemsMachines",
    "the pool",
    {
        "Pool.Audit": "see that the pool is there",
        "VM.Allocate": "make and remove machines, make templates of them",
        "VM.Clone": "clone the templates, which are in the pool, too",
        "VM.Config.CPU": "set cores",
        "VM.Config.Disk": "give templates their disk and enlarge it",
        "VM.Config.HWType": "give templates a serial console and a disk controller",
        "VM.Config.Memory": "set memory",
        "VM.Config.Network": "attach machines to the bridge; set their address, account and SSH key",
        "VM.Config.Options": "set tags, description, protection, guest agent and start at boot; write the record",
        "VM.GuestAgent.FileRead": "read a new machine's SSH host key before the first connection",
        "VM.PowerMgmt": "start machines and shut them down",
    },
)
STORAGE = Grant(
    "ThemsStorage",
    "the storages of the templates",
    {
        "Datastore.AllocateSpace": "make the disks of templates and machines",
        "Datastore.Audit": "see free space",
    },
)
IMAGES = Grant(
    "ThemsImages", "the storages of the images", {"Datastore.Audit": "import the image a template begins as"}
)
BRIDGES = Grant("ThemsBridges", "the bridges", {"SDN.Use": "attach machines to the bridge"})
ROLE = (LOOK, MACHINES, STORAGE, IMAGES, BRIDGES)


def granted_paths(platform: Platform) -> Iterator[tuple[str, Grant]]:
    """Given a platform, return every path of Proxmox's access control that a grant is needed on, with the grant."""
    yield "/", LOOK
    yield f"/pool/{platform.proxmox.pool}", MACHINES
    tiers = platform.tiers.values()
    storages = sorted({tier.template.storage for tier in tiers})
    images = {tier.template.image.partition(":")[0] for tier in tiers if tier.template.image}
    for storage in storages:
        yield f"/storage/{storage}", STORAGE
    for storage in sorted(images.difference(storages)):
        yield f"/storage/{storage}", IMAGES
    for bridge in sorted({tier.network.bridge for tier in tiers}):
        yield f"/sdn/zones/localnetwork/{bridge}", BRIDGES


def commands(platform: Platform) -> list[str]:
    """Given a platform, return what an administrator runs on a node, once, to let thems-jobs in."""
    user, _, token = platform.proxmox.token_id.partition("!")
    lines = [f"pveum pool add {platform.proxmox.pool}"]
    lines += [f'pveum role add {grant.role} --privs "{" ".join(sorted(grant.privileges))}"' for grant in ROLE]
    lines.append(f"pveum user add {user}")
    lines += [f"pveum acl modify {path} --users {user} --roles {grant.role}" for path, grant in granted_paths(platform)]
    lines += [f"pveum user token add {user} {token} --privsep 0", record_command(platform)]
    return lines


def record_command(platform: Platform) -> str:
    """Given a platform, return the command that makes its record VM: no disk, never started."""
    proxmox = platform.proxmox
    return f"qm create {proxmox.record_vmid} --name {platform.name}-record --pool {proxmox.pool} --memory 16"
