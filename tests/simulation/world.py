"""A model of a cluster, its machines and its balancers, that answers as the real clients do.

The conformance suite holds its API to the lab's. Whatever can happen by itself (tasks, boots, drains) happens in
virtual time; a `Session` in front of it adds what can happen to one run: lost answers, locks, kills.
"""

import hashlib
import itertools
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TypeVar

from clock import VirtualClock
from world_databases import Database, Galera, Proxies

from thems_jobs.clients.proxmox import Resources, Task, VmConfig, VmRow
from thems_jobs.core import record as records
from thems_jobs.core.facts import Backup, Balancer, Counters, Node, Server, Storage, TemplateImage
from thems_jobs.core.galera import SYNCED
from thems_jobs.core.platform import Platform
from thems_jobs.core.record import Record
from thems_jobs.errors import EffectFailed, Refused, Transient, Unreachable

T = TypeVar("T")
LAG_S = 10.0  # how late the list of all VMs can be
GIB = 1024
NOT_THERE = "Configuration file 'nodes/{node}/qemu-server/{vmid}.conf' does not exist."


@cache
def _address(ipconfig: str) -> str:
    match = re.match(r"ip=([0-9.]+)/", ipconfig)
    return match.group(1) if match else ""


@dataclass
class Vm:
    """One VM, and what runs in it."""

    vmid: int
    name: str
    node: str
    pool: str = ""
    description: str = ""
    tags: tuple[str, ...] = ()
    options: dict[str, str] = field(default_factory=dict)
    template: bool = False
    lock: str = ""
    protection: bool = False
    version: int = 0
    created_at: float = 0.0
    running: bool = False
    kind: str = "qemu"  # or lxc
    changed_at: float = 0.0  # when `running` changed last
    ready_at: float = float("inf")  # when SSH and guest agent answer, once it runs
    converged: str = ""  # the role it was configured for
    table: dict[str, tuple[str, int]] = field(default_factory=dict)  # a balancer's own list of servers
    leaves: dict[str, float] = field(default_factory=dict)  # server: when its last visitor will have left
    database: Database = field(default_factory=Database)

    @property
    def address(self) -> str:
        return _address(self.options.get("ipconfig0", ""))

    @property
    def digest(self) -> str:
        return f"{self.version:040x}"

    @property
    def key(self) -> str:
        return f"ssh-ed25519 KEY{self.vmid}x{int(self.created_at)}"

    def state(self) -> tuple[object, ...]:
        """All that nobody but its owner may change."""
        return (self.name, self.node, self.pool, self.description, self.tags, tuple(sorted(self.options.items())),
                self.template, self.lock, self.protection, self.running)  # fmt: skip


@dataclass
class Odds:
    """How likely it is that the cluster itself lets something fail."""

    clone_fails: float = 0.0
    id_race: float = 0.0  # another program takes the id first
    start_fails: float = 0.0
    stop_fails: float = 0.0
    never_boots: float = 0.0
    destroy_fails: float = 0.0
    never_drains: float = 0.0
    copy_slow: float = 0.0  # of all data, to a new member of the database cluster
    copy_fails: float = 0.0


