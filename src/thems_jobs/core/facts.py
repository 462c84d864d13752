"""What was seen: one frozen picture of the platform. What could not be seen is an Unknown, never a guess."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from thems_jobs.core.record import Record


class Phase(StrEnum):
    """Where a machine is in its life; kept as the tag `phase-…` and in its stamp."""

    BUILDING = "building"
    SERVING = "serving"
    DRAINING = "draining"


@dataclass(frozen=True)
class Unknown:
    """A fact that could not be had, and why."""

    reason: str


@dataclass(frozen=True)
class Stamp:
    """What a machine's description says of it: enough to know it from a copy, a namesake or a stranger."""

    platform: str
    machine: str
    vmid: int
    tier: str
    phase: Phase
    image: str = ""  # the template it was cloned from, with its build time
    converged: str = ""  # digest of the configuration that it last took
    since: float = 0.0  # unix time at which the phase began
    host_key: str = ""  # its SSH host key, read through the guest agent before the first connection


UNDER_WAY = ("cloning", "starting", "stopping", "destroying")


class Making(StrEnum):
    """How far the making of a template has come; kept in its stamp."""

    MADE = "made"
    BAKED = "baked"
    SEALING = "sealing"  # begun: if nobody goes on with it, nobody knows how far it came
    SEALED = "sealed"


@dataclass(frozen=True)
class ImageStamp:
    """What the description of a template, or of the VM that becomes one, says of it."""

    platform: str
    template: str
    vmid: int
    tier: str
    making: Making
    roles: str = ""  # digest of the configuration that was baked into it
    built_at: float = 0.0


@dataclass(frozen=True)
class Machine:
    """A machine of ours, made or half-made.

    `clone` and `power` tell of its last clone task and of its last start, stop or destroy task: "" for none under
    way, one of UNDER_WAY, or the error text of a task that failed.
    """

    name: str
    tier: str
    vmid: int  # 0: none chosen yet
    address: str
    exists: bool = False
    node: str = ""
    stamp: Stamp | None = None
    digest: str = ""  # of its configuration: every change of it is a compare-and-swap
    configured: bool = False  # size, cloud-init and tags are set
    memory_mib: int = 0  # as it was configured; 0: it will be its tier's
    cores: int = 0  # of the same
    locked: str = ""
    running: bool = False
    clone: str = ""
    clone_attempt: int = 1
    power: str = ""
    power_attempt: int = 1
    task: str = ""  # UPID of the task under way, if this run began it
    task_at: float = 0.0
    host_key: str = ""
    ssh_open: bool = False
    converged: str = ""  # digest of the configuration it has, as its stamp or this run knows
    health: str = ""  # "" not asked, "ok", or what was wrong
    renewed: bool = False  # configured in this run, not yet serving again
    warm: bool = False  # checked and warmed up since then
    joining: bool = False  # its database was started and becomes a member of the cluster
    barred: bool = False  # in this run, whatever would let its database make a cluster was taken back
    image: ImageStamp | None = None  # of a VM that becomes a template, or is one that may be removed
    template: bool = False  # it is one already
    rests: tuple[str, ...] = ()  # the machines whose disks rest on it
    in_use: str = ""  # why Proxmox refused to remove it, as this run was told
    disk_gib: int = 0  # of the same

    @property
    def phase(self) -> Phase | None:
        """Where it is in its life; None for a clone that is not finished."""
        return self.stamp.phase if self.stamp else None

    @property
    def reachable(self) -> bool:
        """True if it runs (and will go on), its host key is known and its SSH port answers."""
        return self.running and self.power != "stopping" and bool(self.host_key) and self.ssh_open


@dataclass(frozen=True)
class Stranger:
    """A VM that is not ours and stands where ours would."""

    vmid: int
    name: str
    pool: str
    why: str


@dataclass(frozen=True)
class Node:
    """A Proxmox node and what others are promised on it (`…_used` sums the declared sizes of all VMs but ours).

    Ours are counted by what is known of each: a run makes some after the list was asked for.
    """

    name: str
    online: bool
    cores: int = 0
    cores_used: int = 0
    memory_mib: int = 0
    memory_used_mib: int = 0


@dataclass(frozen=True)
class Storage:
    """A storage as one node sees it."""

    name: str
    node: str
    shared: bool
    active: bool
    free_mib: int


@dataclass(frozen=True)
class TemplateImage:
    """A template found on the cluster."""

    name: str
    vmid: int
    node: str
    built_at: float
    roles: str = ""  # digest of the configuration baked into it, "" where it is not known


@dataclass(frozen=True)
class Server:
    """A web machine as one balancer sees it. `connections` counts every request in flight."""

    address: str
    weight: int
    up: bool
    connections: int


@dataclass(frozen=True)
class Counters:
    """Requests at a balancer's front since it started."""

    requests: int = 0
    failed: int = 0  # answers 5xx, and requests that got none


@dataclass(frozen=True)
class Balancer:
    """One balancer's answer. `holds` are the VRRP addresses it has now."""

    servers: Mapping[str, Server]
    generation: str
    holds: tuple[str, ...] = ()
    connections: int = 0  # at its front, all servers together
    counters: Counters = field(default_factory=Counters)


