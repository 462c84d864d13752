"""After a full crash: who may make the cluster, what is refused, and the plan followed to its end in the model."""

import random
from collections.abc import Mapping
from dataclasses import replace

import pytest
from test_databases import facts_with_databases, members, platform_with_databases

from thems_jobs.core import databases, model, recovery
from thems_jobs.core.databases import NEW
from thems_jobs.core.facts import Facts, Member, Phase, Proxy, Standing, Unknown
from thems_jobs.core.galera import DONOR
from thems_jobs.core.plan import Action, Plan, heads
from thems_jobs.core.platform import Platform
from thems_jobs.core.record import Record

UUID, OTHER = "11111111-2222-3333-4444-555555555555", "99999999-2222-3333-4444-555555555555"
NAMES = ("shop-db-1", "shop-db-2", "shop-db-3")
PLATFORM = platform_with_databases()


def stopped(seqno: int, uuid: str = UUID) -> Standing:
    return Standing(running=False, uuid=uuid, seqno=seqno, view="none")


def crashed(*standings: Standing | Unknown, platform: Platform = PLATFORM) -> Facts:
    """Facts of a platform whose databases are all down; each stands there."""
    facts = facts_with_databases(platform, count=len(standings))
    cluster = facts.databases
    assert cluster is not None
    silent = {name: Unknown("connection refused") for name in cluster.members}
    down = {
        name: replace(proxy, writer="", backends={b: replace(s, status="down") for b, s in proxy.backends.items()})
        for name, proxy in cluster.proxies.items()
        if isinstance(proxy, Proxy)
    }  # fmt: skip
    told = dict(zip(cluster.members, standings, strict=True))
    return replace(facts, databases=databases.regrouped(platform, facts, silent, down), standings=told)


def with_machine(facts: Facts, name: str, **changes: object) -> Facts:
    return replace(facts, machines={**facts.machines, name: replace(facts.machines[name], **changes)})  # type: ignore[arg-type]


def with_member(facts: Facts, name: str, **changes: object) -> Facts:
    """Given facts, return them with one database that answers as a member, but for the changes."""
    sound = facts_with_databases(PLATFORM).databases
    assert sound is not None
    assert facts.databases is not None
    member = sound.members[name]
    assert isinstance(member, Member)
    answer = replace(member, size=1, **changes)  # type: ignore[arg-type]
    rest = {other: standing for other, standing in facts.standings.items() if other != name}
    answers = {**facts.databases.members, name: answer}
    return replace(facts, databases=replace(facts.databases, members=answers), standings=rest)


def refusals(facts: Facts, confirmed: str = "shop-db-1") -> set[tuple[str, str]]:
    return {(r.reference, r.subject) for r in recovery.plan(PLATFORM, facts, confirmed).refusals}


@pytest.mark.parametrize(
    ("seqnos", "order"),
    [
        ((9, 8, 7), (1, 2, 3)),
        ((7, 8, 9), (3, 2, 1)),
        ((7, 9, 9), (2, 3, 1)),
        ((5, 5, 5), (1, 2, 3)),
        ((0, 0, 1), (3, 1, 2)),
    ],
)
def test_the_newest_makes_the_cluster_and_of_equals_the_lowest_number(
    seqnos: tuple[int, ...], order: tuple[int, ...]
) -> None:
    newest, *others = (f"shop-db-{number}" for number in order)
    plan = recovery.plan(PLATFORM, crashed(*map(stopped, seqnos)), newest)
    assert not plan.refusals, [str(refusal) for refusal in plan.refusals]
    assert [(change.kind, change.machine) for change in plan.changes] == [
        ("bootstrap", newest), *(("join", other) for other in others)
    ]  # fmt: skip
    assert f"{UUID}:{max(seqnos)}" in plan.changes[0].why
    assert ("the lowest number" in plan.changes[0].why) == (seqnos.count(max(seqnos)) > 1)
    assert [step.key for step in plan.steps if step.action is Action.BOOTSTRAP] == [f"bootstrap {newest}"]
    assert [step.target for step in plan.steps if step.action is Action.JOIN] == others


def test_the_approval_is_of_the_very_transaction_that_was_read() -> None:
    first, second = (recovery.plan(PLATFORM, crashed(*map(stopped, (n, 5, 4))), "shop-db-1") for n in (8, 9))
    assert first.digest != second.digest
    assert next(step.note for step in first.steps if step.action is Action.BOOTSTRAP) == f"{UUID}:8"