class World:
    """The truth. Nothing here fails by itself but by `odds`."""

    def __init__(self, platform: Platform, clock: VirtualClock, chance: random.Random) -> None:
        self.platform, self.clock, self.chance = platform, clock, chance
        self.odds = Odds()
        self.vms: dict[int, Vm] = {}
        self.tasks: dict[str, Task] = {}
        self.offline: set[str] = set()
        self.memory_mib = dict.fromkeys(platform.proxmox.nodes, 65536)
        self.holder = 0  # the vmid of the balancer that has the VRRP address
        self.check: Callable[[], None] = lambda: None  # asked after every change
        self.before: Callable[[str, Vm], None] = lambda _what, _vm: None  # told what we are about to do to a machine
        self.galera, self.proxies = Galera(self), Proxies(self)
        self.backups: list[Backup] = []  # whole ones
        self._numbers = itertools.count(1)

    # What is

    def now(self) -> float:
        return self.clock.now()

    def up(self, vm: Vm) -> bool:
        """True if the machine can be reached by SSH."""
        return vm.running and vm.node not in self.offline and self.now() >= vm.ready_at

    def at(self, address: str) -> Vm | None:
        """Given an address, return the machine that answers there."""
        return next((vm for vm in self.vms.values() if vm.address == address and self.up(vm)), None)

    def web_serves(self, vm: Vm) -> bool:
        return self.up(vm) and vm.converged == "web"

    def balances(self, vm: Vm) -> bool:
        return self.up(vm) and vm.converged == "balancer"

    def current_holder(self) -> Vm | None:
        """Return the balancer that has the address now; another takes over from one that is gone."""
        held = self.vms.get(self.holder)
        if held is None or not self.balances(held):
            held = next((vm for vm in self.vms.values() if self.balances(vm)), None)
            self.holder = held.vmid if held else 0
        return held

    def served_by(self, balancer: Vm) -> set[str]:
        """Given a balancer, return the servers that it sends visitors to and that answer them."""
        return {
            name
            for name, (address, weight) in balancer.table.items()
            if weight > 0 and (vm := self.at(address.partition(":")[0])) is not None and self.web_serves(vm)
        }

    def visited(self, balancer: Vm, name: str) -> bool:
        """True if visitors are on a server through this balancer, or may come to it."""
        _, weight = balancer.table.get(name, ("", 0))
        return weight > 0 or self.now() < balancer.leaves.get(name, 0.0)

    # What happens

    def changed(self) -> None:
        if self.platform.database:
            self.galera.settle()
        self.check()

    def task(self, node: str, kind: str, vmid: int, seconds: float, end: Callable[[], str]) -> str:
        """Begin a task that ends in so many seconds with the error that `end` returns, "" for none."""
        upid = f"UPID:{node}:{next(self._numbers):08X}:0000AAAA:{int(self.now()):08X}:{kind}:{vmid}:thems@pve!jobs:"
        self.tasks[upid] = Task(upid, node, kind, vmid, "thems@pve!jobs", self.now(), None, "")

        def over() -> None:
            error = end()
            began = self.tasks[upid]
            self.tasks[upid] = Task(upid, node, kind, vmid, began.user, began.started_at, self.now(), error)
            self.changed()

        self.clock.later(seconds, over)
        return upid

    def luck(self, odds: float) -> bool:
        return odds > 0 and self.chance.random() < odds

    def ours(self, node: str, vmid: int) -> Vm:
        """Given where a VM of our pool is, return it. Raise Refused if it is not there: rights come with the pool."""
        vm = self.vms.get(vmid)
        path = f"nodes/{node}/qemu/{vmid}"
        if vm is None or vm.pool != self.platform.proxmox.pool:
            raise Refused("privilege-missing", path, f"Permission check failed (/vms/{vmid}).", "Run doctor.")
        if vm.node != node:
            raise EffectFailed(path, NOT_THERE.format(node=node, vmid=vmid))
        if node in self.offline:
            raise Transient(path, f"no route to {node}. It may have been carried out all the same.")
        return vm

    def power(self, vm: Vm, on: bool) -> None:
        vm.running, vm.changed_at = on, self.now()
        boots = not self.luck(self.odds.never_boots)
        vm.ready_at = self.now() + self.chance.uniform(1, 8) if on and boots else float("inf")
        if not on:
            self.galera.stop(vm)
        elif boots:
            self.clock.later(vm.ready_at - self.now(), lambda: self.galera.boot(vm))
        self.changed()

    def take_id(self, vmid: int) -> None:
        """Let another program make a VM with this id."""
        self.vms[vmid] = Vm(vmid, f"elsewhere-{vmid}", self.platform.proxmox.nodes[0], "other", created_at=self.now())


