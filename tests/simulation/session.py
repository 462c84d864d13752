"""What one run sees of the world, and what can happen to it on the way there."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from clock import Gone, Killed
from world import Cluster, Machines, World
from world_databases import Programs

from thems_jobs.clients.proxmox import Resources, Task, VmConfig
from thems_jobs.core.facts import Backup, Balancer, Member, Proxy, Standing, TemplateImage, Unknown
from thems_jobs.core.record import Record
from thems_jobs.errors import EffectFailed, Transient, Unreachable

T = TypeVar("T")
RECORD_ATTEMPTS = 5
CALLS_LIMIT = 20000  # a run that asks for more goes round in circles


@dataclass
class Faults:
    """How likely it is that a call goes wrong, and where the run is killed (by number of the call, from 1)."""

    read_fails: float = 0.0
    refused: float = 0.0  # a write that passes later: a lock
    lost: float = 0.0  # a write that was done, and its answer lost
    failed: float = 0.0  # a write that fails for good
    playbook_fails: float = 0.0
    kill_at: int = 0
    kill_how: str = "before"  # before, after, or late: the effect comes when the next run is at work
    stall_at: int = 0  # the run is held up here, for longer than its lease
    stop_at: int = 0  # here it is asked to stop, as by SIGTERM


@dataclass
class Session:
    """The way of one run to the world. Every call has a number."""

    world: World
    chance: random.Random
    faults: Faults = field(default_factory=Faults)
    meanwhile: Callable[[], None] = lambda: None  # what happens while the run is stalled
    late: list[Callable[[], object]] = field(default_factory=list)
    calls: int = 0
    writes: list[int] = field(default_factory=list)  # the numbers of the calls that change something
    dead: bool = False

    def read(self, effect: Callable[[], T]) -> T:
        self._count(None)
        if self._luck(self.faults.read_fails):
            raise Unreachable("Proxmox API", "no endpoint answers.", "Check the endpoints.")
        return effect()

    def write(self, effect: Callable[[], T]) -> T:
        self._count(effect)
        if self._luck(self.faults.refused):
            raise Transient("Proxmox API", "can't lock file: got timeout.")
        if self._luck(self.faults.failed):
            raise EffectFailed("Proxmox API", "something went wrong for good.")
        done = effect()
        if self.dead:
            raise Killed
        if self._luck(self.faults.lost):
            raise Transient("Proxmox API", "no answer in time. It may have been carried out all the same.")
        return done

    def _luck(self, odds: float) -> bool:
        return odds > 0 and self.chance.random() < odds

    def _count(self, effect: Callable[[], object] | None) -> None:
        if self.dead:
            raise Gone
        self.calls += 1
        if effect:
            self.writes.append(self.calls)
        if self.calls > CALLS_LIMIT:
            raise AssertionError(f"{self.calls} calls: the run goes round in circles")
        if self.calls == self.faults.stall_at:
            self.meanwhile()
        if self.calls == self.faults.stop_at:
            self.world.clock.stop()
        if self.calls == self.faults.kill_at:
            self.dead = True
            if self.faults.kill_how == "late" and effect:
                self.late.append(effect)
            if self.faults.kill_how != "after" or effect is None:
                raise Killed


class ProxmoxOfRun:
    """`clients.proxmox.Proxmox` as far as our jobs use it."""

    def __init__(self, session: Session) -> None:
        self._session, self._cluster = session, Cluster(session.world)

    def quorate(self) -> bool:
        return self._session.read(self._cluster.quorate)

    def resources(self) -> Resources:
        return self._session.read(self._cluster.resources)

    def config(self, node: str, vmid: int) -> VmConfig | None:
        return self._session.read(lambda: self._cluster.config(node, vmid))

    def running(self, node: str, vmid: int) -> bool:
        return self._session.read(lambda: self._cluster.running(node, vmid))

    def agent_read(self, node: str, vmid: int, path: str) -> str | None:
        return self._session.read(lambda: self._cluster.agent_read(node, vmid, path))

    def tasks(self) -> tuple[Task, ...]:
        return self._session.read(self._cluster.tasks)

    def task(self, upid: str) -> Task:
        return self._session.read(lambda: self._cluster.task(upid))

    def clone(self, template: TemplateImage, **wanted: Any) -> str:
        return self._session.write(lambda: self._cluster.clone(template, **wanted))

    def configure(
        self, node: str, vmid: int, digest: str, options: Mapping[str, str | int], delete: Sequence[str] = ()
    ) -> None:
        self._session.write(lambda: self._cluster.configure(node, vmid, digest, options, delete))

    def start(self, node: str, vmid: int) -> str:
        return self._session.write(lambda: self._cluster.start(node, vmid))

    def shutdown(self, node: str, vmid: int, timeout_s: float) -> str:
        return self._session.write(lambda: self._cluster.shutdown(node, vmid, timeout_s))

    def destroy(self, node: str, vmid: int) -> str:
        return self._session.write(lambda: self._cluster.destroy(node, vmid))

    def read_record(self) -> tuple[Record, str]:
        return self._session.read(self._cluster.read_record)

    def change_record(self, change: Callable[[Record], Record]) -> Record:
        for attempt in range(1, RECORD_ATTEMPTS + 1):
            try:
                old, digest = self._session.read(self._cluster.read_record)
                new = change(old)
                self._session.write(lambda new=new, digest=digest: self._cluster.write_record(new, digest))  # type: ignore[misc]
            except Transient:
                if attempt == RECORD_ATTEMPTS:
                    raise
                continue
            return new
        raise AssertionError


class SshOfRun:
    """`clients.ssh.Ssh` as far as our jobs use it."""

    public_key = "ssh-ed25519 AAAA operators"

    def __init__(self, session: Session) -> None:
        self._session, self._machines = session, Machines(session.world)
        self.known: dict[str, str] = {}

    def answers(self, address: str, _connect_s: float = 2.0) -> bool:
        return self._session.read(lambda: self._machines.answers(address)) if not self._session.dead else False

    finds = answers

    def know(self, keys: Mapping[str, str]) -> None:
        self.known.update(keys)


class BalancersOfRun:
    """`clients.balancer.Balancers` as far as our jobs use it."""

    def __init__(self, session: Session) -> None:
        self._session, self._machines = session, Machines(session.world)
        self._written: dict[str, str] = {}  # generation of the list that this run wrote last, by balancer

    def show(self, hosts: Mapping[str, str]) -> dict[str, Balancer | Unknown]:
        views: dict[str, Balancer | Unknown] = {}
        for name, address in hosts.items():
            try:
                views[name] = self._one(name, address)
            except (Unreachable, EffectFailed) as error:
                views[name] = Unknown(error.detail)
        return views

    def _one(self, name: str, address: str) -> Balancer:
        return self._session.read(lambda: self._machines.show(name, address))

    def show_proxies(self, hosts: Mapping[str, str]) -> dict[str, Proxy | Unknown]:
        views: dict[str, Proxy | Unknown] = {}
        for name, address in hosts.items():
            try:
                views[name] = self._proxy(name, address)
            except (Unreachable, EffectFailed) as error:
                views[name] = Unknown(error.detail)
        return views

    def _proxy(self, name: str, address: str) -> Proxy:
        return self._session.read(lambda: self._session.world.proxies.show(name, address))

    def change(
        self,
        hosts: Mapping[str, str],
        wanted: Mapping[str, tuple[str, int | None]],
        least_serving: int = 0,
        generations: Mapping[str, str] | None = None,
        order: Sequence[str] = (),
    ) -> None:
        views = {name: self._state(name, address) for name, address in hosts.items()}
        for name, (generation, serving) in views.items():
            if generation not in ((generations or {}).get(name, generation), self._written.get(name)):
                raise Transient(name, "its list of servers was changed by somebody else meanwhile.")
            taken = {key for key in serving if key in wanted and not wanted[key][1]}
            if taken and len(serving - taken) < least_serving:
                raise Transient(name, f"only {len(serving - taken)} servers would go on serving there.")
        errors = []
        for name, address in hosts.items():
            try:
                self._written[name] = self._session.write(
                    lambda n=name, a=address, g=views[name][0]: self._apply(n, a, g, wanted, order)  # type: ignore[misc]
                )
            except (Transient, Unreachable, EffectFailed) as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def _state(self, name: str, address: str) -> tuple[str, set[str]]:
        """Return a table's generation, and the servers that are up and have weight."""
        if self._machines.is_proxy(address):
            proxy = self._proxy(name, address)
            return proxy.generation, {key for key, backend in proxy.backends.items() if backend.status == "up"}
        view = self._one(name, address)
        return view.generation, {key for key, server in view.servers.items() if server.up and server.weight > 0}

    def _apply(
        self, name: str, address: str, expected: str, wanted: Mapping[str, tuple[str, int | None]], order: Sequence[str]
    ) -> str:
        if self._machines.is_proxy(address):
            return self._session.world.proxies.apply(name, address, expected, wanted, order)
        return self._machines.apply(name, address, expected, wanted)

    def hand_over(self, name: str, address: str) -> None:
        self._session.write(lambda: self._machines.hand_over(name, address))