@pytest.mark.parametrize("confirmed", ["", "shop-db-1", "shop-db-3", "shop-db-9"])
def test_no_other_machine_than_the_newest_can_be_named(confirmed: str) -> None:
    plan = recovery.plan(PLATFORM, crashed(stopped(7), stopped(9), stopped(8)), confirmed)
    (refusal,) = plan.refusals
    assert refusal.reference == "recovery-not-confirmed"
    places = [refusal.measured.index(f"{name} {UUID}") for name in ("shop-db-2", "shop-db-3", "shop-db-1")]
    assert places == sorted(places), refusal.measured
    assert plan.steps, "what would be done is shown"


WAITS = Standing(running=True, uuid=UUID, seqno=-1, view="none")
BROKEN: Mapping[str, tuple[Facts, set[tuple[str, str]]]] = {
    "one that nothing was told of": (
        replace(crashed(stopped(9), stopped(8), stopped(7)), standings={name: stopped(9) for name in NAMES[:2]}),
        {("recovery-unreadable", "shop-db-3")},
    ),
    "one that cannot be asked": (
        crashed(stopped(9), Unknown("no route to host"), stopped(7)), {("recovery-unreadable", "shop-db-2")}
    ),
    "one whose database starts": (crashed(stopped(9), stopped(8), WAITS), {("recovery-unreadable", "shop-db-3")}),
    "one that serves and says that it is empty": (
        crashed(stopped(9), stopped(-1, NEW), stopped(7)), {("recovery-unreadable", "shop-db-2")}
    ),
    "one whose log tells nothing": (
        crashed(stopped(9), stopped(-1), stopped(7)), {("recovery-unreadable", "shop-db-2")}
    ),
    "one in a minority": (
        with_member(crashed(stopped(9), stopped(8), stopped(7)), "shop-db-3", status="non-Primary", ready=False),
        {("recovery-unreadable", "shop-db-3")},
    ),
    "two clusters": (crashed(stopped(9), stopped(8, OTHER), stopped(7)), {("recovery-uuids-differ", "cluster")}),
    "nobody was ever a member": (
        with_machine(crashed(stopped(-1, NEW)), "shop-db-1",
                     stamp=replace(crashed(stopped(1)).machines["shop-db-1"].stamp, phase=Phase.BUILDING)),  # type: ignore[type-var]
        {("recovery-no-data", "tier db")},
    ),
    "no quorum": (
        replace(crashed(stopped(9), stopped(8), stopped(7)), quorate=False), {("no-quorum", "Proxmox cluster")}
    ),
    "no record": (
        replace(crashed(stopped(9), stopped(8), stopped(7)), record=Unknown("gone")),
        {("record-unreadable", f"record VM {PLATFORM.proxmox.record_vmid}")},
    ),
    "a node is down": (
        replace(crashed(stopped(9), stopped(8), stopped(7)), nodes={}),
        {("node-offline", name) for name in NAMES},
    ),
    "a member is still there": (
        with_member(crashed(stopped(9), stopped(1), stopped(0)), "shop-db-2", seqno=9),
        {("recovery-still-primary", "shop-db-2")},
    ),
    "one is ahead of the cluster": (
        with_member(crashed(stopped(9), stopped(12), stopped(7)), "shop-db-1", seqno=11),
        {("recovery-newer-data", "shop-db-2")},
    ),
    "another cluster than the others'": (
        with_member(crashed(stopped(9), stopped(8), stopped(7)), "shop-db-1", uuid=OTHER, seqno=11),
        {("recovery-uuids-differ", "cluster")},
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_not_certain_is_refused(what: str) -> None:
    facts, expected = BROKEN[what]
    assert refusals(facts) == expected


def test_a_half_made_machine_without_data_stands_in_nobodys_way_and_joins() -> None:
    facts = crashed(stopped(9), stopped(8), stopped(-1, NEW))
    stamp = facts.machines["shop-db-3"].stamp
    assert stamp is not None
    facts = with_machine(facts, "shop-db-3", stamp=replace(stamp, phase=Phase.BUILDING))
    plan = recovery.plan(PLATFORM, facts, "shop-db-1")
    assert not plan.refusals
    assert [step.target for step in plan.steps if step.action is Action.JOIN] == ["shop-db-2", "shop-db-3"]


def test_a_copy_that_was_broken_off_after_the_cluster_was_made_is_begun_anew() -> None:
    facts = with_member(crashed(stopped(9), stopped(-1, NEW), stopped(7)), "shop-db-1", seqno=10)
    plan = recovery.plan(PLATFORM, facts, "shop-db-1")
    assert not plan.refusals
    assert [step.target for step in plan.steps if step.action is Action.JOIN] == ["shop-db-3", "shop-db-2"]


def seen_by_the_proxies(facts: Facts) -> Facts:
    """Given facts, return them with the first as the proxies' writer and all up: their own checks have passed."""
    sound = facts_with_databases(PLATFORM).databases
    assert sound is not None
    assert facts.databases is not None
    return replace(facts, databases=replace(facts.databases, proxies=sound.proxies))


def follow(
    facts: Facts, plan: Plan, chance: random.Random, limit: int = 99, platform: Platform = PLATFORM
) -> tuple[Facts, list[str]]:
    """Given facts, do any heads of the plan until nothing remains, or so many are done."""
    done = list[str]()
    while plan.steps and len(done) < limit:
        assert not plan.refusals, [str(refusal) for refusal in plan.refusals]
        ready = heads(plan, frozenset())
        assert ready, "a plan that waits for itself"
        chosen = chance.sample(ready, chance.randint(1, len(ready)))
        for step in chosen:
            before = members(facts)
            facts = model.after(platform, facts, plan, step)
            done.append(step.key)
            assert len(members(facts) - before) <= 1
        rest = recovery.plan(platform, facts, "shop-db-2")
        assert {s.key for s in rest.steps} == {s.key for s in plan.steps} - {s.key for s in chosen}
        plan = rest
    return facts, done


@pytest.mark.parametrize("seed", range(10))
def test_the_others_are_kept_from_it_first_and_join_one_at_a_time(seed: int) -> None:
    facts = crashed(stopped(0), stopped(1), stopped(0))
    facts, done = follow(facts, recovery.plan(PLATFORM, facts, "shop-db-2"), random.Random(seed))
    assert sorted(done[:2]) == ["forbid-bootstrap shop-db-1", "forbid-bootstrap shop-db-3"]
    assert done[2:] == [
        "bootstrap shop-db-2", "join shop-db-1", "await-sync shop-db-1", "join shop-db-3", "await-sync shop-db-3",
    ]  # fmt: skip
    blind = recovery.plan(PLATFORM, facts, "shop-db-2")
    assert {refusal.reference for refusal in blind.refusals} == {"proxies-disagree"}, "the run ends well too early"
    facts = seen_by_the_proxies(facts)
    end = recovery.plan(PLATFORM, facts, "shop-db-2")
    assert not end.steps
    assert not end.refusals
    assert {check.reference for check in end.checks} >= {"galera-not-primary", "galera-size", "proxies-disagree"}


@pytest.mark.parametrize("seed", range(20))
def test_killed_anywhere_and_run_again_it_finishes(seed: int) -> None:
    chance = random.Random(seed)
    facts = crashed(stopped(0), stopped(1), stopped(0))
    facts, _ = follow(facts, recovery.plan(PLATFORM, facts, "shop-db-2"), chance, limit=chance.randint(1, 6))
    anew = {name: replace(machine, barred=False) for name, machine in facts.machines.items()}
    facts = replace(facts, machines=anew, record=Record())
    facts, _ = follow(facts, recovery.plan(PLATFORM, facts, "shop-db-2"), chance)
    assert members(facts) == set(NAMES)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, set()),
        ({"receive_queue": 50.0}, {("galera-lagging", "shop-db-1")}),
        ({"busy": ("backup by mariabackup",)}, {("galera-busy", "shop-db-1")}),
        ({"state": DONOR}, {("galera-not-synced", "shop-db-1")}),
        ({"switches": {}}, {("galera-maintenance", "shop-db-1")}),
        ({"view": None}, {("galera-views-differ", "shop-db-1")}),
    ],
)
def test_the_next_one_joins_when_those_that_are_members_are_well(
    changes: dict[str, object], found: set[tuple[str, str]]
) -> None:
    """The proxies see nobody, and are not asked: they may have gone down with all the rest."""
    facts = with_member(crashed(stopped(9), stopped(8), stopped(7)), "shop-db-1", seqno=10, **changes)
    assert next(step.key for step in recovery.plan(PLATFORM, facts, "shop-db-1").steps) == "join shop-db-2"
    assert refusals(facts) == found
    first = with_member(crashed(stopped(9), stopped(8), WAITS), "shop-db-1", seqno=10, **changes)
    copying = with_machine(first, "shop-db-3", joining=True)
    while_copied = {("galera-maintenance", "shop-db-1"), ("galera-views-differ", "shop-db-1")}
    assert refusals(copying) == found & while_copied, "it gives its data to the third one"
    last = with_member(copying, "shop-db-2", index=1, seqno=10)
    assert {s.action for s in recovery.plan(PLATFORM, last, "shop-db-1").steps} == {Action.AWAIT_SYNC}
    assert refusals(last) == set(), "nobody else is to join"


def test_at_the_end_the_conditions_decide() -> None:
    facts = facts_with_databases(PLATFORM)
    assert facts.databases is not None
    slow = replace(facts.databases.members["shop-db-3"], receive_queue=50.0)  # type: ignore[type-var]
    facts = replace(facts, databases=replace(facts.databases, members={**facts.databases.members, "shop-db-3": slow}))
    assert refusals(facts) == {("galera-lagging", "shop-db-3")}