class Cluster:
    """The Proxmox client's methods on the world, as `clients.proxmox.Proxmox` has them."""

    def __init__(self, world: World) -> None:
        self.world = world

    def quorate(self) -> bool:
        return len(self.world.offline) * 2 < len(self.world.platform.proxmox.nodes)

    def resources(self) -> Resources:
        world = self.world
        vms = tuple(self._row(vm) for vm in world.vms.values())
        record = world.platform.proxmox.record_vmid
        counted = [vm for vm in world.vms.values() if not vm.template and vm.vmid != record]
        nodes = {
            name: Node(
                name, name not in world.offline, 32,
                sum(int(vm.options.get("cores", 1)) for vm in counted if vm.node == name),
                world.memory_mib[name],
                sum(int(vm.options.get("memory", 512)) for vm in counted if vm.node == name),
            )
            for name in world.platform.proxmox.nodes
        }  # fmt: skip
        storages = tuple(Storage("shared", name, True, name not in world.offline, 1 << 20) for name in nodes)
        return Resources(vms, nodes, storages)

    def _row(self, vm: Vm) -> VmRow:
        late = self.world.now() - vm.changed_at < LAG_S
        status = "running" if vm.running != late else "stopped"
        name = "" if self.world.now() - vm.created_at < LAG_S / 2 else vm.name
        return VmRow(vm.vmid, name, vm.node, vm.pool, vm.tags, vm.template, status, vm.lock,
                     int(vm.options.get("memory", 512)), int(vm.options.get("cores", 1)), vm.kind)  # fmt: skip

    def config(self, node: str, vmid: int) -> VmConfig | None:
        vm = self.world.vms.get(vmid)
        if vm is None or vm.node != node or vm.kind != "qemu":
            return None
        if node in self.world.offline:
            raise Unreachable("Proxmox API", f"no route to {node}.")
        options = {**vm.options, "name": vm.name, "template": "1" if vm.template else "0"}
        return VmConfig(vm.name, vm.description, vm.digest, vm.tags, vm.lock, vm.protection, vm.created_at, options)

    def running(self, node: str, vmid: int) -> bool:
        if node in self.world.offline:
            raise Unreachable("Proxmox API", f"no route to {node}.")
        vm = self.world.vms.get(vmid)
        return vm is not None and vm.node == node and vm.running

    def agent_read(self, node: str, vmid: int, path: str) -> str | None:
        assert path == "/etc/ssh/ssh_host_ed25519_key.pub"
        vm = self.world.ours(node, vmid)
        return f"{vm.key} root@{vm.name}\n" if self.world.up(vm) else None

    def tasks(self) -> tuple[Task, ...]:
        return tuple(list(self.world.tasks.values())[-25:])

    def task(self, upid: str) -> Task:
        return self.world.tasks[upid]

    def clone(
        self, template: TemplateImage, *, vmid: int, name: str, pool: str, description: str, target_node: str
    ) -> str:
        world = self.world
        if template.vmid not in world.vms or template.node in world.offline:
            raise EffectFailed("clone", NOT_THERE.format(node=template.node, vmid=template.vmid))
        if world.luck(world.odds.id_race) and vmid not in world.vms:
            world.take_id(vmid)
        taken = f"unable to create VM {vmid}: config file already exists"
        if vmid in world.vms:
            if world.chance.random() < 0.5:
                raise EffectFailed("clone", taken, "Another id is chosen when it is tried again.", "vmid-taken")
            return world.task(template.node, "qmclone", vmid, 0.2, lambda: taken)
        source = world.vms[template.vmid]
        vm = world.vms[vmid] = Vm(
            vmid, name, target_node, "", description, source.tags, dict(source.options), lock="clone",
            created_at=world.now(), changed_at=world.now(),
        )  # fmt: skip
        seconds, fails = world.chance.uniform(1, 12), world.luck(world.odds.clone_fails)

        def unlock() -> None:
            vm.lock, vm.version = ("", vm.version + 1) if not fails else (vm.lock, vm.version)

        def end() -> str:
            if fails:
                world.vms.pop(vmid, None)
                return "clone failed: no space left on device"
            vm.pool = pool  # Proxmox does so last, after the lock is gone
            return ""

        world.clock.later(seconds - world.chance.uniform(0, 1), unlock)
        upid = world.task(template.node, "qmclone", vmid, seconds, end)
        world.changed()
        return upid

    def configure(
        self, node: str, vmid: int, digest: str, options: Mapping[str, str | int], delete: Sequence[str] = ()
    ) -> None:
        vm = self.world.ours(node, vmid)
        if vm.lock:
            raise Transient(f"VM {vmid}", f"VM is locked ({vm.lock}).")
        if digest != vm.digest:
            raise Transient(
                f"VM {vmid}", "detected modified configuration - file changed by other user? checksum mismatch"
            )
        vm.version += 1
        for key in delete:
            vm.options.pop(key, None)
        for key, value in options.items():
            if key == "description":
                vm.description = str(value)
            elif key == "tags":
                vm.tags = tuple(str(value).split(";"))
            elif key == "protection":
                vm.protection = bool(int(value))
            else:
                vm.options[key] = str(value)
        self.world.changed()

    def start(self, node: str, vmid: int) -> str:
        world = self.world
        world.ours(node, vmid)

        def end() -> str:
            vm = world.vms.get(vmid)
            if vm is None or vm.node != node:
                return NOT_THERE.format(node=node, vmid=vmid)
            if vm.lock:
                return f"VM is locked ({vm.lock})"
            if vm.running:
                return f"VM {vmid} already running"
            if world.luck(world.odds.start_fails):
                return "start failed: QEMU exited with code 1"
            world.power(vm, True)
            return ""

        return world.task(node, "qmstart", vmid, world.chance.uniform(0.2, 4), end)

    def shutdown(self, node: str, vmid: int, timeout_s: float) -> str:
        world, seconds = self.world, self.world.chance.uniform(0.5, min(timeout_s, 8))
        world.before("shutdown", world.ours(node, vmid))

        def end() -> str:
            vm = world.vms.get(vmid)
            if vm is None or vm.node != node:
                return NOT_THERE.format(node=node, vmid=vmid)
            if world.luck(world.odds.stop_fails):
                return "VM quit/powerdown failed - got timeout"
            world.power(vm, False)
            return ""

        return world.task(node, "qmshutdown", vmid, seconds, end)

    def destroy(self, node: str, vmid: int) -> str:
        world = self.world
        if vmid not in world.vms or world.vms[vmid].node != node:
            return ""
        vm = world.ours(node, vmid)
        if vm.protection:
            raise EffectFailed(f"VM {vmid}", f"can't remove VM {vmid} - protection mode enabled.")
        if vm.running:
            raise EffectFailed(f"VM {vmid}", f"VM {vmid} is running - destroy failed.")

        def end() -> str:
            if world.vms.get(vmid) is not vm:
                return NOT_THERE.format(node=node, vmid=vmid)
            if vm.lock not in ("", "destroyed") or world.luck(world.odds.destroy_fails):
                return f"VM is locked ({vm.lock or 'backup'})"
            world.vms.pop(vmid)
            return ""

        return world.task(node, "qmdestroy", vmid, world.chance.uniform(0.2, 6), end)

    # The record, with the same compare-and-swap

    def read_record(self) -> tuple[Record, str]:
        vm = self.world.vms.get(self.world.platform.proxmox.record_vmid)
        if vm is None:
            raise Refused("record-unreadable", "record VM", "there is no such VM.")
        try:
            return records.read(vm.description, self.world.platform.name), vm.digest
        except ValueError as error:
            raise Refused("record-unreadable", "record VM", f"{error}.") from error

    def write_record(self, record: Record, digest: str) -> None:
        vm = self.world.vms[self.world.platform.proxmox.record_vmid]
        text = records.write(record, self.world.platform.name)
        if text != vm.description:
            self.configure(vm.node, vm.vmid, digest, {"description": text})


