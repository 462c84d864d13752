"""The database tier of the model world: data on disks, one Galera cluster with its arithmetic, and its proxies.

A view is who counts: a member that stops cleanly takes its vote with it, one that dies does not, and where those that
are left are no majority of the last view, there is no cluster any more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from thems_jobs.core.databases import NEW
from thems_jobs.core.facts import Backend, Backup, Member, Proxy, Standing
from thems_jobs.core.galera import DONOR, IN_SERVICE, SYNCED
from thems_jobs.core.identity import tier_of
from thems_jobs.core.platform import addresses_of
from thems_jobs.errors import EffectFailed, Transient, Unreachable

if TYPE_CHECKING:
    from world import Vm, World

JOINING = 1
GIVES_UP_S = 30.0  # a start that finds no cluster ends after that
QUEUE = 80.0  # write sets that wait on a member that cannot keep up


@dataclass
class Database:
    """One machine's database: its data, and the server if it runs."""

    uuid: str = NEW
    seqno: int = -1  # of its last transaction
    enabled: bool = False  # its machine starts it at boot
    peers: tuple[str, ...] = ()  # addresses that a start joins
    donors: tuple[str, ...] = ()  # who shall give it data
    strict: bool = False  # none but these donors: of the start that was asked for
    rejects: bool = False  # it takes no queries
    running: bool = False
    state: int = 0  # wsrep_local_state, 0 outside the cluster
    giver: int = 0  # vmid of the donor that it copies from
    attempt: int = 0
    asked: bool = False  # we made it join, and it has not all data yet
    lags_until: float = 0.0
    astray_until: float = 0.0  # until then it tells of another view

    @property
    def whole(self) -> bool:
        """True if it is a member with all data."""
        return self.running and self.state in (SYNCED, DONOR)


