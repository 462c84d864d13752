"""One schedule: a platform, what is asked of it, and all that goes wrong on the way, from one seed."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, cast

from clock import Killed, VirtualClock
from invariants_databases import DatabaseMonitor
from schedules_databases import (
    PROXIES,
    database_odds,
    disturb,
    furnish_databases,
    keeps_majority,
    what_is_wrong,
    with_databases,
)
from session import (
    AnsibleOfRun,
    BackupsOfRun,
    BalancersOfRun,
    DatabasesOfRun,
    Faults,
    ProxmoxOfRun,
    Session,
    SshOfRun,
    WebOfRun,
)
from world import Odds, Vm, World

from thems_jobs.core.capacity import targets
from thems_jobs.core.facts import Facts, Phase, Stamp
from thems_jobs.core.identity import address_of, machine_name, read_stamp, tags_of, tier_of, write_stamp
from thems_jobs.core.job import Job
from thems_jobs.core.outcome import Exit, Outcome
from thems_jobs.core.platform import (
    Balancing,
    Health,
    Network,
    Platform,
    Proxmox,
    Ssh,
    Template,
    Tier,
    Timeouts,
    vmids_of,
)
from thems_jobs.core.record import Claim, Record, read, write
from thems_jobs.errors import ThemsError
from thems_jobs.jobs import provision, scale
from thems_jobs.jobs.clients import Clients, DatabaseClients
from thems_jobs.runner import Options, run

ROLES = {tier: f"role-of-{tier}" for tier in ("web", "lb", "db", "proxy")}
TIMEOUTS = Timeouts(clone_s=120, boot_s=60, converge_s=300, up_s=30, drain_s=60, stop_s=60, destroy_s=60, patience_s=30,
                    sync_s=600)  # fmt: skip
DATABASES_EVERY = 3  # so many schedules is one on a platform with a database cluster
STOP_S = 20.0  # Jenkins kills what has not ended so long after SIGTERM
CLEAN_RUNS = 5  # after the last fault the same command must have converged within so many runs


class Broken(AssertionError):
    """An invariant does not hold."""


def make_platform(chance: random.Random) -> Platform:
    minimum = chance.randint(1, 2)
    baseline = minimum + chance.randint(0, 1)
    template = Template("debian", 900, "shared")
    web = Tier("web", template, minimum, baseline, baseline + 3, 2, 1024, 8, "1100-1119",
               Network("vmbr0", "10.77.1.11-10.77.1.20", 16), Health(80), php_workers=4)  # fmt: skip
    lb = Tier("balancer", template, 1, 2, 2, 1, 512, 4, "1200-1209",
              Network("vmbr0", "10.77.2.11-10.77.2.16", 16), Health(8080))  # fmt: skip
    nodes = tuple(f"pve{n + 1}" for n in range(chance.randint(1, 3)))
    proxmox = Proxmox(("https://10.77.0.1:8006",), "thems@pve!jobs", "token", "shop", 1000, nodes, None,
                      chance.randint(1, 4))  # fmt: skip
    balancing = Balancing("10.77.0.10", 51, "lb", "web")
    return Platform("shop", proxmox, Ssh("thems", "key"), balancing, {"web": web, "lb": lb}, timeouts=TIMEOUTS)


@dataclass
class Monitor:
    """What must hold after every change of the world."""

    world: World
    least: int = 0
    foreign: dict[int, tuple[object, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.databases = DatabaseMonitor(self.world)

    def expect_less(self) -> None:
        """Something outside took machines away: from now on those that are left are to be kept."""
        self.least = 0
        self.databases.expect_less()

    def serving(self) -> int:
        holder = self.world.current_holder()
        return len(self.world.served_by(holder)) if holder else 0

    def before(self, what: str, vm: Vm) -> None:
        if broken := self.databases.before(what, vm) or self._visited(what, vm):
            raise Broken(broken)

    def _visited(self, what: str, vm: Vm) -> str:
        """Given a web machine that we are about to stop, return which balancer still has visitors on it."""
        if what != "shutdown" or not self.world.web_serves(vm):
            return ""
        balancers = [other for other in self.world.vms.values() if self.world.balances(other)]
        seen = [other.name for other in balancers if self.world.visited(other, vm.name)]
        return f"{vm.name} is stopped, and {', '.join(seen)} has visitors on it" if seen else ""

    def check(self) -> None:
        if broken := self.databases.check():
            raise Broken(broken)
        serving = self.serving()
        if serving < self.least:
            raise Broken(f"{serving} machines serve, {self.least} must")
        self.least = max(self.least, min(serving, self.world.platform.tiers["web"].minimum))
        for vmid, vm in self.world.vms.items():
            if vm.pool == "other" and vmid not in self.foreign:
                self.foreign[vmid] = vm.state()
        for vmid, state in self.foreign.items():
            there = self.world.vms.get(vmid)
            if there is None or there.state() != state:
                raise Broken(f"VM {vmid} is somebody else's and was touched")
        for what in ("address", "name"):
            seen: dict[object, int] = {}
            for vm in self.world.vms.values():
                # Of a run that was held up for longer than its lease a clone may come late; it stays without address.
                if vm.vmid in self.foreign or vm.template or not vm.address:
                    continue
                value = getattr(vm, what)
                if value in seen:
                    raise Broken(f"VMs {seen[value]} and {vm.vmid} have the same {what} {value}")
                seen[value] = vm.vmid


@dataclass(frozen=True)
class Wish:
    """What somebody asks for: the words of the command, and the job for it."""

    command: str
    job: Callable[[Platform, Clients], Job]
    tiers: tuple[str, ...]
    gone: tuple[str, ...] = ()


def scale_wish(platform: Platform, parameters: scale.Parameters) -> Wish:
    tiers = tuple(parameters.tiers or ("web",))
    return Wish(f"scale {parameters.tiers or ''}", lambda _, clients: scale.job(platform, parameters, clients), tiers)


def provision_wish(platform: Platform, *replaced: str) -> Wish:
    parameters = provision.Parameters(replace=replaced)
    tiers = tuple(sorted({tier_of(platform, name) or "" for name in replaced})) or tuple(platform.tiers)
    command = "provision " + " ".join(f"--replace {name}" for name in replaced)
    return Wish(command, lambda _, clients: provision.job(platform, parameters, clients), tiers, replaced)


@dataclass
class Schedule:
    """A world and the runs on it."""

    platform: Platform
    chance: random.Random
    trace: Callable[[str], None] = lambda _line: None
    late: list[Callable[[], object]] = field(default_factory=list)
    dead_tokens: set[str] = field(default_factory=set)
    runs: int = 0
    last: Session | None = None  # of the latest run
    calm_at: float = 0.0  # when all that was to go wrong by itself has, and what was to for a while is over

    def __post_init__(self) -> None:
        self.clock = VirtualClock(self.chance)
        self.world = World(self.platform, self.clock, self.chance)
        self.monitor = Monitor(self.world)

    # The world at the beginning

    def furnish(self, web: int, balancers: int, claims: tuple[Claim, ...] = (), databases: int = 0) -> None:
        """Make template, record and machines that serve, as earlier runs would have left them."""
        nodes, pool, long_ago = self.platform.proxmox.nodes, self.platform.proxmox.pool, self.clock.now() - 86400
        self.world.vms[900] = Vm(900, "debian", nodes[0], pool, template=True, created_at=long_ago)
        text = write(Record(claims=claims), self.platform.name)
        self.world.vms[1000] = Vm(1000, "shop-record", nodes[0], pool, text, created_at=long_ago)
        counts = {"web": web, "lb": balancers, "db": databases, "proxy": PROXIES if databases else 0}
        for tier, count in counts.items():
            for number in range(1, count + 1):
                self._furnish_machine(tier, number, nodes[number % len(nodes)], long_ago)
        table = {vm.name: (f"{vm.address}:80", 100) for vm in self.ours() if tier_of(self.platform, vm.name) == "web"}
        for vm in self.ours():
            if tier_of(self.platform, vm.name) == "lb":
                vm.table = dict(table)
        furnish_databases(self.world)
        self.world.check, self.world.before = self.monitor.check, self.monitor.before
        self.monitor.check()

    def _furnish_machine(self, tier: str, number: int, node: str, at: float) -> None:
        name, vmid = machine_name(self.platform, tier, number), vmids_of(self.platform.tiers[tier]).start + number - 1
        vm = Vm(vmid, name, node, self.platform.proxmox.pool, created_at=at, changed_at=at, protection=True)
        stamp = Stamp(self.platform.name, name, vmid, tier, Phase.SERVING, "", ROLES[tier], at, vm.key)
        vm.description, vm.tags = write_stamp(stamp), tags_of(stamp)
        vm.options = {"ipconfig0": f"ip={address_of(self.platform, name)}/16", "cores": "1", "memory": "1024"}
        vm.running, vm.ready_at, vm.converged = True, at, self.platform.tiers[tier].role
        self.world.vms[vmid] = vm

    def ours(self) -> list[Vm]:
        return [vm for vm in self.world.vms.values()
                if vm.vmid not in self.monitor.foreign and not vm.template and vm.vmid != 1000]  # fmt: skip

    # Running

    def run(
        self, wish: Wish, faults: Faults | None = None, meanwhile: Callable[[], None] | None = None
    ) -> Outcome | None:
        """Run a command once; return how it ended, or None if it was killed."""
        self.runs += 1
        token = f"run-{self.runs}"
        session = Session(self.world, self.chance, faults or Faults(), meanwhile or (lambda: None), self.late)
        self.last = session
        databases: Any = DatabasesOfRun(session)
        tier = DatabaseClients(databases, databases, None, cast(Any, BackupsOfRun(session)))
        clients = Clients(
            proxmox=cast(Any, ProxmoxOfRun(session)), ssh=cast(Any, SshOfRun(session)),
            balancers=cast(Any, BalancersOfRun(session)), ansible=cast(Any, AnsibleOfRun(session)),
            web=cast(Any, WebOfRun(session)), clock=self.clock, roles=ROLES,
            databases=tier if self.platform.database else None,
        )  # fmt: skip
        options = Options(
            wish.command, token, lambda _plan, _facts: True, token, is_over=lambda other: other in self.dead_tokens
        )
        self.trace(f"{self.clock.now():.1f} {token}: {wish.command} {faults or 'without faults'}")
        try:
            outcome = run(wish.job(self.platform, clients), self.clock, options, lambda step: self._note(token, step))
        except Killed:
            session.dead = True
            self.trace(f"{self.clock.now():.1f} {token}: killed in call {session.calls}")
            return None
        finally:
            stopped_at, self.clock.stop_at = self.clock.stop_at, float("inf")
        self.trace(f"{self.clock.now():.1f} {token}: {outcome.exit.name} {outcome.message} ({session.calls} calls)")
        for refusal in outcome.refusals:
            self.trace(f"    {refusal.reference}: {refusal}")
        self._judge(outcome)
        self._judge_stop(outcome, session, token, self.clock.now() - stopped_at)
        if stopped_at < float("inf"):
            session.dead = True  # it has ended, with all that it still had under way
        return outcome

    def _note(self, token: str, step: Any) -> None:
        self.trace(f"{self.clock.now():.1f} {token}: {step.outcome} {step.key} {step.detail}")
        if step.outcome == "running" and self.clock.stopping():
            raise Broken(f"{token} was asked to stop, and began {step.key}")

    def _judge_stop(self, outcome: Outcome, session: Session, token: str, seconds: float) -> None:
        """Given the seconds since a run was asked to stop, -inf if it was not: it ended so, soon, and let go."""
        if (outcome.exit is Exit.ABORTED) != (seconds >= 0):
            raise Broken(f"{outcome.exit.name} {seconds:.1f} s after it was asked to stop: {outcome.message}")
        if seconds > STOP_S:
            raise Broken(f"it ended {seconds:.1f} s after it was asked to stop")
        lease = read(self.world.vms[1000].description, self.platform.name).lease
        cut_off = any(step.outcome == "aborted" and not step.action.startswith("await") for step in outcome.steps)
        away = session.faults.refused or self.world.offline  # the record may be
        if seconds >= 0 and not cut_off and not away and lease and lease.token == token:
            raise Broken("nothing was under way any more, and the lease was not given back")

    def _judge(self, outcome: Outcome) -> None:
        """Every ending says what it must."""
        if outcome.exit in (Exit.CRASHED, Exit.USAGE):
            raise Broken(f"{outcome.exit.name}: {outcome.message}")
        if outcome.exit in (Exit.REFUSED, Exit.HALTED):
            if not outcome.refusals and "not what was approved" not in outcome.message:
                raise Broken(f"{outcome.exit.name} without a reason: {outcome.message}")
            if not outcome.next:
                raise Broken(f"{outcome.exit.name} without a next command: {outcome.message}")
        changed = [step for step in outcome.steps if step.action != "claim" and not step.action.startswith("await")]
        if outcome.exit is Exit.REFUSED and [step for step in changed if step.outcome == "ok"]:
            raise Broken(f"refused after a change: {outcome.message}")

    def land_late_effects(self) -> None:
        """Requests of a run that was killed may still be carried out, a little later."""
        for effect in self.late:
            self.clock.later(self.chance.uniform(0, 20), lambda effect=effect: _carry_out(effect))  # type: ignore[misc]
        self.late.clear()

    # The end

    def assert_converged(self, wish: Wish) -> None:
        """The platform is as it was asked to be: no more, no less, nothing left over."""
        record = read(self.world.vms[1000].description, self.world.platform.name)
        lease = record.lease
        held = lease and lease.until > self.clock.now() and lease.token not in self.dead_tokens
        if record.intents or held:
            raise Broken(f"left over in the record: {record.intents} {record.lease}")
        facts = Facts(self.clock.now(), record)
        wanted = targets(self.platform, facts)
        for tier in wish.tiers:
            machines = [vm for vm in self.ours() if tier_of(self.platform, vm.name) == tier]
            if len(machines) != wanted[tier]:
                raise Broken(f"{len(machines)} machines of tier {tier}, {wanted[tier]} are wanted")
            for vm in machines:
                stamp = read_stamp(vm.description)
                if stamp is None or stamp.phase is not Phase.SERVING or not vm.protection or not self.world.up(vm):
                    raise Broken(f"{vm.name} does not serve: {vm}")
                if vm.name in wish.gone:
                    raise Broken(f"{vm.name} was to be replaced")
        serving = {vm.name: (f"{vm.address}:80", 100) for vm in self.ours() if tier_of(self.platform, vm.name) == "web"}
        for vm in self.ours():
            if tier_of(self.platform, vm.name) == "lb" and vm.table != serving:
                raise Broken(f"the table of {vm.name} is {vm.table}, expected {serving}")
        if "db" in wish.tiers:
            self.assert_sound()

    def assert_sound(self) -> None:
        """The database cluster, if there is one, is whole, and its proxies agree."""
        wanted = targets(
            self.platform, Facts(self.clock.now(), read(self.world.vms[1000].description, self.platform.name))
        )
        if self.platform.database and (broken := what_is_wrong(self.world, wanted["db"])):
            raise Broken(broken)

    def obstacle(self) -> str:
        """Return what stands in the way of every further run, if anything does."""
        for vm in self.world.vms.values():
            if vm.vmid in self.monitor.foreign and (vm.vmid in range(1100, 1420) or vm.name != "postgres"):
                return f"VM {vm.vmid} of somebody else in our way"
            if vm.running and vm.ready_at == float("inf"):
                return f"{vm.name} never boots"
            if any(end == float("inf") for end in vm.leaves.values()):
                return f"{vm.name} has visitors that never leave"
        return f"{', '.join(self.world.offline)} offline" if self.world.offline else ""


def _carry_out(effect: Callable[[], object]) -> None:
    try:
        effect()
    except ThemsError:
        return


# From a seed


def schedule_of(seed: int, trace: Callable[[str], None] = lambda _line: None) -> Schedule:
    """Given a seed, play a schedule to its end. Raise Broken where an invariant does not hold."""
    chance = random.Random(seed)
    platform = make_platform(chance)
    if seed % DATABASES_EVERY == 1:
        platform = with_databases(platform, chance)
    schedule = Schedule(platform, chance, trace)
    wish = _begin_with_databases(schedule) if platform.database else _begin(schedule)
    if platform.database and chance.random() < 0.35:
        schedule.calm_at = disturb(schedule.world, chance, trace)
    if chance.random() < 0.15:
        _add_stranger(schedule)
    if chance.random() < 0.15:
        _break_something(schedule)
    outcome = _faulty_runs(schedule, wish)
    schedule.world.odds = Odds()
    outcome = _clean_runs(schedule, wish, outcome)
    if outcome is None or outcome.exit is not Exit.OK:
        if not schedule.obstacle():
            raise Broken(f"not converged after {CLEAN_RUNS} runs without faults: {_why(outcome)}")
        return schedule
    # What a dead or halted run had begun has ended by then, and all that disturbs for a while.
    calm = schedule.calm_at <= schedule.clock.now()
    schedule.clock.pass_by(max(120.0, schedule.calm_at - schedule.clock.now()))
    outcome = schedule.run(wish)
    if not calm:
        outcome = _clean_runs(schedule, wish, outcome)
    if outcome is None or outcome.exit is not Exit.OK:
        if schedule.obstacle():
            return schedule
        raise Broken(f"converged, but the next run ends otherwise: {_why(outcome)}")
    schedule.assert_converged(wish)
    return _provision_after(schedule)


def _clean_runs(schedule: Schedule, wish: Wish, outcome: Outcome | None) -> Outcome | None:
    """Given how the latest run ended, run without faults until one ends well; return how the last one ended."""
    for _ in range(CLEAN_RUNS):
        if outcome is not None and (outcome.exit is Exit.OK or (outcome.exit is Exit.REFUSED and schedule.obstacle())):
            break
        schedule.clock.pass_by(TIMEOUTS.lease_s + 1)
        _follow_advice(schedule, outcome)
        outcome = schedule.run(wish)
    return outcome


def _provision_after(schedule: Schedule) -> Schedule:
    """A wish leaves alone what it does not ask for; provisioning mends that, too, on a platform with databases."""
    if not schedule.platform.database or schedule.obstacle():
        return schedule
    wish = provision_wish(schedule.platform)
    for _ in range(CLEAN_RUNS):
        outcome = schedule.run(wish)
        if outcome is not None and outcome.exit is Exit.OK:
            schedule.assert_converged(wish)
            return schedule
        schedule.clock.pass_by(TIMEOUTS.lease_s + 1)
        _follow_advice(schedule, outcome)
    raise Broken(f"not as declared after {CLEAN_RUNS} runs of provision: {_why(outcome)}")


def _follow_advice(schedule: Schedule, outcome: Outcome | None) -> None:
    """Do what a refusal told the operator to do, where that is a command."""
    for refusal in outcome.refusals if outcome else ():
        if "it is a second" in refusal.measured:
            vm = schedule.world.vms[int(refusal.subject.split()[1])]
            schedule.world.power(vm, False)  # what runs on it leaves with it
            del schedule.world.vms[vm.vmid]
        if refusal.reference in ("balancer-unreachable", "proxy-unreachable"):
            schedule.run(provision_wish(schedule.platform, refusal.subject))
        if refusal.reference in ("database-unreachable", "proxies-disagree"):  # or what somebody did by hand
            schedule.run(provision_wish(schedule.platform))


def _why(outcome: Outcome | None) -> str:
    return "killed" if outcome is None else f"{outcome.message} {[str(refusal) for refusal in outcome.refusals]}"


def _begin(schedule: Schedule) -> Wish:
    """Choose what there is and what is asked for."""
    chance, platform = schedule.chance, schedule.platform
    tier, now = platform.tiers["web"], schedule.clock.now()
    kind = chance.choice(("provision", "up", "up", "down", "down", "replace", "replace-balancer"))
    if kind == "provision":
        schedule.furnish(0, 0)
        return provision_wish(platform)
    if kind == "up":
        schedule.furnish(tier.baseline, 2)
        count = chance.randint(tier.baseline, tier.maximum)
        return scale_wish(platform, scale.Parameters({"web": count}, now + 10**6, "show", by="anna"))
    if kind == "down":
        count = chance.randint(tier.baseline, tier.maximum)
        schedule.furnish(count, 2, (Claim("show", {"web": count}, now - 1, "anna"),))
        return scale_wish(platform, scale.Parameters())
    schedule.furnish(tier.baseline, 2)
    if kind == "replace":
        return provision_wish(platform, f"shop-web-{chance.randint(1, tier.baseline)}")
    return provision_wish(platform, f"shop-lb-{chance.randint(1, 2)}")


def _begin_with_databases(schedule: Schedule) -> Wish:
    """Choose what there is and what is asked for, of the database as a rule."""
    chance, platform, now = schedule.chance, schedule.platform, schedule.clock.now()
    web, db = platform.tiers["web"], platform.tiers["db"]
    kind = chance.choice(("provision", "up", "up", "down", "down", "replace", "replace", "replace-proxy"))
    if kind == "provision":
        schedule.furnish(0, 0)
        return provision_wish(platform)
    counts = {"web": chance.randint(web.baseline, web.maximum), "db": chance.choice((3, 5, 5, 7))}
    if kind == "up":
        schedule.furnish(web.baseline, 2, databases=db.baseline)
        return scale_wish(platform, scale.Parameters(counts, now + 10**6, "show", by="anna"))
    if kind == "down":
        claim = Claim("show", counts, now - 1, "anna")
        schedule.furnish(counts["web"], 2, (claim,), databases=max(counts["db"], db.baseline))
        return scale_wish(platform, scale.Parameters())
    schedule.furnish(web.baseline, 2, databases=db.baseline)
    if kind == "replace":  # the first one is the writer
        return provision_wish(platform, f"shop-db-{chance.randint(1, db.baseline)}")
    return provision_wish(platform, f"shop-proxy-{chance.randint(1, PROXIES)}")


def _add_stranger(schedule: Schedule) -> None:
    """Somebody else has an id of ours, a name of ours, a tag of ours, or a copy of one of our machines."""
    chance, node = schedule.chance, schedule.platform.proxmox.nodes[0]
    copied = Stamp("shop", "shop-web-1", 1100, "web", Phase.SERVING)
    vm = chance.choice(
        (
            Vm(1110, "postgres", node, "other"),
            Vm(5000, "shop-web-4", node, "other"),
            Vm(1112, "shop-web-3", node, "shop", kind="lxc"),
            Vm(5001, "postgres", node, "other", tags=("thems", "tier-web")),
            Vm(1111, "shop-web-1", node, "shop", write_stamp(copied), tags_of(copied)),
            Vm(5002, "Copy-of-VM-shop-web-1", node, "shop", write_stamp(copied), tags_of(copied)),
        )
    )
    vm.running = True
    schedule.world.vms[vm.vmid] = vm
    schedule.monitor.foreign[vm.vmid] = vm.state()
    schedule.monitor.check()


def _break_something(schedule: Schedule) -> None:
    """Something fails at a random moment, by itself: a machine dies, or a node with all that is on it."""
    chance, world = schedule.chance, schedule.world

    def _return(node: str) -> None:
        world.offline.discard(node)
        world.changed()

    def die() -> None:
        victims = [vm for vm in schedule.ours() if vm.running]
        if not victims:
            return
        victim = chance.choice(victims)
        alone = chance.random() < 0.7 or len(schedule.platform.proxmox.nodes) < 3
        lost = [victim] if alone else [vm for vm in schedule.ours() if vm.node == victim.node]
        if not keeps_majority(world, lost):
            return
        if alone:
            victim.running, victim.ready_at, victim.changed_at = False, float("inf"), world.now()
        else:
            world.offline.add(victim.node)
            schedule.clock.later(chance.uniform(60, 2000), lambda: _return(victim.node))
        schedule.monitor.expect_less()
        world.changed()
        schedule.trace(f"{world.now():.1f} {victim.name} dies, offline: {world.offline}")

    seconds = chance.uniform(0, 200)
    schedule.calm_at = max(schedule.calm_at, schedule.clock.now() + seconds)
    schedule.clock.later(seconds, die)


def _faulty_runs(schedule: Schedule, wish: Wish) -> Outcome | None:
    """Run some times while things go wrong; return how the last one ended."""
    chance, outcome = schedule.chance, None
    rough = chance.choice((0.0, 0.01, 0.05))
    schedule.world.odds = _odds(chance)
    if schedule.platform.database:
        schedule.world.odds = database_odds(chance, schedule.world.odds)
    for _ in range(chance.randint(1, 4)):
        fate = chance.random()
        faults = Faults(
            read_fails=rough * chance.random() / 4, refused=rough, lost=rough, failed=rough * chance.random() / 4,
            playbook_fails=rough, kill_at=int(2 ** chance.uniform(0, 9)) if fate < 0.55 else 0,
            kill_how=chance.choice(("before", "after", "late")),
            stall_at=int(2 ** chance.uniform(0, 9)) if chance.random() < 0.15 else 0,
            stop_at=chance.randint(1, 300) if fate > 0.75 else 0,
        )  # fmt: skip
        if faults.stall_at:  # who is held up cannot end soon
            faults.stop_at = 0
        outcome = schedule.run(wish, faults, lambda: _stall(schedule, wish))
        if outcome is None:
            schedule.land_late_effects()
            if chance.random() < 0.5:
                schedule.dead_tokens.add(f"run-{schedule.runs}")
            else:
                schedule.clock.pass_by(chance.choice((1.0, TIMEOUTS.lease_s + 1)))
        elif outcome.exit is Exit.ABORTED and chance.random() < 0.5:
            schedule.dead_tokens.add(f"run-{schedule.runs}")
        elif outcome.exit is Exit.OK:
            break
    return outcome


def _odds(chance: random.Random) -> Odds:
    """Half of the clusters are well; the others have one or two weak spots."""
    odds = Odds()
    if chance.random() < 0.5:
        return odds
    spots = ("clone_fails", "id_race", "start_fails", "stop_fails", "never_boots", "destroy_fails", "never_drains")
    return replace(odds, **{spot: chance.uniform(0, 0.3) for spot in chance.sample(spots, chance.randint(1, 2))})


def _stall(schedule: Schedule, wish: Wish) -> None:
    """The run is stopped for longer than its lease; meanwhile somebody else does the same."""
    schedule.trace(f"{schedule.clock.now():.1f} the run is stalled")
    schedule.clock.pass_by(TIMEOUTS.lease_s + schedule.chance.uniform(1, 60))
    schedule.run(wish)
    schedule.trace(f"{schedule.clock.now():.1f} the stalled run goes on")
