"""After a full crash: whose data is the newest, and the steps that make one cluster of all machines again.

Who may make the cluster is never guessed: every machine was read, and a person named the one that is to do it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from thems_jobs.core import backups, databases, galera, gates
from thems_jobs.core.facts import Facts, Machine, Member, Phase, Standing, Unknown, number_of
from thems_jobs.core.plan import Action, Change, Plan, Refusal, Step, Wait, chain
from thems_jobs.core.platform import DatabaseCluster, Platform

NOT_RUNNING = "it is switched off, or not reached by SSH: what its data holds cannot be read"
WAITING = "its database runs, but is no member: it starts, or waits for others, and cannot be read meanwhile"
STOP_IT = "A start gives up after half a minute; what still runs then is stopped with: sudo thems-galera leave"


@dataclass(frozen=True)
class Position:
    """The last transaction that one machine has."""

    name: str
    uuid: str
    seqno: int

    def __str__(self) -> str:
        return f"{self.uuid}:{self.seqno}"


@dataclass(frozen=True)
class Read:
    """What was read of all machines: who is in a cluster, where the others stand, newest first, who holds nothing, and
    why each of the rest could not be read."""

    present: frozenset[str] = frozenset()
    coming: frozenset[str] = frozenset()
    positions: tuple[Position, ...] = ()
    empty: frozenset[str] = frozenset()
    unread: Mapping[str, str] = field(default_factory=dict)

    @property
    def order(self) -> str:
        """The order in one line, for a refusal."""
        return "; ".join(f"{place.name} {place}" for place in self.positions)


def plan(platform: Platform, facts: Facts, confirmed: str) -> Plan:
    """Given the facts and the name of the machine that a person let make the cluster ("" for none), return what remains
    until all machines are members of it."""
    settings = databases.settings_of(platform)
    if settings is None:
        raise ValueError("galera-recover was asked of a platform without a database cluster")
    seen = read(platform, facts)
    if not seen.unread and not seen.coming and not seen.positions and not seen.empty and seen.present:
        return _recovered(platform, facts, settings)
    refusals = gates.quorum(facts) + gates.readable_record(platform, facts) + gates.strangers(facts)
    refusals += _unread(seen) + _no_data(seen, settings) + _of_several_clusters(facts, seen)
    founded, warnings = bool(seen.present or seen.coming), tuple[str, ...]()
    if founded:
        refusals += _ahead(facts, seen) + _still_primary(seen, confirmed)
        steps = _joins(platform, seen, [], frozenset())
        refusals += _not_yet(platform, facts, settings, seen) if any(s.action is Action.JOIN for s in steps) else []
    else:
        refusals += _not_confirmed(seen, confirmed)
        guarded = _bootstrap(platform, facts, seen)
        steps, warnings = list(guarded.steps), guarded.warnings
        refusals += guarded.refusals
    refusals += gates.nodes(facts, steps)
    changes = backups.shown(facts, steps, _changes(facts, seen, founded))
    return Plan(tuple(steps), tuple(refusals), changes=changes, warnings=warnings)


def _recovered(platform: Platform, facts: Facts, settings: DatabaseCluster) -> Plan:
    """Given that all are members, return the conditions of a sound cluster: they decide how a recovery ends.

    The proxies take a moment to see a member that has just joined: a run waits for its gates.
    """
    if facts.databases is None:
        return Plan()
    asked = galera.Asked(target=platform.tiers[settings.tier].baseline)
    passed = {("galera-placement", name) for name in facts.databases.members}
    checks = galera.conditions(settings, facts.databases, asked, passed)
    finding = f"Nothing is to be recovered: {facts.databases.expected} machines are members of one cluster."
    return Plan(refusals=galera.refusals(checks), checks=checks, finding=finding)


# Reading


def read(platform: Platform, facts: Facts) -> Read:
    """Given the facts, return where every machine of the tier stands."""
    settings = databases.settings_of(platform)
    machines = [machine for machine in facts.of_tier(settings.tier) if machine.exists] if settings else []
    present = frozenset(machine.name for machine in machines if databases.joined(facts, machine.name))
    coming = {m.name for m in machines if m.name not in present and _is_primary(facts, m.name)}
    coming |= {m.name for m in machines if m.name not in present and present and m.joining}
    positions, empty, unread = list[Position](), set[str](), dict[str, str]()
    for machine in machines:
        if machine.name in present | coming:
            continue
        stands = _where(facts, machine, founded=bool(present or coming))
        if isinstance(stands, Position):
            positions.append(stands)
        elif stands:
            unread[machine.name] = stands
        else:
            empty.add(machine.name)
    positions.sort(key=lambda place: (-place.seqno, number_of(place.name)))
    return Read(present, frozenset(coming), tuple(positions), frozenset(empty), unread)


def _is_primary(facts: Facts, name: str) -> bool:
    """True if the machine's database is in a primary component, with or without all data."""
    member, standing = databases.told(facts, name), facts.standings.get(name)
    if member is not None:
        return member.status == "Primary"
    return isinstance(standing, Standing) and standing.running and standing.view != "none"


