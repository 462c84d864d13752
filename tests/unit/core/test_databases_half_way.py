"""Database plans that begin where something died or was changed by hand, as the simulation came upon them."""

import random
from dataclasses import replace

import pytest
from clusters import PERCONA
from test_databases import facts_with_databases, follow, members, platform_with_databases, refusals, without

from thems_jobs.core.databases import NEW, regrouped
from thems_jobs.core.facts import Backend, Facts, Member, Phase, Proxy, Standing, Unknown, number_of
from thems_jobs.core.fleet import plan_tiers
from thems_jobs.core.galera import DONOR
from thems_jobs.core.machine import ATTEMPTS
from thems_jobs.core.model_databases import _in_one_view, _synced
from thems_jobs.core.plan import heads


def with_proxies(facts: Facts, first: Proxy, second: Proxy) -> Facts:
    assert facts.databases is not None
    return replace(facts, databases=replace(facts.databases, proxies={"shop-proxy-1": first, "shop-proxy-2": second}))


def proxies_of(facts: Facts) -> tuple[Proxy, Proxy]:
    assert facts.databases is not None
    first, second = facts.databases.proxies.values()
    assert isinstance(first, Proxy)
    assert isinstance(second, Proxy)
    return first, second


def with_joining(facts: Facts, like: str, name: str, number: int) -> Facts:
    """Given facts, return them with another database machine that takes the cluster's data just now."""
    machine = facts.machines[like]
    assert machine.stamp is not None
    stamp = replace(machine.stamp, machine=name, vmid=1299 + number, phase=Phase.BUILDING)
    joining = replace(
        machine, name=name, vmid=1299 + number, stamp=stamp, address=f"10.77.3.{10 + number}", joining=True
    )
    return replace(facts, machines={**facts.machines, name: joining})


def test_a_dead_member_that_is_one_too_many_is_removed() -> None:
    platform = platform_with_databases()
    facts = facts_with_databases(platform, count=5)
    facts = without(platform, facts, "shop-db-2", lambda m: replace(m, running=False, ssh_open=False))
    facts, _ = follow(platform, facts, lambda f: plan_tiers(platform, f, {"db": 3}), random.Random(1))
    assert len(members(facts)) == 3
    assert "shop-db-2" not in facts.machines


def test_a_silent_member_that_runs_is_not_removed() -> None:
    facts = facts_with_databases(platform_with_databases(), count=5)
    assert facts.databases is not None
    silent = {**facts.databases.members, "shop-db-5": Unknown("timed out")}
    facts = replace(facts, databases=replace(facts.databases, members=silent))
    assert "database-unreachable" in refusals(facts, {"db": 3})


def test_a_donor_that_the_proxies_leave_alone_holds_nobody_up_while_another_joins() -> None:
    platform = platform_with_databases()
    facts = facts_with_databases(platform)
    cluster = facts.databases
    assert cluster is not None
    giving = cluster.members["shop-db-3"]
    assert isinstance(giving, Member)
    first, second = (
        replace(proxy, backends={**proxy.backends, "shop-db-3": Backend("10.77.3.13", "down", 0)})
        for proxy in proxies_of(facts)
    )
    facts = with_proxies(facts, first, second)
    assert facts.databases is not None
    gives = {**cluster.members, "shop-db-3": replace(giving, state=DONOR, busy=("a copy of the whole machine",))}
    facts = replace(facts, databases=replace(facts.databases, members=gives))
    assert "proxies-disagree" in refusals(facts, {"db": 5})
    facts = with_joining(facts, "shop-db-3", "shop-db-4", 4)
    assert refusals(facts, {"db": 5}) == set()


def test_a_writer_that_was_drained_on_one_proxy_only_is_drained_on_all() -> None:
    platform = platform_with_databases()
    first, second = proxies_of(facts_with_databases(platform))
    drained = {**first.backends, "shop-db-1": Backend("10.77.3.11", "drained", 0)}
    facts = with_proxies(facts_with_databases(platform), replace(first, writer="shop-db-2", backends=drained), second)
    plan = plan_tiers(platform, facts, {"db": 3}, frozenset({"shop-db-1"}))
    assert not plan.refusals
    assert "withdraw shop-db-1" in {step.key for step in plan.steps}