class AnsibleOfRun:
    """`clients.ansible.Ansible` as far as our jobs use it."""

    def __init__(self, session: Session) -> None:
        self._session, self._machines = session, Machines(session.world)

    def converge(self, hosts: Mapping[str, tuple[str, str]], variables: Mapping[str, Any]) -> dict[str, str]:
        errors, role = {}, variables["thems_role"]
        for name, (address, key) in hosts.items():
            if self._session.chance.random() < self._session.faults.playbook_fails:
                errors[name] = "a task failed"
                continue
            try:
                error = self._session.write(
                    lambda a=address, k=key: self._machines.play(a, k, role)  # type: ignore[misc]
                )
            except (Transient, EffectFailed) as lost:
                error = str(lost)
            if error:
                errors[name] = error
        return errors

    def cancel(self) -> None:
        """Nothing takes long here."""


class WebOfRun:
    """`clients.web_check.WebCheck` as far as our jobs use it."""

    def __init__(self, session: Session) -> None:
        self._session, self._machines = session, Machines(session.world)

    def check(self, name: str, address: str, port: int, path: str, status: int = 200) -> float:
        del port, path, status
        self._read(name, address)
        return 0.01

    def warm(self, name: str, address: str, port: int, path: str = "/") -> tuple[float, ...]:
        del port, path
        self._read(name, address)
        return (0.01,)

    def _read(self, name: str, address: str) -> None:
        try:
            self._session.read(lambda: self._machines.get(name, address))
        except Unreachable as error:
            raise Transient(name, error.detail) from error