def _where(facts: Facts, machine: Machine, founded: bool) -> Position | str:
    """Given a machine that is no member, return its last transaction, why that is not known, or "": it holds nothing.

    One that serves has held data: if it says that it has none, a copy was broken off, and nobody knows how new it is.
    Once the cluster is made (`founded`) that matters no more.
    """
    if databases.told(facts, machine.name) is not None:
        return "its database runs without a majority"
    standing = facts.standings.get(machine.name, Unknown(NOT_RUNNING))
    if isinstance(standing, Unknown):
        return standing.reason
    if standing.running:
        return WAITING
    if standing.uuid != databases.NEW and standing.seqno >= 0:
        return Position(machine.name, standing.uuid, standing.seqno)
    if standing.uuid == databases.NEW and (founded or machine.phase is Phase.BUILDING):
        return ""
    return f"its data does not tell a last transaction ({standing.uuid}:{standing.seqno})"


# Refusals


def _unread(seen: Read) -> list[Refusal]:
    return [
        Refusal(
            "recovery-unreadable", name, why.rstrip("."),
            "uuid and seqno of every machine: it may hold the newest orders",
            STOP_IT if why == WAITING else "Bring the machine back, and run the same command again.",
        )
        for name, why in seen.unread.items()
    ]  # fmt: skip


def _no_data(seen: Read, settings: DatabaseCluster) -> list[Refusal]:
    if seen.unread or seen.positions or seen.present or seen.coming:
        return []
    return [
        Refusal(
            "recovery-no-data", f"tier {settings.tier}", "no machine holds data of a cluster", "one that does",
            "There is nothing to recover: thems-jobs provision makes a new cluster.",
        )
    ]  # fmt: skip


def _of_several_clusters(facts: Facts, seen: Read) -> list[Refusal]:
    """All data is of one cluster; that of another one would be lost by joining."""
    uuids = {place.name: place.uuid for place in seen.positions}
    for name in seen.present | seen.coming:
        member = databases.told(facts, name)
        if member is not None and member.uuid:
            uuids[name] = member.uuid
    if len(set(uuids.values())) < 2:
        return []
    return [databases.of_another_cluster("; ".join(f"{name} {uuid}" for name, uuid in sorted(uuids.items())))]


def _ahead(facts: Facts, seen: Read) -> list[Refusal]:
    """Nobody who is to join has transactions that the cluster lacks: joining would drop them."""
    newest = databases.last_seqno(facts, seen.present)
    if newest is None:
        return []
    return [databases.ahead(place.name, place.seqno, newest) for place in seen.positions if place.seqno > newest]


def _still_primary(seen: Read, confirmed: str) -> list[Refusal]:
    """A cluster that is there is not made again. One that this command made already is gone on with."""
    if confirmed and (confirmed in seen.present or (confirmed in seen.coming and not seen.present)):
        return []
    names = ", ".join(sorted(seen.present | seen.coming))
    return [
        Refusal(
            "recovery-still-primary", names, "in a primary component: the cluster is there", "no member anywhere",
            "Nothing is to be recovered: thems-jobs provision lets the others join. If this command made the cluster "
            "and was ended, run it again with the same --bootstrap.",
        )
    ]  # fmt: skip


def _not_confirmed(seen: Read, confirmed: str) -> list[Refusal]:
    """A person has named the machine with the newest data."""
    if not seen.positions or seen.unread or confirmed == seen.positions[0].name:
        return []
    first = seen.positions[0].name
    return [
        Refusal(
            "recovery-not-confirmed", "--bootstrap", f"it names {confirmed or 'nobody'}; newest first: {seen.order}",
            f"--bootstrap {first}, by a person who has seen this order",
            f"If nobody has anything newer, confirm it by name: --bootstrap {first}",
        )
    ]  # fmt: skip