def test_proxies_with_other_orders_are_given_that_of_the_one_in_use() -> None:
    platform = platform_with_databases()
    first, second = proxies_of(facts_with_databases(platform))
    facts = with_proxies(facts_with_databases(platform), replace(first, writer="shop-db-3"), second)
    plan = plan_tiers(platform, facts, {"db": 3})
    assert [step.key for step in plan.steps] == ["restore shop-db-3"]  # the first proxy has the address
    facts, _ = follow(platform, facts, lambda f: replace(plan_tiers(platform, f, {"db": 3}), refusals=()),
                      random.Random(1))  # fmt: skip
    assert {proxy.writer for proxy in proxies_of(facts)} == {"shop-db-3"}
    down = {**second.backends, "shop-db-3": Backend("10.77.3.13", "down", 0)}
    facts = with_proxies(facts, replace(first, writer="shop-db-3"), replace(second, backends=down))
    assert not plan_tiers(platform, facts, {"db": 3}).steps, "their checks differ, not their orders"


def by_hand(facts: Facts, name: str, status: str) -> Facts:
    """Given facts, return them with a machine otherwise in the first proxy's list; "" is not in it."""
    first, second = proxies_of(facts)
    backends = {key: backend for key, backend in first.backends.items() if key != name}
    if status:
        backends[name] = Backend(f"10.77.3.{10 + number_of(name)}", status, 0)
    return with_proxies(facts, replace(first, writer=next(iter(backends)), backends=backends), second)


@pytest.mark.parametrize("status", ["drained", ""])
def test_a_plan_for_the_proxies_alone_gives_members_back_their_place_in_the_lists(status: str) -> None:
    platform = platform_with_databases()
    facts = by_hand(facts_with_databases(platform), "shop-db-2", status)
    replaced = frozenset({"shop-proxy-2"})
    plan = plan_tiers(platform, facts, {"proxy": 2}, replaced)
    assert {refusal.reference for refusal in plan.refusals} == {"proxies-disagree"}
    assert "restore shop-db-2" in {step.key for step in heads(plan, frozenset())}
    assert ("restore", "shop-db-2") in {(change.kind, change.machine) for change in plan.changes}
    _, done = follow(platform, facts, lambda f: replace(plan_tiers(platform, f, {"proxy": 2}, replaced), refusals=()),
                     random.Random(1))  # fmt: skip
    assert "await-destroy shop-proxy-2" in done
    assert not [step for step in plan_tiers(platform, facts, {"web": 3}).steps if step.target == "shop-db-2"]


def test_a_plan_for_the_proxies_alone_makes_one_order_of_two_and_leaves_alone_who_leaves() -> None:
    platform = platform_with_databases()
    facts = facts_with_databases(platform)
    first, second = proxies_of(facts)
    plan = plan_tiers(platform, with_proxies(facts, replace(first, writer="shop-db-3"), second), {"proxy": 2})
    assert [step.key for step in plan.steps] == ["restore shop-db-3"]
    leaving = facts.machines["shop-db-2"]
    assert leaving.stamp is not None
    leaving = replace(leaving, stamp=replace(leaving.stamp, phase=Phase.DRAINING))
    facts = replace(facts, machines={**facts.machines, "shop-db-2": leaving})
    assert not plan_tiers(platform, by_hand(facts, "shop-db-2", "drained"), {"proxy": 2}).steps
    assert facts.databases is not None
    silent = dict.fromkeys(facts.databases.proxies, Unknown("no answer in time"))
    facts = replace(facts, databases=replace(facts.databases, proxies=silent))
    steps = plan_tiers(platform, facts, {"proxy": 2}).steps
    assert "restore" not in {step.action for step in steps}, "which list is another one, nobody can tell"


def test_a_server_without_a_machine_is_no_obstacle_to_taking_it_out_of_a_list() -> None:
    platform = platform_with_databases()
    facts = by_hand(facts_with_databases(platform), "shop-db-9", "down")
    assert [step.key for step in plan_tiers(platform, facts, {"db": 3}).steps] == ["retire shop-db-9"]
    facts, _ = follow(platform, facts, lambda f: plan_tiers(platform, f, {"db": 3}), random.Random(1))
    assert all("shop-db-9" not in proxy.backends for proxy in proxies_of(facts))
    first, second = proxies_of(by_hand(facts, "shop-db-9", "up"))
    strange = with_proxies(facts, replace(first, writer="shop-db-9"), second)
    assert refusals(strange, {"db": 3}) == {"proxies-disagree"}, "whose data the shop writes to, a person finds out"


