"""What a platform file declares, as plain values, and every mistake such a file can hold.

The file is read and typed at the edge (platform_file.py); here are only its shape and its rules.
"""

import ipaddress
import re
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

_STRICT = {"extra": "forbid"}  # read by pydantic at the edge: an unknown key is a mistake, not a comment

# A DNS label that leaves room for "-<tier>-<number>" in 63 characters (RFC 1035).
NAME = re.compile(r"^[a-z]([a-z0-9-]{0,28}[a-z0-9])?$")
ACCOUNT = re.compile(r"^[A-Za-z_][A-Za-z0-9_]{0,31}$")  # MySQL's limit is 32, the signs are ours
SCHEMA = re.compile(r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")
RANGE_LIMIT = 65536  # ids or addresses of one tier: a longer range is a slip of the pen
ADDRESS_RANGE = re.compile(r"^\s*(\S+?)\s*-\s*(\S+)\s*$")


@dataclass(frozen=True)
class Proxmox:
    """Where the cluster is and what we may use of it. Paths are relative to the platform file."""

    endpoints: tuple[str, ...]
    token_id: str
    token_file: str
    pool: str
    record_vmid: int
    nodes: tuple[str, ...]
    ca_file: str | None = None
    clones_per_storage: int = 4  # more at once only queue on Proxmox's 10 s storage lock
    memory_reserve_mib: int = 2048  # per node, left for Proxmox itself
    cpu_overcommit_ratio: float = 4.0  # virtual cores per physical core
    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class Reach:
    """How machines are reached: directly, or through a network namespace of this host (the lab)."""

    netns: str | None = None
    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class Ssh:
    """The operators' account on every machine."""

    user: str
    key_file: str
    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class Template:
    """What a tier's machines are cloned from. `image` is the volume it is first built from.

    `keep_templates`: so many of the newest stay, older ones are removed when no machine rests on them any more.
    """

    name: str
    vmid: int
    storage: str
    image: str | None = None
    max_age_days: int = 35
    keep_templates: int = 2
    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class Network:
    """Addresses of a tier: machine number n has the n-th address of the range."""

    bridge: str
    addresses: str
    prefix: int
    gateway: str | None = None
    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class Health:
    """How one machine of a tier says that it is well."""

    port: int
    path: str = "/healthz"
    status: int = 200
    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class Tier:
    """Machines of one kind: how many there may be, of what size, where."""

    role: Literal["web", "balancer", "database", "proxy"]
    template: Template
    minimum: int
    baseline: int
    maximum: int
    cores: int
    memory_mib: int
    disk_gib: int
    vmids: str
    network: Network
    health: Health
    placement: Literal["spread", "strict-spread"] = "spread"  # strict: never two on one node
    php_workers: int = 0
    demo_pages: bool = False
    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class Balancing:
    """The one address the world sees, and which tiers stand where."""

    address: str
    router_id: int
    balancer_tier: str
    web_tier: str
    admit_weight: int = 10  # of 100: a machine's first share of the visitors
    port: int = 80
    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class Application:
    """The shop's own account in the database, made once with its database."""

    database: str
    user: str
    password_file: str
    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class BackupFolder:
    """Where copies of all data are kept, on the machine that runs the jobs: a share that outlives it."""

    folder: str
    fresh_s: float = 3600.0  # a copy of that age still counts as one made before a change
    keep: int = 7  # copies; older ones go when a new one is whole
    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class DatabaseCluster:
    """The Galera cluster and its proxies, where we run them. Paths are relative to the platform file."""

    tier: str
    proxy_tier: str
    address: str  # of the proxies, by VRRP
    router_id: int
    ca_file: str  # signs the database machines' certificates; every connection of ours verifies it
    ca_key_file: str
    password_file: str
    application: Application
    flavour: Literal["mariadb", "percona"] = "mariadb"
    proxy: Literal["haproxy", "proxysql"] = "haproxy"
    port: int = 3306
    user: str = "thems"  # the jobs' account on every database machine
    proxysql_user: str = "thems"  # of ProxySQL's admin interface
    proxysql_password_file: str | None = None
    gcache_mib: int = 128  # Galera's own default
    sample_s: float = 2.0  # between the two samples of receive queue and flow control
    receive_queue_limit: float = 10.0  # write sets waiting on one member; Galera stops the writers at 100 by default
    flow_control_limit_ratio: float = 0.05  # of the time between the samples
    backup: BackupFolder | None = None  # None: nothing is copied before members leave
    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class Database:
    """What the web machines may ask of the database, and the cluster itself if it is ours to run."""

    max_connections: int
    reserved_connections: int = 20
    cluster: DatabaseCluster | None = None
    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class Timeouts:
    """Seconds after which a wait is given up and the run halts with the machine named."""

    api_s: float = 30.0
    clone_s: float = 1200.0
    boot_s: float = 300.0
    converge_s: float = 900.0
    sync_s: float = 7200.0  # a member's first copy of all data
    up_s: float = 60.0
    drain_s: float = 600.0
    stop_s: float = 180.0
    destroy_s: float = 300.0
    lease_s: float = 120.0
    patience_s: float = 90.0  # how long a gate may be closed in mid-run before the run halts
    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class Platform:
    """One shop platform."""

    name: str
    proxmox: Proxmox
    ssh: Ssh
    balancing: Balancing
    tiers: dict[str, Tier]
    reach: Reach = field(default_factory=Reach)
    database: Database | None = None
    timeouts: Timeouts = field(default_factory=Timeouts)
    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class Mistake:
    """One wrong value: its path in the file, what was found and what is expected."""

    path: str
    found: str
    expected: str

    def __str__(self) -> str:
        return f"{self.path}: found {self.found}, expected {self.expected}."


@cache
def addresses_of(network: Network) -> tuple[str, ...]:
    """Given a network, return its addresses in order; index 0 belongs to machine number 1."""
    match = ADDRESS_RANGE.match(network.addresses)
    if not match:
        raise ValueError(f"{network.addresses!r} is not a range FIRST-LAST")
    first, last = (int(ipaddress.IPv4Address(part)) for part in match.groups())
    if last - first >= RANGE_LIMIT:
        raise ValueError(f"{network.addresses!r} has more than {RANGE_LIMIT} addresses")
    return tuple(str(ipaddress.IPv4Address(number)) for number in range(first, last + 1))


def vmids_of(tier: Tier) -> range:
    """Given a tier, return the VMIDs its machines may have."""
    first, _, last = tier.vmids.partition("-")
    vmids = range(int(first), int(last) + 1)
    if vmids.stop > 1_000_000_000 or vmids.stop - vmids.start > RANGE_LIMIT:
        raise ValueError(f"{tier.vmids!r} has more than {RANGE_LIMIT} ids, or ids above 999999999")
    return vmids


def mistakes(platform: Platform) -> list[Mistake]:
    """Given a platform of the right types, return every rule it breaks; [] means it can be used."""
    found: list[Mistake] = []

    def expect(ok: bool, path: str, value: object, expected: str) -> None:
        if not ok:
            found.append(Mistake(path, repr(value), expected))

    expect(
        bool(NAME.match(platform.name)),
        "name",
        platform.name,
        "lower-case letters, digits and dashes, at most 30",
    )
    proxmox = platform.proxmox
    expect(bool(proxmox.endpoints), "proxmox.endpoints", proxmox.endpoints, "at least one https:// address")
    for index, endpoint in enumerate(proxmox.endpoints):
        expect(endpoint.startswith("https://"), f"proxmox.endpoints[{index}]", endpoint, "an https:// address")
    expect(
        bool(re.match(r"^[^@!\s]+@[^@!\s]+![^@!\s]+$", proxmox.token_id)),
        "proxmox.token_id",
        proxmox.token_id,
        "user@realm!token",
    )
    expect(bool(proxmox.nodes), "proxmox.nodes", proxmox.nodes, "at least one node name")
    expect(
        100 <= proxmox.record_vmid <= 999_999_999,
        "proxmox.record_vmid",
        proxmox.record_vmid,
        "a VMID from 100 to 999999999",
    )
    expect(
        proxmox.clones_per_storage >= 1,
        "proxmox.clones_per_storage",
        proxmox.clones_per_storage,
        "at least 1",
    )
    expect(proxmox.memory_reserve_mib >= 0, "proxmox.memory_reserve_mib", proxmox.memory_reserve_mib, "0 or more")
    expect(
        proxmox.cpu_overcommit_ratio > 0,
        "proxmox.cpu_overcommit_ratio",
        proxmox.cpu_overcommit_ratio,
        "a number above 0",
    )
    for name, tier in platform.tiers.items():
        found += _tier_mistakes(f"tiers.{name}", name, tier)
    found += _balancing_mistakes(platform) + _database_mistakes(platform)
    found += _overlaps(platform)
    for name, value in vars(platform.timeouts).items():
        expect(value > 0, f"timeouts.{name}", value, "a number of seconds above 0")
    expect(platform.timeouts.lease_s >= 30, "timeouts.lease_s", platform.timeouts.lease_s, "at least 30 seconds")
    return found


def _tier_mistakes(path: str, name: str, tier: Tier) -> list[Mistake]:
    found: list[Mistake] = []

    def expect(ok: bool, key: str, value: object, expected: str) -> None:
        if not ok:
            found.append(Mistake(f"{path}{key}", repr(value), expected))

    expect(bool(NAME.match(name)), "", name, "a tier name of lower-case letters, digits and dashes")
    expect(tier.minimum >= 1, ".minimum", tier.minimum, "at least 1")
    expect(tier.baseline >= tier.minimum, ".baseline", tier.baseline, f"at least the minimum, {tier.minimum}")
    expect(tier.maximum >= tier.baseline, ".maximum", tier.maximum, f"at least the baseline, {tier.baseline}")
    for key, least in (("cores", 1), ("memory_mib", 64), ("disk_gib", 1)):
        expect(getattr(tier, key) >= least, f".{key}", getattr(tier, key), f"at least {least}")
    expect(tier.php_workers >= 0, ".php_workers", tier.php_workers, "0 or more")
    expect(1 <= tier.health.port <= 65535, ".health.port", tier.health.port, "a port from 1 to 65535")
    expect(tier.health.path.startswith("/"), ".health.path", tier.health.path, "a path that starts with /")
    expect(
        tier.template.max_age_days >= 1,
        ".template.max_age_days",
        tier.template.max_age_days,
        "at least 1 day",
    )
    kept = tier.template.keep_templates
    expect(kept >= 1, ".template.keep_templates", kept, "at least 1")
    spare = tier.maximum + 1  # a replacement exists beside the machine it replaces
    try:
        count = len(vmids_of(tier))
        expect(
            count >= spare and vmids_of(tier).start >= 100,
            ".vmids",
            tier.vmids,
            f"FIRST-LAST from 100 up with room for {spare} machines",
        )
    except ValueError:
        expect(False, ".vmids", tier.vmids, "FIRST-LAST, for example 1100-1199")
    try:
        count = len(addresses_of(tier.network))
        expect(
            count >= spare,
            ".network.addresses",
            tier.network.addresses,
            f"room for {spare} machines (one above the maximum, for replacements)",
        )
    except ValueError:
        expect(False, ".network.addresses", tier.network.addresses, "FIRST-LAST, for example 10.0.1.11-10.0.1.60")
    expect(8 <= tier.network.prefix <= 30, ".network.prefix", tier.network.prefix, "a prefix length from 8 to 30")
    return found


def _balancing_mistakes(platform: Platform) -> list[Mistake]:
    balancing, found = platform.balancing, []
    for key, role in (("balancer_tier", "balancer"), ("web_tier", "web")):
        name = getattr(balancing, key)
        if name not in platform.tiers:
            found.append(Mistake(f"balancing.{key}", repr(name), f"one of the tiers {', '.join(platform.tiers)}"))
        elif platform.tiers[name].role != role:
            found.append(Mistake(f"balancing.{key}", repr(name), f"a tier with role {role}"))
    try:
        ipaddress.IPv4Address(balancing.address)
    except ValueError:
        found.append(Mistake("balancing.address", repr(balancing.address), "an IPv4 address"))
    if not 1 <= balancing.router_id <= 255:
        found.append(Mistake("balancing.router_id", repr(balancing.router_id), "a VRRP router id from 1 to 255"))
    if not 1 <= balancing.admit_weight <= 100:
        found.append(Mistake("balancing.admit_weight", repr(balancing.admit_weight), "a weight from 1 to 100"))
    return found


def _database_mistakes(platform: Platform) -> list[Mistake]:
    database, found = platform.database, list[Mistake]()
    cluster = database.cluster if database else None
    named = {cluster.tier: "database", cluster.proxy_tier: "proxy"} if cluster else {}
    for name, tier in platform.tiers.items():
        if tier.role in ("database", "proxy") and named.get(name) != tier.role:
            key = {"database": "tier", "proxy": "proxy_tier"}[tier.role]
            found.append(Mistake(f"tiers.{name}.role", repr(tier.role), f"database.cluster.{key} to name this tier"))
    if database:
        most, kept = database.max_connections, database.reserved_connections
        if most < 1:
            found.append(Mistake("database.max_connections", repr(most), "at least 1"))
        if not 0 <= kept < max(1, most):
            path = "database.reserved_connections"
            found.append(Mistake(path, repr(kept), "0 or more, and less than max_connections"))
    return found + (_cluster_mistakes(platform, cluster) if cluster else [])


def _cluster_mistakes(platform: Platform, cluster: DatabaseCluster) -> list[Mistake]:
    found: list[Mistake] = []

    def expect(ok: bool, key: str, value: object, expected: str) -> None:
        if not ok:
            found.append(Mistake(f"database.cluster.{key}", repr(value), expected))

    for key, role in (("tier", "database"), ("proxy_tier", "proxy")):
        name = getattr(cluster, key)
        tier = platform.tiers.get(name)
        expect(tier is not None, key, name, f"one of the tiers {', '.join(platform.tiers)}")
        expect(tier is None or tier.role == role, key, name, f"a tier with role {role}")
    if (tier := platform.tiers.get(cluster.tier)) is not None:
        path = f"tiers.{cluster.tier}"
        if tier.minimum < 3:  # of two members, neither is a majority without the other
            found.append(Mistake(f"{path}.minimum", repr(tier.minimum), "at least 3 machines in a database tier"))
        if tier.baseline % 2 == 0:
            found.append(Mistake(f"{path}.baseline", repr(tier.baseline), "an odd number: halves of a cluster stop"))
    try:
        ipaddress.IPv4Address(cluster.address)
    except ValueError:
        expect(False, "address", cluster.address, "an IPv4 address")
    expect(1 <= cluster.router_id <= 255, "router_id", cluster.router_id, "a VRRP router id from 1 to 255")
    same = cluster.router_id == platform.balancing.router_id
    expect(not same, "router_id", cluster.router_id, "another VRRP router id than balancing.router_id")
    expect(1 <= cluster.port <= 65535, "port", cluster.port, "a port from 1 to 65535")
    for key, account in (("user", cluster.user), ("application.user", cluster.application.user)):
        expect(bool(ACCOUNT.match(account)), key, account, "letters, digits and _, at most 32, not a digit first")
    expect(cluster.application.user != cluster.user, "application.user", cluster.user, "another account than the jobs'")
    schema = cluster.application.database
    expect(bool(SCHEMA.match(schema)), "application.database", schema, "letters, digits and _, at most 64")
    expect(
        cluster.proxy != "proxysql" or bool(cluster.proxysql_password_file),
        "proxysql_password_file", cluster.proxysql_password_file, "a file: ProxySQL's admin interface asks for it",
    )  # fmt: skip
    expect(cluster.gcache_mib >= 1, "gcache_mib", cluster.gcache_mib, "at least 1")
    expect(0.1 <= cluster.sample_s <= 60, "sample_s", cluster.sample_s, "0.1 to 60 seconds")
    limit, ratio = cluster.receive_queue_limit, cluster.flow_control_limit_ratio
    expect(limit > 0, "receive_queue_limit", limit, "a number above 0")
    expect(0 < ratio <= 1, "flow_control_limit_ratio", ratio, "a share of the time, above 0 and at most 1")
    if (backup := cluster.backup) is not None:
        expect(bool(backup.folder.strip()), "backup.folder", backup.folder, "a folder, for example /srv/backups/shop")
        expect(backup.fresh_s >= 60, "backup.fresh_s", backup.fresh_s, "at least 60 seconds")
        expect(backup.keep >= 1, "backup.keep", backup.keep, "at least 1")
    return found


def _overlaps(platform: Platform) -> list[Mistake]:
    """Two tiers that share a VMID or an address would take each other's machines for strangers."""
    found: list[Mistake] = []
    vmids: dict[int, str] = {platform.proxmox.record_vmid: "proxmox.record_vmid"}
    addresses: dict[str, str] = {platform.balancing.address: "balancing.address"}
    if platform.database and (cluster := platform.database.cluster):
        if cluster.address in addresses:
            path = "database.cluster.address"
            found.append(Mistake(path, repr(cluster.address), "another address than balancing.address"))
        addresses[cluster.address] = "database.cluster.address"
    for name, tier in platform.tiers.items():
        vmids.setdefault(tier.template.vmid, f"tiers.{name}.template.vmid")
        try:
            mine = (
                (f"tiers.{name}.vmids", tier.vmids, vmids, tuple(vmids_of(tier))),
                (
                    f"tiers.{name}.network.addresses",
                    tier.network.addresses,
                    addresses,
                    addresses_of(tier.network),
                ),
            )
        except ValueError:
            continue  # already reported as malformed
        for path, text, taken, values in mine:
            shared = next((taken[value] for value in values if value in taken), None)  # type: ignore[index]
            if shared:
                found.append(Mistake(path, repr(text), f"nothing in common with {shared}"))
            taken.update(dict.fromkeys(values, path))  # type: ignore[arg-type]
    return found
