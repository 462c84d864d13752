"""A copy before risk: when it is planned, of whom, and what waits for it; plans lead to their rest all the same."""

import random
from dataclasses import replace

import pytest
from platforms import AT
from test_databases import facts_with_databases, follow, members, order, platform_with_databases, with_writer, without
from test_recovery import UUID, crashed, stopped, with_member
from test_recovery import follow as follow_recovery

from thems_jobs.core import approval, databases, model, recovery
from thems_jobs.core.databases import NEW, settings_of
from thems_jobs.core.facts import Backup, Facts, Member, Phase, Proxy, Unknown
from thems_jobs.core.fleet import plan_tiers
from thems_jobs.core.plan import Action, Plan, heads
from thems_jobs.core.platform import BackupFolder, Platform


def with_folder(platform: Platform) -> Platform:
    settings = settings_of(platform)
    assert platform.database is not None
    assert settings is not None
    cluster = replace(settings, backup=BackupFolder("/srv/backups", fresh_s=3600, keep=3))
    return replace(platform, database=replace(platform.database, cluster=cluster))


BARE = platform_with_databases()
PLATFORM = with_folder(BARE)
DOWN = {"db": 3, "web": 2}


def saved(age_s: float, seqno: int = 1) -> Backup:
    return Backup(AT - age_s, "shop-db-2", UUID, seqno, "/srv/backups/shop-db-2.tar.gz")


def five(**changes: object) -> Facts:
    return replace(facts_with_databases(PLATFORM, count=5), **changes)  # type: ignore[arg-type]


def in_phase(facts: Facts, name: str, phase: Phase) -> Facts:
    """Given facts, return them with one member in another phase, drained by the proxies."""
    machine, cluster = facts.machines[name], facts.databases
    assert machine.stamp is not None
    assert cluster is not None
    machines = {**facts.machines, name: replace(machine, stamp=replace(machine.stamp, phase=phase))}
    proxies = {
        key: replace(proxy, backends={**proxy.backends, name: replace(proxy.backends[name], status="drained")})
        for key, proxy in cluster.proxies.items()
        if isinstance(proxy, Proxy)
    }
    facts = replace(facts, machines=machines)
    return replace(facts, databases=databases.regrouped(PLATFORM, facts, cluster.members, proxies))


def copies(plan: Plan) -> list[str]:
    return [step.target for step in plan.steps if step.action is Action.BACKUP]


@pytest.mark.parametrize("seed", range(10))
def test_a_reader_that_stays_is_copied_before_any_member_leaves(seed: int) -> None:
    facts = five()
    facts, done = follow(PLATFORM, facts, lambda f: plan_tiers(PLATFORM, f, DOWN), random.Random(seed))
    assert len(members(facts)) == 3
    assert [key for key in done if key.startswith("backup")] == ["backup shop-db-3"]
    leaves = [key for key in done if key.startswith(("withdraw shop-db", "leave", "destroy shop-db"))]
    assert leaves
    assert done.index("backup shop-db-3") < min(map(done.index, leaves))
    assert isinstance(facts.backup, Backup)


def test_whom_a_copy_is_made_of_stands_in_the_plan() -> None:
    shrink = {change.machine: change for change in plan_tiers(PLATFORM, five(), DOWN).changes}
    assert (shrink["shop-db-3"].kind, shrink["shop-db-5"].kind) == ("backup", "remove")
    facts = facts_with_databases(PLATFORM)
    new = {c.machine: c for c in plan_tiers(PLATFORM, facts, {"db": 3}, frozenset({"shop-db-2"})).changes}
    assert new["shop-db-4"].kind == "make"
    assert "copied" in new["shop-db-4"].why
    assert "copied" in next(c for c in recovering(PLATFORM).changes if c.kind == "bootstrap").why


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("name", ["shop-db-1", "shop-db-2", "shop-db-3"])
def test_who_is_replaced_leaves_behind_the_new_one_and_a_copy(name: str, seed: int) -> None:
    facts, chance = facts_with_databases(PLATFORM), random.Random(seed)
    replaced = frozenset({name})
    facts, done = follow(PLATFORM, facts, lambda f: plan_tiers(PLATFORM, f, {"db": 3}, replaced), chance)
    assert order(done, "serve shop-db-4", "backup shop-db-4", f"withdraw {name}", f"await-destroy {name}")