def _not_yet(platform: Platform, facts: Facts, settings: DatabaseCluster, seen: Read) -> list[Refusal]:
    """Given that others are still to join, return what is not well of those that are members already.

    What the proxies see of it is asked in the end: they may have gone down with the databases, and are not mended here.
    """
    there = {name: member for name in sorted(seen.present, key=number_of) if (member := databases.told(facts, name))}
    if facts.databases is None or not there:
        return []
    others = tuple(machine.name for machine in facts.of_tier(settings.tier) if machine.name not in there)
    cluster = replace(facts.databases, members=there, expected=len(there), moving=others)
    asked = galera.Asked(target=platform.tiers[settings.tier].baseline)
    allow = {(reference, name) for reference in databases.WHILE_COPIED for name in there if seen.coming}
    checks = galera.conditions(settings, cluster, asked, allow)
    passed = databases.OF_PROXIES | {"galera-placement"}
    return list(galera.refusals([check for check in checks if check.reference not in passed]))


# Steps


def _bootstrap(platform: Platform, facts: Facts, seen: Read) -> backups.Guarded:
    """Return the steps that make a cluster of the newest, copied first, and let the others join it, one at a time."""
    if not seen.positions:
        return backups.Guarded(())
    newest, *others = seen.positions
    batch = f"{Action.FORBID_BOOTSTRAP} {facts.machines[newest.name].tier}"
    names = sorted([*(place.name for place in others), *seen.empty], key=number_of)
    bars = [Step(Action.FORBID_BOOTSTRAP, name, batch=batch) for name in names if not facts.machines[name].barred]
    before = frozenset(step.key for step in bars)
    made = Step(Action.BOOTSTRAP, newest.name, after=before, note=str(newest))
    guarded = backups.before_bootstrap(platform, facts, made)
    return replace(guarded, steps=tuple(_joins(platform, seen, [*bars, *guarded.steps], frozenset({made.key}))))


def _joins(platform: Platform, seen: Read, steps: list[Step], after: frozenset[str]) -> list[Step]:
    """Given the steps before, return them with those by which each machine that is no member yet joins, one at a time:
    who is on its way, then the newest."""
    bootstrapped = {step.target for step in steps if step.action is Action.BOOTSTRAP}
    names = [*sorted(seen.coming, key=number_of), *(place.name for place in seen.positions)]
    names += sorted(seen.empty, key=number_of)
    turns = list[Step]()
    wait = Wait("it takes the cluster's data", 2.0, platform.timeouts.sync_s)
    for name in names:
        if name not in bootstrapped:
            turns += [] if name in seen.coming else [Step(Action.JOIN, name)]
            turns.append(Step(Action.AWAIT_SYNC, name, wait=wait))
    return [*steps, *chain(turns, after)]


def _changes(facts: Facts, seen: Read, founded: bool) -> tuple[Change, ...]:
    """Return what happens to each machine, newest first, with where it stands."""
    found = list[Change]()
    newest = seen.positions[0].seqno if seen.positions else 0
    for number, place in enumerate(seen.positions):
        equal = [other.name for other in seen.positions[1:] if other.seqno == newest]
        behind = f"{newest - place.seqno:,} behind" if place.seqno < newest else "as new, a higher number"
        first = "newest" + (f" as {', '.join(equal)}; the lowest number of them" if equal else "")
        made = number == 0 and not founded
        why = f"{place}" if founded else f"{place}, {first if made else behind}"
        node = facts.machines[place.name].node
        found.append(Change("bootstrap" if made else "join", place.name, node, why))
    for name in sorted({*seen.coming, *seen.empty}, key=number_of):
        why = "it is on its way" if name in seen.coming else "it holds no data yet"
        found.append(Change("join", name, facts.machines[name].node, why))
    return tuple(found)


def silent(facts: Facts, tier: str) -> dict[str, Unknown]:
    """Given a tier, return why each machine of it that cannot be asked cannot."""
    return {
        machine.name: Unknown(NOT_RUNNING)
        for machine in facts.of_tier(tier)
        if machine.exists and not machine.reachable
    }


def unasked(facts: Facts, tier: str) -> list[Machine]:
    """Given a tier, return the machines that answer, but whose databases have told nothing in any way."""
    return [
        machine
        for machine in facts.of_tier(tier)
        if machine.exists
        and machine.reachable
        and machine.name not in facts.standings
        and not isinstance(databases.told(facts, machine.name), Member)
    ]