def arrived(facts: Facts) -> Facts:
    """Given facts of three members, return them with a fourth that has all data and a place, and does not serve."""
    facts = with_joining(facts, "shop-db-3", "shop-db-4", 4)
    machine = replace(facts.machines["shop-db-4"], joining=False, warm=True)
    facts = replace(facts, machines={**facts.machines, machine.name: machine})
    cluster = facts.databases
    assert cluster is not None
    answers = _in_one_view({**cluster.members, machine.name: _synced(3)})
    listed = Backend(machine.address, "up", 0)
    first, second = (replace(proxy, backends={**proxy.backends, machine.name: listed}) for proxy in proxies_of(facts))
    fronts = {"shop-proxy-1": first, "shop-proxy-2": second}
    return replace(facts, databases=regrouped(platform_with_databases(), facts, answers, fronts))


def test_one_that_was_drained_by_hand_before_it_serves_is_admitted_anew() -> None:
    """Its proxies would never find it up, and the run would wait for that in vain."""
    platform = platform_with_databases()
    facts = arrived(facts_with_databases(platform, count=3))
    assert [step.key for step in plan_tiers(platform, facts, {"db": 5}).steps if step.target == "shop-db-4"] == [
        "serve shop-db-4"
    ]
    facts = by_hand(facts, "shop-db-4", "drained")
    plan = plan_tiers(platform, facts, {"db": 5})
    assert [step.key for step in plan.steps if step.target == "shop-db-4"] == [
        "admit shop-db-4", "await-up shop-db-4", "serve shop-db-4",
    ]  # fmt: skip
    facts, _ = follow(platform, facts, lambda f: plan_tiers(platform, f, {"db": 5}), random.Random(1))
    assert len(members(facts)) == 5


@pytest.mark.parametrize("replaced", [frozenset[str](), frozenset({"shop-db-1"})])
def test_one_that_a_hand_has_made_a_writer_before_it_serves_is_no_obstacle_to_that(replaced: frozenset[str]) -> None:
    platform = platform_with_databases()
    facts = arrived(facts_with_databases(platform))
    first, second = proxies_of(facts)
    facts = with_proxies(facts, first, replace(second, writer="shop-db-4"))
    target = {"db": 3 if replaced else 5}
    plan = plan_tiers(platform, facts, target, replaced)
    assert not plan.refusals
    assert "serve shop-db-4" in {step.key for step in heads(plan, frozenset())}


@pytest.mark.parametrize("seed", range(5))
def test_one_too_many_that_has_all_data_stays_until_the_others_are_back(seed: int) -> None:
    """Two of three members are no cluster that may lose another one."""
    platform = platform_with_databases()
    facts = arrived(facts_with_databases(platform))
    facts = without(platform, facts, "shop-db-2", lambda m: replace(m, running=False, ssh_open=False))
    assert members(facts) == {"shop-db-1", "shop-db-3", "shop-db-4"}
    lost = replace(facts.machines["shop-db-2"], power="start failed", power_attempt=ATTEMPTS)
    given_up = replace(facts, machines={**facts.machines, "shop-db-2": lost})
    assert not [step for step in plan_tiers(platform, given_up, {"db": 3}).steps if step.target == "shop-db-4"]
    facts, done = follow(platform, facts, lambda f: plan_tiers(platform, f, {"db": 3}), random.Random(seed))
    assert members(facts) == {"shop-db-1", "shop-db-2", "shop-db-3"}
    assert done.index("serve shop-db-2") < done.index("withdraw shop-db-4") < done.index("leave shop-db-4")


def test_a_member_that_is_silent_but_says_itself_that_it_is_one_is_waited_for_and_not_joined_anew() -> None:
    platform = platform_with_databases()
    facts = facts_with_databases(platform)
    assert facts.databases is not None
    silent = {**facts.databases.members, "shop-db-2": Unknown("timed out")}
    facts = replace(facts, databases=replace(facts.databases, members=silent))
    runs = {"shop-db-2": Standing(True, "11111111-2222-3333-4444-555555555555", 7, "member")}
    assert not plan_tiers(platform, replace(facts, standings=runs), {"db": 3}).steps
    runs = {"shop-db-2": Standing(True, "11111111-2222-3333-4444-555555555555", 7, "none")}
    keys = {step.key for step in plan_tiers(platform, replace(facts, standings=runs), {"db": 3}).steps}
    assert "await-sync shop-db-2" in keys