@pytest.mark.parametrize("seed", range(10))
def test_a_copy_holds_up_nothing_that_gives_capacity(seed: int) -> None:
    chance = random.Random(seed)
    repaired = without(PLATFORM, five(), "shop-db-2", lambda m: replace(m, health="down"))
    for facts, targets, replaced in (
        (five(), {"db": 3, "web": 4}, frozenset[str]()),
        (repaired, {"db": 5, "web": 4}, frozenset({"shop-db-5"})),
    ):
        plan = plan_tiers(PLATFORM, facts, targets, replaced)
        behind = {f"backup {name}" for name in copies(plan)}
        assert behind
        while more := {step.key for step in plan.steps if step.after & behind} - behind:
            behind |= more
        gives = (Action.CLONE, Action.JOIN, Action.ADMIT, Action.SERVE, Action.RESTORE, Action.CONVERGE)
        assert not [step for step in plan.steps if step.key in behind and step.action in gives]
        follow(PLATFORM, facts, lambda f, t=targets, r=replaced: plan_tiers(PLATFORM, f, t, r), chance)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("backup", "due"),
    [
        (None, True),
        (saved(60), False),
        (saved(3600), False),
        (saved(3601), True),
        (saved(-30), False),
        (saved(-61), True),
        (saved(-9e6), True),  # two clocks differ a little, or one is wrong
        (replace(saved(60), uuid="9" * 36), True),  # of another cluster
    ],
)
def test_a_copy_of_this_cluster_that_is_young_enough_is_not_made_again(backup: Backup | None, due: bool) -> None:
    assert bool(copies(plan_tiers(PLATFORM, five(backup=backup), DOWN))) is due


@pytest.mark.parametrize(("writer", "source"), [("shop-db-1", "shop-db-3"), ("shop-db-3", "shop-db-2")])
def test_the_writer_is_spared(writer: str, source: str) -> None:
    assert copies(plan_tiers(PLATFORM, with_writer(five(), writer), DOWN)) == [source]


def test_nothing_is_copied_where_nobody_leaves() -> None:
    for targets in ({"db": 5, "web": 2}, {"db": 7}, {"web": 4}, {"web": 2, "lb": 2, "proxy": 2}):
        assert copies(plan_tiers(PLATFORM, five(), targets)) == []
    half_made = in_phase(five(), "shop-db-5", Phase.BUILDING)
    assert copies(plan_tiers(PLATFORM, half_made, {"db": 4})) == []


@pytest.mark.parametrize("seed", range(5))
def test_who_has_begun_to_leave_goes_on_without_another_copy(seed: int) -> None:
    leaving = in_phase(five(), "shop-db-5", Phase.DRAINING)
    assert copies(plan_tiers(PLATFORM, leaving, {"db": 4})) == []
    _, done = follow(PLATFORM, leaving, lambda f: plan_tiers(PLATFORM, f, DOWN), random.Random(seed))
    assert order(done, "backup shop-db-3", "withdraw shop-db-4")
    assert not next(s for s in plan_tiers(PLATFORM, leaving, DOWN).steps if s.key == "leave shop-db-5").after & {
        "backup shop-db-3"
    }


def test_without_a_folder_nothing_is_copied_and_the_plan_says_so() -> None:
    plan = plan_tiers(BARE, five(), DOWN)
    assert copies(plan) == []
    assert ["database.cluster.backup" in warning for warning in plan.warnings] == [True]
    assert not plan_tiers(BARE, five(), {"db": 5, "web": 4}).warnings
    assert not plan_tiers(PLATFORM, five(), DOWN).warnings


def test_a_folder_that_cannot_be_used_refuses_what_waits_for_the_copy_alone() -> None:
    blind = five(backup=Unknown("it is not there, and cannot be made"))
    plan = plan_tiers(PLATFORM, blind, DOWN)
    assert [(r.reference, r.subject, r.machine) for r in plan.refusals] == [
        ("backup-folder", "/srv/backups", "shop-db-3")
    ]
    assert not plan_tiers(PLATFORM, blind, {"db": 5, "web": 4}).refusals


def test_an_approval_holds_whether_a_copy_is_due_or_not() -> None:
    """Between the plan that a person saw and its last step an hour may pass: a copy then grows too old, or is there."""
    with_copy, without_copy = (plan_tiers(PLATFORM, five(backup=b), DOWN) for b in (None, saved(60)))
    assert with_copy.digest == without_copy.digest
    given = approval.approve(without_copy, "anna", AT, without_copy.digest)
    assert approval.covers(given, with_copy)
    assert "shop-db-3" not in given.changes["up"]