class Machines:
    """What is done on machines themselves: SSH, balancers, playbooks, HTTP."""

    def __init__(self, world: World) -> None:
        self.world = world

    def answers(self, address: str) -> bool:
        return self.world.at(address) is not None

    def show(self, name: str, address: str) -> Balancer:
        """Given a balancer, return what it tells. Raise Unreachable if it does not."""
        vm = self._balancer(name, address)
        servers = {key: self._server(vm, key) for key in vm.table}
        holds = (self.world.platform.balancing.address,) if self.world.current_holder() is vm else ()
        connections = sum(server.connections for server in servers.values()) if holds else 0
        return Balancer(servers, self.generation(vm), holds, connections, Counters())

    def _server(self, balancer: Vm, name: str) -> Server:
        address, weight = balancer.table[name]
        vm = self.world.at(address.partition(":")[0])
        visitors = 1 if vm is not None and self.world.visited(balancer, name) else 0
        return Server(address, weight, vm is not None and self.world.web_serves(vm), visitors)

    @staticmethod
    def generation(vm: Vm) -> str:
        return hashlib.sha256(repr(sorted(vm.table.items())).encode()).hexdigest()[:16]

    def _balancer(self, name: str, address: str) -> Vm:
        vm = self.world.at(address)
        if vm is None:
            raise Unreachable(name, "no route to host.")
        if vm.converged != "balancer":
            raise EffectFailed(name, "show ended with 1: there is no such program.")
        return vm

    def apply(self, name: str, address: str, expected: str, wanted: Mapping[str, tuple[str, int | None]]) -> str:
        """Change a balancer's table if it is the expected one, and return its new generation."""
        vm, world = self._balancer(name, address), self.world
        if self.generation(vm) != expected:
            raise Transient(name, "its list of servers was changed by somebody else meanwhile.")
        for key, (to, weight) in wanted.items():
            if weight is None:
                vm.table.pop(key, None)
                continue
            if weight == 0 and vm.table.get(key, (to, 0))[1] > 0:
                stays = float("inf") if world.luck(world.odds.never_drains) else world.chance.uniform(0, 8)
                vm.leaves[key] = world.now() + stays
            vm.table[key] = (to, weight)
        world.changed()
        return self.generation(vm)

    def hand_over(self, name: str, address: str) -> None:
        if self.is_proxy(address):
            self.world.proxies.hand_over(name, address)
            return
        vm = self._balancer(name, address)
        peers = [other for other in self.world.vms.values() if other is not vm and self.world.balances(other)]
        if self.world.current_holder() is vm and peers:
            self.world.holder = peers[0].vmid
        self.world.changed()

    def is_proxy(self, address: str) -> bool:
        vm = self.world.at(address)
        return vm is not None and vm.converged == "proxy"

    def play(self, address: str, key: str, role: str) -> str:
        """Configure one machine; return what went wrong."""
        vm = self.world.at(address)
        if vm is None:
            return "Failed to connect to the host via ssh: no route to host"
        if vm.key != key:
            return "Host key verification failed."
        vm.converged = role
        self.world.changed()
        return ""

    def get(self, name: str, address: str) -> None:
        """Ask a page of a machine, or of the shop. Raise Transient if it does not come."""
        world = self.world
        if address == world.platform.balancing.address:
            holder = world.current_holder()
            if holder is None or not world.served_by(holder):
                raise Transient(name, f"http://{address} answered 503, expected 200.")
            return
        vm = world.at(address)
        if vm is None or not vm.converged or (vm.converged == "database" and vm.database.state != SYNCED):
            raise Transient(name, f"http://{address} does not answer.")