@dataclass(frozen=True)
class Member:
    """What one database machine tells of itself. None is a fact that it did not tell.

    Rates are of the window between two samples. wsrep values keep the vendor's names and numbers.
    """

    status: str | None  # wsrep_cluster_status: Primary, non-Primary or Disconnected
    uuid: str | None  # wsrep_cluster_state_uuid
    view: int | None  # wsrep_cluster_conf_id
    size: int | None  # wsrep_cluster_size
    index: int | None  # wsrep_local_index, of its own in every view
    state: int | None  # wsrep_local_state: 1 joining, 2 donor or desynced, 3 joined, 4 synced
    connected: bool | None  # wsrep_connected
    ready: bool | None  # wsrep_ready
    switches: Mapping[str, str]  # what can take it out of service, by the variable's name
    receive_queue: float | None  # mean of the window, in write sets
    flow_control_ratio: float | None  # of the window
    window_s: float  # at least as long as the settings ask for; it may have begun with an earlier look
    busy: tuple[str, ...] | None  # "backup of …", "schema change …"
    seqno: int | None  # wsrep_last_committed
    gcache_downto: int | None  # wsrep_local_cached_downto, the oldest write set it can still give; None: none yet
    gcache_bytes: int | None  # gcache.size
    write_bytes_s: float | None  # of the whole cluster, as this member sees it; the most of the window and its lifetime
    data_bytes: int | None  # what a full copy would have to carry
    connections: int | None  # the shop's sessions, without those that are idle for long
    version: str = ""


@dataclass(frozen=True)
class Standing:
    """Where one member stands, also while it is stopped. `seqno` is its last transaction, -1 for none known."""

    running: bool
    uuid: str
    seqno: int
    view: str  # member, bootstrapped or none


@dataclass(frozen=True)
class Backup:
    """A whole copy of the database's data in the platform's backup folder."""

    at: float  # unix time at which it was whole
    member: str
    uuid: str
    seqno: int  # the last transaction in it
    path: str = ""


@dataclass(frozen=True)
class Backend:
    """A database machine as one proxy sees it."""

    address: str
    status: str  # up, down or drained
    connections: int


@dataclass(frozen=True)
class Proxy:
    """One database proxy's answer. `writer` is the machine that gets all writes, "" for none."""

    writer: str
    backends: Mapping[str, Backend]
    holds: tuple[str, ...] = ()  # VRRP addresses
    generation: str = ""


@dataclass(frozen=True)
class Cluster:
    """The database cluster: those that should be its members now, and every proxy, each asked for itself."""

    members: Mapping[str, Member | Unknown]
    proxies: Mapping[str, Proxy | Unknown]
    holders: tuple[str, ...]  # proxies that have the VRRP address
    hosts: Mapping[str, str]  # Proxmox node by machine, also of one that is to be added
    nodes: tuple[str, ...]  # Proxmox nodes that could take a member
    expected: int  # how many members the cluster should have now
    moving: tuple[str, ...] = ()  # on their way in or out: the cluster may count them already, or still
    arriving: Mapping[str, Member | Unknown] = field(default_factory=dict)  # what those of them that run tell
    copied: frozenset[str] = frozenset()  # members that this very run makes a backup of just now


@dataclass(frozen=True)
class Facts:
    """Everything the planners and gates may look at."""

    at: float
    record: Record | Unknown
    machines: Mapping[str, Machine] = field(default_factory=dict)
    strangers: tuple[Stranger, ...] = ()
    cut_off: tuple[Stranger, ...] = ()  # on nodes that are offline: what they are, nobody can say
    remains: tuple[Stranger, ...] = ()  # of clones of ours whose task was lost: Proxmox keeps them locked
    nodes: Mapping[str, Node] = field(default_factory=dict)
    storages: tuple[Storage, ...] = ()
    templates: Mapping[str, TemplateImage] = field(default_factory=dict)  # by tier
    balancers: Mapping[str, Balancer | Unknown] = field(default_factory=dict)  # by machine name
    holders: tuple[str, ...] = ()  # machines that have the VRRP address, whatever their phase
    quiet_since: Mapping[str, float] = field(default_factory=dict)  # drained on every balancer, since when
    taken_vmids: frozenset[int] = frozenset()
    taken_addresses: Mapping[str, str] = field(default_factory=dict)  # address: who answers there
    quorate: bool = True
    front: str = ""  # check through the VRRP address: "" not asked, "ok", or what was wrong
    polled_at: float = 0.0  # when the cluster's tasks were last asked for
    listed_at: float = 0.0  # when the list of all VMs was last asked whether machines that boot still run
    roles: Mapping[str, str] = field(default_factory=dict)  # tier: digest of the configuration it should have
    history: Mapping[str, float] = field(default_factory=dict)  # seconds by action, of the cluster's latest tasks
    databases: Cluster | None = None  # None: not asked, or none of ours
    standings: Mapping[str, Standing | Unknown] = field(default_factory=dict)  # of databases silent by SQL
    backup: Backup | Unknown | None = None  # the newest whole one; Unknown: the folder cannot be used

    @property
    def known_record(self) -> Record:
        """The record, empty where it could not be read: a gate refuses then, so nothing rests on its emptiness."""
        return Record() if isinstance(self.record, Unknown) else self.record

    @property
    def seconds(self) -> Mapping[str, float]:
        """How long actions take here: as our own runs measured, or else as the cluster's own history tells."""
        return {**self.history, **self.known_record.seconds}

    def of_tier(self, tier: str) -> list[Machine]:
        """Given a tier, return our machines of it, lowest number first."""
        return sorted((m for m in self.machines.values() if m.tier == tier), key=lambda m: number_of(m.name))


def number_of(name: str) -> int:
    """Given a machine name `platform-tier-7`, return 7; 0 if it has none, as a template."""
    number = name.rpartition("-")[2]
    return int(number) if number.isdigit() else 0