def test_our_own_copy_closes_no_gate_and_anybody_elses_does() -> None:
    facts = five()
    assert facts.databases is not None
    member = facts.databases.members["shop-db-3"]
    assert isinstance(member, Member)
    busy = replace(member, busy=("backup (BACKUP STAGE START)",), state=2, receive_queue=50.0)
    proxies = {
        name: replace(
            proxy, backends={**proxy.backends, "shop-db-3": replace(proxy.backends["shop-db-3"], status="down")}
        )
        for name, proxy in facts.databases.proxies.items()
        if isinstance(proxy, Proxy)
    }
    cluster = replace(facts.databases, members={**facts.databases.members, "shop-db-3": busy}, proxies=proxies)
    theirs = replace(facts, databases=cluster)
    closed = {refusal.reference for refusal in plan_tiers(PLATFORM, theirs, DOWN).refusals}
    assert closed == {"galera-busy", "galera-not-synced", "galera-lagging", "proxies-disagree"}
    for copied, refused in ((frozenset({"shop-db-3"}), False), (frozenset({"shop-db-2"}), True)):
        ours = replace(facts, databases=replace(cluster, copied=copied))
        assert bool(plan_tiers(PLATFORM, ours, DOWN).refusals) is refused


@pytest.mark.parametrize("seed", range(10))
def test_killed_anywhere_and_run_again_every_leave_has_a_copy_before_it(seed: int) -> None:
    chance = random.Random(seed)
    facts = five()
    for _ in range(60):
        plan = plan_tiers(PLATFORM, facts, DOWN)
        if not plan.steps:
            break
        step = chance.choice(heads(plan, frozenset()))
        if step.action is Action.WITHDRAW and step.target.startswith("shop-db"):
            assert isinstance(facts.backup, Backup)
        facts = model.after(PLATFORM, facts, plan, step)
        if chance.random() < 0.2:
            facts = replace(facts, at=facts.at + 4000)  # long enough that the copy is too old
            facts = replace(facts, quiet_since={})
    assert len(members(facts)) == 3


# Recovery


def recovering(platform: Platform, backup: Backup | Unknown | None = None) -> Plan:
    facts = replace(crashed(stopped(0), stopped(1), stopped(0)), backup=backup)
    return recovery.plan(platform, facts, "shop-db-2")


def test_who_makes_the_cluster_is_copied_first_as_it_stands() -> None:
    plan = recovering(PLATFORM)
    assert copies(plan) == ["shop-db-2"]
    made = next(step for step in plan.steps if step.action is Action.BOOTSTRAP)
    copy = next(step for step in plan.steps if step.action is Action.BACKUP)
    bars = {step.key for step in plan.steps if step.action is Action.FORBID_BOOTSTRAP}
    assert made.after == {copy.key, *bars}
    assert copy.after == bars
    assert plan.digest == recovering(BARE).digest


def test_a_copy_of_another_transaction_is_not_the_one_that_counts_however_young() -> None:
    assert copies(recovering(PLATFORM, saved(60, seqno=0))) == ["shop-db-2"]
    assert copies(recovering(PLATFORM, replace(saved(60), uuid="9" * 36))) == ["shop-db-2"]
    assert copies(recovering(PLATFORM, saved(9000, seqno=1))) == []


def test_a_recovery_without_a_folder_says_so_and_one_with_a_broken_folder_is_refused() -> None:
    assert ["database.cluster.backup" in warning for warning in recovering(BARE).warnings] == [True]
    blind = recovering(PLATFORM, Unknown("it cannot be written to"))
    assert [refusal.reference for refusal in blind.refusals] == ["backup-folder"]


@pytest.mark.parametrize("seed", range(5))
def test_a_recovery_with_a_copy_leads_to_its_rest(seed: int) -> None:
    facts = crashed(stopped(0), stopped(1), stopped(0))
    plan = recovery.plan(PLATFORM, facts, "shop-db-2")
    facts, done = follow_recovery(facts, plan, random.Random(seed), platform=PLATFORM)
    assert order(done, "forbid-bootstrap shop-db-1", "backup shop-db-2", "bootstrap shop-db-2", "join shop-db-1")
    assert members(facts) == {"shop-db-1", "shop-db-2", "shop-db-3"}


def test_after_a_restore_by_hand_the_others_join_empty_as_they_are() -> None:
    """The way back that docs/database-machines.md shows: one has the copy and made the cluster, two were emptied."""
    facts = with_member(crashed(stopped(9), stopped(-1, NEW), stopped(-1, NEW)), "shop-db-1", seqno=41)
    plan = recovery.plan(PLATFORM, facts, "shop-db-1")
    assert not plan.refusals, [str(refusal) for refusal in plan.refusals]
    assert [step.key for step in plan.steps] == [
        "join shop-db-2", "await-sync shop-db-2", "join shop-db-3", "await-sync shop-db-3",
    ]  # fmt: skip
