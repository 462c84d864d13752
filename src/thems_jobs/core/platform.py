"""What a platform file declares, as plain values.

The file is read and typed at the edge (platform_file.py); here is only its shape, its rules are in platform_rules.py.
"""

import ipaddress
import re
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

_STRICT = {"extra": "forbid"}  # read by pydantic at the edge: an unknown key is a mistake, not a comment

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