class Galera:
    """The cluster: who is in the view, and how far the writes have come."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.uuid = ""  # "" until one is made
        self.view = 0
        self.members: list[Vm] = []
        self.primary = False
        self.seqno = 0
        self.acknowledged = 0  # the last write that the shop was told is safe
        self.trouble = ""  # what must never happen

    def whole(self) -> list[Vm]:
        """Return the members with all data that can be reached."""
        return [vm for vm in self.members if vm.database.whole and self.there(vm)] if self.primary else []

    def there(self, vm: Vm) -> bool:
        return vm.running and vm.database.running and vm.node not in self.world.offline

    def settle(self) -> None:
        """Let the cluster notice what has happened to machines, and the shop write."""
        for vm in self.world.vms.values():
            if vm.database.running and not vm.running:
                self._stopped(vm)
        self._lose([vm for vm in self.members if not self.there(vm)])
        here = {vm.vmid for vm in self.members}
        for vm in [vm for vm in self.members if vm.database.giver and vm.database.giver not in here]:
            self._break_off(vm)
        giving = {vm.database.giver for vm in self.members}
        for vm in self.members:
            if vm.database.state == DONOR and vm.vmid not in giving:
                vm.database.state = SYNCED
        for vm in self.world.vms.values():  # cut off, and back
            if vm.database.state and vm not in self.members and self.there(vm):
                self._connect(vm)
        self._write()

    def _lose(self, lost: list[Vm]) -> None:
        if not lost:
            return
        staying = [vm for vm in self.members if vm not in lost]
        self.primary = self.primary and len(staying) * 2 > len(self.members)
        if not self.primary and self.acknowledged:
            names = ", ".join(vm.name for vm in self.members)
            self.trouble = f"the majority of {names} is lost with {', '.join(vm.name for vm in lost)}"
        self.members, self.view = staying, self.view + 1
        for vm in lost:
            vm.database.giver = 0

    def _write(self) -> None:
        writer = self.world.proxies.writer() if self.primary else ""
        if not writer:
            return
        self.seqno = self.acknowledged = self.seqno + 1
        now = self.world.now()
        for vm in self.members:
            if vm.database.whole and (vm.database.lags_until <= now or vm.name == writer):
                vm.database.seqno = self.seqno

    # Starting and stopping

    def start(self, vm: Vm) -> None:
        """Let a server start and join the others."""
        vm.database.running, vm.database.attempt = True, vm.database.attempt + 1
        self._connect(vm)

    def _connect(self, vm: Vm) -> None:
        database, world = vm.database, self.world
        attempt = database.attempt = database.attempt + 1

        def still() -> bool:
            return database.attempt == attempt and database.running

        if not any(other.address in database.peers for other in self.whole()):
            database.state = 0
            world.clock.later(GIVES_UP_S, lambda: self._stopped(vm) if still() else None)
            return
        if vm not in self.members:
            self.members.append(vm)
            self.view += 1
        database.state = JOINING
        if database.uuid == self.uuid and world.chance.random() < 0.7:
            world.clock.later(world.chance.uniform(0.5, 4), lambda: self._arrive(vm) if still() else None)
        else:
            self._copy(vm, attempt)

    def _copy(self, vm: Vm, attempt: int) -> None:
        """Let a member take all data from a donor; it waits for one that is free."""
        database, world = vm.database, self.world
        if database.attempt != attempt or not database.running or vm not in self.members:
            return
        free = [other for other in self.members if other.database.state == SYNCED]
        chosen = [other for other in self.members if other.name in database.donors]
        if not free or (database.strict and chosen and not any(other in free for other in chosen)):
            world.clock.later(2.0, lambda: self._copy(vm, attempt))
            return
        giver = next((other for other in free if other in chosen), free[0])
        giver.database.state, database.giver = DONOR, giver.vmid
        database.uuid, database.seqno = NEW, -1
        slow = world.luck(world.odds.copy_slow)
        seconds = world.chance.uniform(120, 900) if slow else world.chance.uniform(2, 40)
        breaks = world.luck(world.odds.copy_fails)

        def end() -> None:
            if database.attempt == attempt and vm in self.members:
                self._break_off(vm) if breaks else self._arrive(vm)

        world.clock.later(seconds, end)

    def _arrive(self, vm: Vm) -> None:
        if vm not in self.members or not self.there(vm):
            return
        vm.database.uuid, vm.database.seqno, vm.database.state = self.uuid, self.seqno, SYNCED
        vm.database.giver, vm.database.asked, vm.database.strict = 0, False, False
        self.world.changed()

    def _break_off(self, vm: Vm) -> None:
        """A copy ends half-way: the server takes its leave and stops, with nothing that could be used."""
        self.stop(vm)
        self.world.changed()

    def _stopped(self, vm: Vm) -> None:
        database = vm.database
        database.running, database.state, database.giver, database.asked = False, 0, 0, False
        database.strict = database.rejects = False
        database.attempt += 1

    def stop(self, vm: Vm) -> None:
        """Stop a server cleanly: the others go on without its vote."""
        if vm in self.members:
            if vm.database.whole:
                vm.database.seqno = self.seqno
            self.members.remove(vm)
            self.view += 1
            self.primary = self.primary and bool(self.members)
        self._stopped(vm)

    def boot(self, vm: Vm) -> None:
        """Let a machine that has booted start its database, if it is to."""
        if vm.database.enabled and vm.running and not vm.database.running:
            self.start(vm)
            self.world.changed()

    def make(self, vm: Vm) -> None:
        """Make a cluster of one machine."""
        others = [other.name for other in self.world.vms.values() if other.database.whole and other is not vm]
        if others:
            self.trouble = f"{vm.name} makes a second cluster beside {', '.join(others)}"
        elif self.acknowledged and (vm.database.uuid, vm.database.seqno) != (self.uuid, self.acknowledged):
            self.trouble = f"{vm.name} makes a cluster without what the shop has written"
        if vm.database.uuid == NEW:
            vm.database.uuid, vm.database.seqno = f"{vm.vmid:08d}-1111-1111-1111-{int(self.world.now()):012d}", 0
        self.uuid, self.seqno, self.members, self.primary = vm.database.uuid, vm.database.seqno, [vm], True
        self.view += 1
        vm.database.running, vm.database.enabled, vm.database.state = True, True, SYNCED
        vm.database.attempt += 1


class Programs:
    """What databases answer by SQL, and the program `thems-galera` of each machine."""

    def __init__(self, world: World) -> None:
        self.world, self.galera = world, world.galera

    def member(self, name: str, address: str) -> Member:
        """Given a machine, return what its database tells. Raise Unreachable if it does not answer."""
        vm = self.world.at(address)
        if vm is None or not vm.database.running or vm.database.state == JOINING:
            raise Unreachable(name, "it does not answer on port 3306.")
        database, galera, now = vm.database, self.galera, self.world.now()
        inside = vm in galera.members and galera.primary
        switches = {**IN_SERVICE, **({"wsrep_reject_queries": "ALL"} if database.rejects else {})}
        return Member(
            status="Primary" if inside else "non-Primary", uuid=database.uuid,
            view=galera.view + (7 if now < database.astray_until else 0), size=len(galera.members) if inside else 1,
            index=galera.members.index(vm) if inside else None, state=database.state, connected=inside,
            ready=inside, switches=switches, receive_queue=QUEUE if now < database.lags_until else 0.0,
            flow_control_ratio=0.0, window_s=2.0,
            busy=("a copy of the whole machine",) if database.state == DONOR else (),
            seqno=database.seqno, gcache_downto=1, gcache_bytes=1 << 27, write_bytes_s=1e4, data_bytes=1 << 20,
            connections=sum(self.world.proxies.connections(proxy, name) for proxy in self.world.vms.values()),
        )  # fmt: skip

    def reject_queries(self, name: str, address: str, on: bool) -> None:
        vm = self.world.at(address)
        if vm is None or not vm.database.running:
            raise Unreachable(name, "it does not answer on port 3306.")
        vm.database.rejects = on
        self.world.changed()

    def differences(self, source: str, copy: str) -> tuple[str, ...]:
        seen = [self.member(address, address) for address in (source, copy)]
        return () if seen[0].uuid == seen[1].uuid else ("table wp_posts is missing",)

    def _machine(self, name: str, address: str) -> Vm:
        vm = self.world.at(address)
        if vm is None:
            raise Unreachable(name, "no route to host.")
        if vm.converged != "database":
            raise EffectFailed(name, "thems-galera ended with 127: there is no such program.")
        return vm

    def show(self, name: str, address: str) -> Standing:
        return self._standing(self._machine(name, address))

    def _standing(self, vm: Vm) -> Standing:
        inside = vm in self.galera.members and vm.database.state != JOINING
        return Standing(vm.database.running, vm.database.uuid, vm.database.seqno, "member" if inside else "none")

    def join(self, name: str, address: str, donors: Sequence[str], members: Sequence[str]) -> None:
        vm = self._machine(name, address)
        if vm.database.running:
            return
        peers = [member for member in members if member != address]
        if not peers:
            raise Transient(name, "there is no other member to join.")
        self.world.before("join", vm)
        tier = self.world.platform.tiers[tier_of(self.world.platform, name) or ""]
        vm.database.enabled, vm.database.peers = True, (*peers, *addresses_of(tier.network))
        vm.database.asked, vm.database.strict, vm.database.donors = True, bool(donors), tuple(donors)
        self.galera.start(vm)
        self.world.changed()

    def bootstrap(self, name: str, address: str, standing: Standing, absent: Sequence[str]) -> None:
        vm = self._machine(name, address)
        if vm.database.running:
            if vm not in self.galera.members or vm.database.uuid != standing.uuid:
                raise Transient(name, "the database runs, but is no member of that cluster.")
            return
        if (vm.database.uuid, vm.database.seqno) != (standing.uuid, standing.seqno):
            raise Transient(name, "its last transaction is another one.")
        there = [other for peer in absent if (other := self.world.at(peer)) and other.database.running]
        if there:
            raise Transient(name, f"a member answers on {there[0].address}: this one has to join it.")
        self.galera.make(vm)
        self.world.changed()

    def leave(self, name: str, address: str) -> Standing:
        vm = self._machine(name, address)
        if vm.database.running:
            self.world.before("leave", vm)
        vm.database.enabled = False
        self.galera.stop(vm)
        self.world.changed()
        return self._standing(vm)

    def copied(self, address: str, stopped: bool) -> Backup:
        """Given a member, return the copy that is made of its data now. Raise Transient if it cannot be copied."""
        vm = self.world.at(address)
        if vm is None or vm.database.running == stopped or not (stopped or vm.database.whole):
            raise Transient(address, "only a member of a cluster that is well can be copied.")
        return Backup(self.world.now(), vm.name, vm.database.uuid, vm.database.seqno)


class Proxies:
    """`thems-balancer` on database proxies: the first in a table that is up and has weight is the writer."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.held_by = 0  # the vmid of the proxy that has the VRRP address
        self.silent: dict[int, float] = {}  # proxies that do not answer us, until when

    def serves(self, vm: Vm) -> bool:
        return vm.converged == "proxy" and self.world.up(vm)

    def holder(self) -> Vm | None:
        held = self.world.vms.get(self.held_by)
        if held is None or not self.serves(held):
            held = next((vm for vm in self.world.vms.values() if self.serves(vm)), None)
            self.held_by = held.vmid if held else 0
        return held

    def writer(self) -> str:
        """Return the machine that the shop's writes go to now, "" for none."""
        holder = self.holder()
        return self.writer_of(holder) if holder else ""

    def writer_of(self, proxy: Vm) -> str:
        return next((name for name, (to, weight) in proxy.table.items() if weight > 0 and self._well(to)), "")

    def _well(self, to: str) -> bool:
        """Given an address, return whether the machine's own check says that it may serve."""
        vm = self.world.at(to.partition(":")[0])
        galera = self.world.galera
        if vm is None or vm not in galera.members or vm.database.rejects:
            return False
        return galera.primary and vm.database.state == SYNCED

    def connections(self, proxy: Vm, name: str) -> int:
        """Return how many sessions a proxy has on a machine: the holder's on its writer, and those not yet closed."""
        busy = self.holder() is proxy and self.writer_of(proxy) == name
        to = proxy.table.get(name, ("", 0))[0].partition(":")[0]
        vm = self.world.at(to) if to else None
        left = proxy.leaves.get(name, 0.0) > self.world.now()
        return int(vm is not None and vm.database.running and (busy or left))

    def show(self, name: str, address: str) -> Proxy:
        vm = self._proxy(name, address)
        backends = {
            key: Backend(to, "drained" if not weight else "up" if self._well(to) else "down", self.connections(vm, key))
            for key, (to, weight) in vm.table.items()
        }
        holds = (self.address,) if self.holder() is vm else ()
        return Proxy(self.writer_of(vm), backends, holds, self.generation(vm))

    @property
    def address(self) -> str:
        database = self.world.platform.database
        return database.cluster.address if database and database.cluster else ""

    @staticmethod
    def generation(vm: Vm) -> str:
        return hashlib.sha256(repr(list(vm.table.items())).encode()).hexdigest()[:16]

    def _proxy(self, name: str, address: str) -> Vm:
        vm = self.world.at(address)
        if vm is None or self.silent.get(vm.vmid, 0.0) > self.world.now():
            raise Unreachable(name, "no answer in time.")
        if vm.converged != "proxy":
            raise EffectFailed(name, "show ended with 1: there is no such program.")
        return vm

    def apply(
        self, name: str, address: str, expected: str, wanted: Mapping[str, tuple[str, int | None]], order: Sequence[str]
    ) -> str:
        """Change a proxy's table if it is the expected one, and return its new generation."""
        vm = self._proxy(name, address)
        if self.generation(vm) != expected:
            raise Transient(name, "its list of servers was changed by somebody else meanwhile.")
        before = self.writer_of(vm) if self.holder() is vm else ""
        table = {key: entry for key, entry in vm.table.items() if key not in wanted}
        table |= {key: (to, weight) for key, (to, weight) in wanted.items() if weight is not None}
        first = [key for key in order if key in table]
        vm.table = {key: table[key] for key in dict.fromkeys([*first, *table])}
        if before and self.writer_of(vm) not in (before, ""):
            vm.leaves[before] = self.world.now() + self.world.chance.uniform(0, 4)
        self.world.changed()
        return self.generation(vm)

    def hand_over(self, name: str, address: str) -> None:
        vm = self._proxy(name, address)
        peers = [other for other in self.world.vms.values() if other is not vm and self.serves(other)]
        if self.holder() is vm and peers:
            self.held_by = peers[0].vmid
        self.world.changed()