def test_the_only_member_may_give_its_data_to_the_second_one() -> None:
    """A cluster that is being made: the proxies send nobody to a donor, and there is no other."""
    platform = platform_with_databases()
    facts = facts_with_databases(platform, count=1)
    cluster = facts.databases
    assert cluster is not None
    giving = cluster.members["shop-db-1"]
    assert isinstance(giving, Member)
    down, sees_it_up = ({"shop-db-1": Backend("10.77.3.11", status, 0)} for status in ("down", "up"))
    first, second = (replace(proxy, writer="", backends=down) for proxy in proxies_of(facts))
    facts = with_proxies(facts, first, second)
    assert facts.databases is not None
    gives = {"shop-db-1": replace(giving, state=DONOR, busy=("a copy of the whole machine",))}
    facts = replace(facts, databases=replace(facts.databases, members=gives))
    assert "proxies-disagree" in refusals(facts, {"db": 3})
    assert refusals(with_joining(facts, "shop-db-1", "shop-db-2", 2), {"db": 3}) == set()
    facts = with_proxies(facts, replace(first, writer="shop-db-1", backends=sees_it_up), second)
    assert refusals(with_joining(facts, "shop-db-1", "shop-db-2", 2), {"db": 3}) == set(), "the first sees its end"
    facts = with_proxies(facts, replace(first, writer="shop-db-9"), second)
    assert refusals(with_joining(facts, "shop-db-1", "shop-db-2", 2), {"db": 3}) == {"proxies-disagree"}


UUID, OTHER = "11111111-2222-3333-4444-555555555555", "99999999-2222-3333-4444-555555555555"


def one_left(stands: Standing | Unknown, phase: Phase = Phase.SERVING) -> Facts:
    """Facts of a cluster of which the first is left, at transaction 1; the others' databases stand so."""
    platform = platform_with_databases()
    facts = facts_with_databases(platform)
    for name in ("shop-db-2", "shop-db-3"):
        stamp = facts.machines[name].stamp
        assert stamp is not None
        changed = replace(stamp, phase=phase)
        facts = without(platform, facts, name, lambda m, s=changed: replace(m, stamp=s, health="down"))  # type: ignore[misc]
    return replace(facts, standings={"shop-db-2": stands, "shop-db-3": stands})


@pytest.mark.parametrize(
    ("stands", "phase", "found"),
    [
        (Standing(False, UUID, 0, "none"), Phase.SERVING, set()),  # of an older view of the same cluster
        (Standing(False, UUID, 1, "none"), Phase.SERVING, set()),
        (Standing(False, UUID, -1, "none"), Phase.SERVING, set()),  # killed while it took over all data
        (Standing(False, NEW, -1, "none"), Phase.SERVING, set()),  # its machine was made anew
        (Standing(True, OTHER, 900, "none"), Phase.SERVING, set()),  # what it holds changes just now
        (Unknown("ended with 127: there is no such program"), Phase.SERVING, set()),
        (Standing(False, OTHER, 0, "none"), Phase.BUILDING, set()),  # a cluster that was begun, and never served
        (Standing(False, OTHER, 0, "none"), Phase.SERVING, {"recovery-uuids-differ"}),
        (Standing(False, OTHER, 900, "none"), Phase.SERVING, {"recovery-uuids-differ"}),
        (Standing(False, UUID, 2, "none"), Phase.SERVING, {"recovery-newer-data"}),
        (Standing(False, UUID, 900, "none"), Phase.BUILDING, {"recovery-newer-data"}),
    ],
)
def test_nobody_joins_whose_data_the_cluster_lacks(stands: Standing | Unknown, phase: Phase, found: set[str]) -> None:
    facts = one_left(stands, phase)
    plan = plan_tiers(platform_with_databases(), facts, {"db": 3})
    assert "join shop-db-2" in {step.key for step in plan.steps}, "what would be done is shown"
    assert {refusal.reference for refusal in plan.refusals} == found


def while_one_joins(writers: tuple[str, str], giving: str = "", **seen: str) -> Facts:
    """Facts of a cluster that a fourth one joins: the proxies' writers, the donor, and what they see of members."""
    facts = facts_with_databases(platform_with_databases())
    fronts = tuple(
        replace(proxy, writer=writer, backends={
            name: replace(backend, status=seen.get(name.replace("-", "_"), "up"))
            for name, backend in proxy.backends.items() if seen.get(name.replace("-", "_")) != "gone"
        })
        for proxy, writer in zip(proxies_of(facts), writers, strict=True)
    )  # fmt: skip
    facts = with_proxies(facts, fronts[0], fronts[1])
    assert facts.databases is not None
    answers = {
        name: replace(member, state=DONOR) if isinstance(member, Member) and name == giving else member
        for name, member in facts.databases.members.items()
    }
    return with_joining(
        replace(facts, databases=replace(facts.databases, members=answers)), "shop-db-3", "shop-db-4", 4
    )