class DatabasesOfRun:
    """`clients.mysql.Databases` and `clients.galera_machines.GaleraMachines` as far as our jobs use them."""

    def __init__(self, session: Session) -> None:
        self._session, self._programs = session, Programs(session.world)

    def members(self, hosts: Mapping[str, str], window_s: float | None = None) -> dict[str, Member | Unknown]:
        del window_s
        answers: dict[str, Member | Unknown] = {}
        for name, address in hosts.items():
            try:
                answers[name] = self._member(name, address)
            except Unreachable as error:
                answers[name] = Unknown(error.detail)
        return answers

    def _member(self, name: str, address: str) -> Member:
        return self._session.read(lambda: self._programs.member(name, address))

    def reject_queries(self, name: str, address: str, on: bool) -> None:
        self._session.write(lambda: self._programs.reject_queries(name, address, on))

    def differences(self, source: tuple[str, str], copy: tuple[str, str]) -> tuple[str, ...]:
        return self._session.read(lambda: self._programs.differences(source[1], copy[1]))

    def show(self, name: str, address: str) -> Standing:
        return self._session.read(lambda: self._programs.show(name, address))

    def join(self, name: str, address: str, donors: Sequence[str], members: Sequence[str]) -> None:
        self._session.write(lambda: self._programs.join(name, address, donors, members))

    def bootstrap(self, name: str, address: str, standing: Standing, absent: Sequence[str]) -> None:
        self._session.write(lambda: self._programs.bootstrap(name, address, standing, absent))

    def leave(self, name: str, address: str) -> Standing:
        return self._session.write(lambda: self._programs.leave(name, address))

    def begin_backup(self, address: str, stopped: bool) -> Any:
        return lambda: self._programs.copied(address, stopped)


class BackupsOfRun:
    """`clients.backups.Backups` as far as our jobs use it."""

    under_way: frozenset[str] = frozenset()

    def __init__(self, session: Session) -> None:
        self._session = session

    def newest(self) -> Backup | Unknown | None:
        return max(self._session.world.backups, key=lambda backup: backup.at, default=None)

    def save(self, member: str, begin: Callable[[], Callable[[], Backup]]) -> None:
        del member
        self._session.write(lambda: self._session.world.backups.append(begin()()))

    def cancel(self) -> None:
        """Nothing takes long here."""
