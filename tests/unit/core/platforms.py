"""A platform and facts for tables: sound ones, so that each test says only what it breaks."""

from typing import Any

from thems_jobs.core.facts import Balancer, Facts, Machine, Node, Phase, Server, Stamp, Storage, TemplateImage
from thems_jobs.core.identity import address_of, machine_name
from thems_jobs.core.platform import (
    Balancing,
    Database,
    Health,
    Network,
    Platform,
    Proxmox,
    Ssh,
    Template,
    Tier,
    vmids_of,
)
from thems_jobs.core.record import Record

AT = 1_800_000_000.0
ROLE = "as it should be"


def make_platform(
    nodes: tuple[str, ...] = ("pve1", "pve2"),
    minimum: int = 2,
    baseline: int = 2,
    maximum: int = 8,
    balancers: int = 2,
    placement: Any = "spread",
    clones_per_storage: int = 4,
    web_addresses: str = "10.77.1.11-10.77.1.60",
    database: Database | None = None,
) -> Platform:
    """A shop with a web tier and a balancer tier (`lb`)."""
    template = Template("debian", 900, "shared")
    web = Tier(
        "web", template, minimum, baseline, maximum, 2, 1024, 8, "1100-1199",
        Network("vmbr0", web_addresses, 16), Health(80), placement, php_workers=10,
    )  # fmt: skip
    lb = Tier(
        "balancer", template, 1, balancers, balancers, 1, 512, 4, "1200-1219",
        Network("vmbr0", "10.77.2.11-10.77.2.19", 16), Health(8080),
    )  # fmt: skip
    proxmox = Proxmox(
        ("https://10.77.0.1:8006",), "thems@pve!jobs", "token", "shop", 1000, nodes, None, clones_per_storage
    )
    balancing = Balancing("10.77.0.10", 51, "lb", "web")
    return Platform("shop", proxmox, Ssh("thems", "key"), balancing, {"web": web, "lb": lb}, database=database)


def serving(platform: Platform, tier: str, number: int, node: str = "pve1", **changes: Any) -> Machine:
    """A machine that serves as it should, but for the changes."""
    name, vmid = machine_name(platform, tier, number), vmids_of(platform.tiers[tier]).start + number - 1
    stamp = Stamp(platform.name, name, vmid, tier, changes.pop("phase", Phase.SERVING), converged=ROLE)
    values: dict[str, Any] = {
        "exists": True, "node": node, "stamp": stamp, "configured": True, "running": True, "host_key": "known",
        "ssh_open": True, "converged": ROLE, "health": "ok",
    }  # fmt: skip
    return Machine(name, tier, vmid, address_of(platform, name), **values | changes)


def sound_facts(platform: Platform, web: int = 2, lb: int = 2, **changes: Any) -> Facts:
    """Facts of a platform that has so many machines, all well, and room for more."""
    names = platform.proxmox.nodes
    fleet = [serving(platform, "web", n + 1, names[n % len(names)]) for n in range(web)]
    fleet += [serving(platform, "lb", n + 1, names[n % len(names)]) for n in range(lb)]
    servers = {m.name: Server(m.address, 100, True, 0) for m in fleet if m.tier == "web"}
    values: dict[str, Any] = {
        "record": Record(),
        "machines": {machine.name: machine for machine in fleet},
        "nodes": {name: Node(name, True, 64, 0, 1 << 18, 0) for name in names},
        "storages": tuple(Storage("shared", name, True, True, 1 << 26) for name in names),
        "templates": {tier: TemplateImage("debian", 900, "pve1", AT - 86400) for tier in platform.tiers},
        "balancers": {m.name: Balancer(servers, "generation") for m in fleet if m.tier == "lb"},
        "holders": ("shop-lb-1",),
        "taken_vmids": frozenset(machine.vmid for machine in fleet),
        "roles": dict.fromkeys(platform.tiers, ROLE),
    }  # fmt: skip
    return Facts(AT, **values | changes)