ALIKE = ("shop-db-1", "shop-db-1")


@pytest.mark.parametrize(
    ("facts", "closed"),
    [
        (while_one_joins(ALIKE), False),
        (while_one_joins(ALIKE, "shop-db-3", shop_db_3="down"), False),
        (while_one_joins(ALIKE, "shop-db-3"), False),  # one proxy after the other sees that it gives its data away
        (while_one_joins(ALIKE, shop_db_3="down"), False),  # ... and that it did
        (while_one_joins(("shop-db-2", "shop-db-2"), "shop-db-1", shop_db_1="down"), False),
        (while_one_joins(("shop-db-1", "shop-db-2"), "shop-db-3", shop_db_3="down"), True),
        (while_one_joins(("shop-db-1", "shop-db-2"), "shop-db-1"), True),
        (while_one_joins(("", ""), "shop-db-3", shop_db_3="down"), True),
        (while_one_joins(("shop-db-1", ""), "shop-db-3", shop_db_3="down"), True),
        (while_one_joins(ALIKE, "shop-db-3", shop_db_3="down", shop_db_2="down"), True),
        (while_one_joins(ALIKE, "shop-db-3", shop_db_3="drained"), True),
        (while_one_joins(ALIKE, "shop-db-3", shop_db_3="gone"), True),
    ],
)
def test_while_one_joins_the_proxies_still_send_all_writes_to_one(facts: Facts, closed: bool) -> None:
    assert refusals(facts, {"db": 5}) == ({"proxies-disagree"} if closed else set())


def behind_proxysql(phase: Phase, status: str, maintenance: str, dead: bool = False) -> set[str]:
    """Return the steps on the fourth and fifth of five members that are to be three, as ProxySQL shows the fifth."""
    platform = platform_with_databases()
    assert platform.database is not None
    database = replace(platform.database, cluster=replace(PERCONA, proxy="proxysql"))
    platform = replace(platform, database=database)
    facts = facts_with_databases(platform, count=5)
    machine, cluster = facts.machines["shop-db-5"], facts.databases
    assert machine.stamp is not None
    assert cluster is not None
    answer = cluster.members["shop-db-5"]
    assert isinstance(answer, Member)
    answer = replace(answer, switches={**answer.switches, "pxc_maint_mode": maintenance})
    gone = {"running": not dead, "ssh_open": not dead}
    machines = {**facts.machines, "shop-db-5": replace(machine, stamp=replace(machine.stamp, phase=phase), **gone)}
    answers = {**cluster.members, "shop-db-5": Unknown("no answer") if dead else answer}
    first, second = proxies_of(facts)
    seen = {**first.backends, "shop-db-5": Backend("10.77.3.15", status, 0)}
    fronts = {"shop-proxy-1": replace(first, backends=seen), "shop-proxy-2": replace(second, backends=seen)}
    facts = replace(facts, machines=machines, quiet_since={"shop-db-5": facts.at - 60})
    facts = replace(facts, databases=regrouped(platform, facts, answers, fronts))
    plan = plan_tiers(platform, facts, {"db": 3})
    return {step.key for step in plan.steps if step.target == "shop-db-5"} | {r.reference for r in plan.refusals}


def test_behind_proxysql_a_leaving_member_is_drained_when_it_is_down_for_its_own_switch() -> None:
    drained = behind_proxysql(Phase.DRAINING, "down", "MAINTENANCE")
    assert "withdraw shop-db-5" not in drained
    assert {"retire shop-db-5", "leave shop-db-5"} <= drained


def test_a_leaving_member_that_is_not_switched_out_yet_is_not_drained() -> None:
    """As a run leaves it that died between writing down that it leaves and switching it; or its proxies look later."""
    assert "withdraw shop-db-5" in behind_proxysql(Phase.DRAINING, "up", "DISABLED")
    assert "withdraw shop-db-5" in behind_proxysql(Phase.DRAINING, "up", "MAINTENANCE")
    assert "withdraw shop-db-5" in behind_proxysql(Phase.DRAINING, "down", "DISABLED")


def test_a_leaving_member_that_died_is_not_waited_for_to_be_switched_out() -> None:
    steps = behind_proxysql(Phase.DRAINING, "down", "DISABLED", dead=True)
    assert "withdraw shop-db-5" not in steps
    assert "retire shop-db-5" in steps


def test_a_serving_member_in_maintenance_is_somebody_s_work() -> None:
    assert "galera-maintenance" in behind_proxysql(Phase.SERVING, "down", "MAINTENANCE")
