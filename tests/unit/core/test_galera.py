"""Each condition of the database cluster broken alone gives exactly its refusal; a missing fact does, too."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from clusters import (
    MIB,
    PERCONA,
    PROXIES,
    SETTINGS,
    UUID,
    make_cluster,
    make_member,
    make_proxy,
    names,
    with_backend,
    with_member,
    with_proxy,
    with_switch,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from thems_jobs.core.facts import Backend, Cluster, Unknown
from thems_jobs.core.galera import CONDITIONS, Asked, conditions, half_way, refusals, verdict
from thems_jobs.core.platform import DatabaseCluster
from thems_jobs.core.rejoin import forecast

NONE = Asked()
HOUR_S = 3600.0
Breaking = Callable[[Cluster], Cluster]
OTHER = "0b1dfeed-c9e1-11f0-8000-0242ac110003"


def references(
    cluster: Cluster, asked: Asked = NONE, allow: Any = frozenset(), of: DatabaseCluster = SETTINGS
) -> list[str]:
    return sorted({refusal.reference for refusal in verdict(of, cluster, asked, allow)})


def member(**changes: Any) -> Breaking:
    return lambda cluster: with_member(cluster, "shop-db-2", **changes)


def switch(**changes: str | None) -> Breaking:
    return lambda cluster: with_switch(cluster, "shop-db-2", **changes)


def proxy(**changes: Any) -> Breaking:
    return lambda cluster: with_proxy(cluster, "shop-proxy-2", **changes)


def backend(**changes: Any) -> Breaking:
    return lambda cluster: with_backend(cluster, "shop-proxy-2", "shop-db-2", **changes)


def cluster_(**changes: Any) -> Breaking:
    return lambda cluster: replace(cluster, **changes)


def silent_member(cluster: Cluster) -> Cluster:
    return replace(cluster, members={**cluster.members, "shop-db-2": Unknown("timed out")})


def silent_proxy(cluster: Cluster) -> Cluster:
    return replace(cluster, proxies={**cluster.proxies, "shop-proxy-2": Unknown("no route to host")})


def stranger(cluster: Cluster) -> Cluster:
    return with_proxy(cluster, "shop-proxy-2", backends={**make_proxy().backends, "old-db": Backend("x", "up", 0)})


def unlisted(cluster: Cluster) -> Cluster:
    backends = {name: seen for name, seen in make_proxy().backends.items() if name != "shop-db-3"}
    return with_proxy(cluster, "shop-proxy-2", backends=backends)


BROKEN: list[tuple[str, str, Breaking]] = [
    ("a member is silent", "database-unreachable", silent_member),
    ("a proxy is silent", "proxy-unreachable", silent_proxy),
    ("no proxy is known", "proxy-unreachable", cluster_(proxies={}, holders=())),
    ("the silent proxy holds the address", "proxy-unreachable", lambda c: replace(silent_proxy(c), holders=())),
    ("non-Primary", "galera-not-primary", member(status="non-Primary")),
    ("status not told", "galera-not-primary", member(status=None)),
    ("another uuid", "galera-views-differ", member(uuid=OTHER)),
    ("another view", "galera-views-differ", member(view=8)),
    ("the index of another", "galera-views-differ", member(index=0)),
    ("uuid not told", "galera-views-differ", member(uuid=None)),
    ("view not told", "galera-views-differ", member(view=None)),
    ("index not told", "galera-views-differ", member(index=None)),
    ("one counts fewer", "galera-size", member(size=2)),
    ("one counts more", "galera-size", member(size=4)),
    ("size not told", "galera-size", member(size=None)),
    ("a donor", "galera-not-synced", member(state=2)),
    ("a joiner", "galera-not-synced", member(state=1)),
    ("an unheard-of state", "galera-not-synced", member(state=9)),
    ("state not told", "galera-not-synced", member(state=None)),
    ("not connected", "galera-not-ready", member(connected=False)),
    ("not ready", "galera-not-ready", member(ready=False)),
    ("connected not told", "galera-not-ready", member(connected=None)),
    ("ready not told", "galera-not-ready", member(ready=None)),
    ("rejects queries", "galera-maintenance", switch(wsrep_reject_queries="ALL")),
    ("desynced", "galera-maintenance", switch(wsrep_desync="ON")),
    ("rejects as a donor", "galera-maintenance", switch(wsrep_sst_donor_rejects_queries="ON")),
    ("rejecting not told", "galera-maintenance", switch(wsrep_reject_queries=None)),
    ("desync not told", "galera-maintenance", switch(wsrep_desync=None)),
    ("rejecting as a donor not told", "galera-maintenance", switch(wsrep_sst_donor_rejects_queries=None)),
    ("a long queue", "galera-lagging", member(receive_queue=10.1)),
    ("writers stopped", "galera-lagging", member(flow_control_ratio=0.06)),
    ("queue not told", "galera-lagging", member(receive_queue=None)),
    ("flow control not told", "galera-lagging", member(flow_control_ratio=None)),
    ("a backup", "galera-busy", member(busy=("backup by mariabackup",))),
    ("sessions not told", "galera-busy", member(busy=None)),
    ("another writer", "proxies-disagree", proxy(writer="shop-db-3")),
    ("no writer", "proxies-disagree", proxy(writer="")),
    ("a writer that is no member", "proxies-disagree", proxy(writer="shop-db-9")),
    ("a reader down", "proxies-disagree", backend(status="down")),
    ("a reader drained", "proxies-disagree", backend(status="drained")),
    ("a stranger in a list", "proxies-disagree", stranger),
    ("a member not in a list", "proxies-disagree", unlisted),
    ("two on one node", "galera-placement", cluster_(hosts={"shop-db-1": "pve0", "shop-db-2": "pve0",
                                                            "shop-db-3": "pve2"})),
    ("a node not told", "galera-placement", cluster_(hosts={"shop-db-1": "pve0", "shop-db-2": "pve1"})),
    ("nobody holds the address", "vrrp-holder", cluster_(holders=())),
    ("two hold the address", "vrrp-holder", cluster_(holders=PROXIES)),
]  # fmt: skip


def test_a_sound_cluster_is_refused_nothing() -> None:
    for count in (3, 5, 9):
        assert verdict(SETTINGS, make_cluster(count), NONE) == ()


@pytest.mark.parametrize(("reference", "breaking"), [row[1:] for row in BROKEN], ids=[row[0] for row in BROKEN])
def test_one_thing_wrong_is_exactly_its_refusal(reference: str, breaking: Breaking) -> None:
    assert references(breaking(make_cluster())) == [reference]


def test_every_condition_is_broken_in_the_table_or_asked_of_an_action() -> None:
    of_actions = {"galera-majority", "galera-outage-needs-sst", "galera-writer"}
    assert {row[1] for row in BROKEN} | of_actions == set(CONDITIONS)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from([row for row in BROKEN if row[0] not in ("a member is silent",)]), max_size=4))
def test_all_refusals_are_told_whatever_else_is_wrong(rows: list[tuple[str, str, Breaking]]) -> None:
    """A later breaking may undo an earlier one of the same fact; the last one is always told."""
    cluster = make_cluster()
    for _, _, breaking in rows:
        try:
            cluster = breaking(cluster)
        except (AssertionError, KeyError):
            return  # it breaks something that another one has taken away
    found = references(cluster)
    assert (found == []) == (not rows)
    if rows:
        last = rows[-1][1]
        assert last in found or (last == "vrrp-holder" and "proxy-unreachable" in found)


def test_the_verdict_is_the_table() -> None:
    for _, _, breaking in BROKEN:
        checks = conditions(SETTINGS, breaking(make_cluster()), NONE)
        assert refusals(checks) == verdict(SETTINGS, breaking(make_cluster()), NONE)
        assert all(check.measured and check.required for check in checks)
        assert all(check.remedy for check in checks if check.ok is False)


def test_the_table_has_every_condition_for_every_member_and_proxy() -> None:
    checks = conditions(SETTINGS, make_cluster(9), Asked("restart", "shop-db-9", 60))
    per_member = [ref for ref in CONDITIONS if ref.startswith(("galera", "database"))]
    whole = {"galera-writer", "galera-majority", "galera-outage-needs-sst"}
    for reference in per_member:
        subjects = [check.subject for check in checks if check.reference == reference]
        assert len(subjects) == (1 if reference in whole else 9), reference
    assert [check.subject for check in checks if check.reference == "proxies-disagree"] == [*PROXIES]


def test_of_a_silent_member_nothing_else_is_said() -> None:
    checks = conditions(SETTINGS, silent_member(make_cluster()), NONE)
    silent = [check for check in checks if check.subject == "shop-db-2" and check.reference != "galera-placement"]
    assert [check.reference for check in silent if check.ok is False] == ["database-unreachable"]
    assert all(check.ok is None for check in silent if check.reference != "database-unreachable")


def test_two_partitions_that_both_look_well_are_refused() -> None:
    """Each side is Primary, Synced and has a writer that its own proxy names: only together they are seen to be two."""
    left = {name: make_member(3, index, view=12) for index, name in enumerate(names(3))}
    right = {f"shop-db-{4 + index}": make_member(2, index, view=9) for index in range(2)}
    proxies = {PROXIES[0]: make_proxy(5, "shop-db-1"), PROXIES[1]: make_proxy(5, "shop-db-4")}
    split = replace(make_cluster(5), members={**left, **right}, proxies=proxies, holders=PROXIES)
    assert references(split) == ["galera-size", "galera-views-differ", "proxies-disagree", "vrrp-holder"]


def test_two_partitions_of_the_same_size_and_view_are_refused() -> None:
    """After a cut through the middle both sides count the same; their indexes and sizes tell."""
    members = {name: make_member(2, index % 2) for index, name in enumerate(names(4))}
    split = replace(make_cluster(4), members=members)
    assert {"galera-size", "galera-views-differ", "galera-majority"} <= set(references(split))


def test_two_clusters_are_refused_even_if_each_counts_as_many_as_expected() -> None:
    members = {name: make_member(3, index, uuid=UUID if index else OTHER) for index, name in enumerate(names(3))}
    assert references(replace(make_cluster(), members=members)) == ["galera-views-differ"]


def test_when_halves_disagree_neither_is_taken_for_right() -> None:
    members = {name: make_member(4, index, view=7 + index // 2) for index, name in enumerate(names(4))}
    checks = conditions(SETTINGS, replace(make_cluster(4), members=members), NONE)
    assert [check.ok for check in checks if check.reference == "galera-views-differ"] == [False] * 4


# Percona


def test_percona_has_a_switch_of_its_own() -> None:
    cluster = make_cluster()
    assert references(cluster, of=PERCONA) == ["galera-maintenance"], "a missing pxc_maint_mode is a missing fact"
    for name in names(3):
        cluster = with_switch(cluster, name, pxc_maint_mode="DISABLED")
    assert references(cluster, of=PERCONA) == []
    for mode in ("MAINTENANCE", "SHUTDOWN"):
        assert references(with_switch(cluster, "shop-db-3", pxc_maint_mode=mode), of=PERCONA) == ["galera-maintenance"]


# What is to be done


@pytest.mark.parametrize(
    ("count", "asked", "found"),
    [
        (3, Asked("restart", "shop-db-3", 60), []),
        (3, Asked("upgrade", "shop-db-3", 60), []),
        (5, Asked("remove", "shop-db-5"), ["galera-majority"]),  # four
        (5, Asked("remove", "shop-db-5", target=3), []),
        (4, Asked("remove", "shop-db-4", target=3), []),
        (4, Asked("remove", "shop-db-4"), []),
        (3, Asked("remove", "shop-db-3"), ["galera-majority"]),
        (3, Asked("remove", "shop-db-3", target=1), ["galera-majority"]),
        (3, Asked("add", "shop-db-4"), ["galera-majority"]),
        (3, Asked("add", "shop-db-4", target=5), []),
        (3, Asked("add", "shop-db-4", target=4), ["galera-majority"]),
        (4, Asked("add", "shop-db-5"), []),
        (2, Asked("restart", "shop-db-2", 60, target=3), ["galera-majority"]),  # a lone survivor
        (2, Asked("remove", "shop-db-2", target=3), ["galera-majority"]),
        (1, Asked("add", "shop-db-2", target=3), []),  # a cluster that is being made
        (2, Asked("none"), ["galera-majority"]),
        (4, Asked("none"), ["galera-majority"]),
        (4, Asked("none", target=5), []),
        (3, Asked("restart", "shop-db-1", 60), ["galera-writer"]),
        (3, Asked("upgrade", "shop-db-1", 60), ["galera-writer"]),
        (5, Asked("remove", "shop-db-1", target=3), ["galera-writer"]),
        (3, Asked("restart", "shop-db-9", 60), ["database-unreachable"]),
        (3, Asked("restart", "shop-db-3", 1e6), ["galera-outage-needs-sst"]),
        (3, Asked("upgrade", "shop-db-3", 1e6), ["galera-outage-needs-sst"]),
    ],
    ids=str,
)
def test_what_is_asked_decides(count: int, asked: Asked, found: list[str]) -> None:
    new = {asked.name: "pve9"} if asked.action == "add" else {}
    cluster = make_cluster(count)
    cluster = replace(cluster, hosts={**cluster.hosts, **new})
    assert references(cluster, asked) == found


def test_a_new_member_goes_to_a_free_node_while_there_is_one() -> None:
    asked = Asked("add", "shop-db-4", target=5)
    cluster = replace(make_cluster(), nodes=("pve0", "pve1", "pve2", "pve3"))

    def placed(node: str, cluster: Cluster = cluster) -> list[str]:
        return references(replace(cluster, hosts={**cluster.hosts, "shop-db-4": node}), asked)

    assert placed("pve3") == []
    assert placed("pve0") == ["galera-placement"]
    assert references(cluster, asked) == ["galera-placement"], "where it will stand is a fact like the others"
    assert placed("pve0", make_cluster()) == [], "no node is free: it cannot be avoided"


def test_removing_one_that_shares_a_node_mends_it() -> None:
    hosts = {"shop-db-1": "pve0", "shop-db-2": "pve1", "shop-db-3": "pve2", "shop-db-4": "pve3", "shop-db-5": "pve3"}
    cluster = replace(make_cluster(5), hosts=hosts)
    assert references(cluster) == ["galera-placement"]
    assert references(cluster, Asked("remove", "shop-db-5", target=3)) == []


# What is accepted


def test_a_member_that_a_plan_works_on_may_be_half_way() -> None:
    cluster = with_switch(make_cluster(), "shop-db-3", wsrep_reject_queries="ALL", wsrep_desync="ON")
    cluster = with_member(cluster, "shop-db-3", state=2, receive_queue=900.0, busy=("backup",))
    for name in PROXIES:
        cluster = with_backend(cluster, name, "shop-db-3", status="drained")
    working = ["galera-busy", "galera-lagging", "galera-maintenance", "galera-not-synced", "proxies-disagree"]
    assert references(cluster) == working
    assert references(cluster, allow=half_way("shop-db-2")) == working
    assert references(cluster, allow=half_way("shop-db-3")) == []


@pytest.mark.parametrize("reference", ["galera-not-primary", "galera-views-differ", "galera-size", "galera-not-ready"])
def test_half_way_is_not_outside_of_the_cluster(reference: str) -> None:
    breaking = next(row[2] for row in BROKEN if row[1] == reference)
    assert references(breaking(make_cluster()), allow=half_way("shop-db-2")) == [reference]


def test_of_states_only_the_donor_can_be_accepted() -> None:
    for state, found in (
        (2, []),
        (1, ["galera-not-synced"]),
        (3, ["galera-not-synced"]),
        (None, ["galera-not-synced"]),
    ):
        cluster = with_member(make_cluster(), "shop-db-2", state=state)
        assert references(cluster, allow={("galera-not-synced", "shop-db-2")}) == found


def test_any_other_outcome_can_be_accepted_by_name() -> None:
    asked = Asked("upgrade", "shop-db-3", 1e6)
    assert references(make_cluster(), asked, {("galera-outage-needs-sst", "shop-db-3")}) == []
    assert references(make_cluster(), asked, {("galera-outage-needs-sst", "shop-db-2")}) == ["galera-outage-needs-sst"]


def test_members_on_their_way_may_be_counted_or_not() -> None:
    for size in (3, 4):
        members = {name: make_member(size, index) for index, name in enumerate(names(3))}
        backends = {**make_proxy().backends, "shop-db-4": Backend("10.77.3.14", "down", 0)}
        proxies = {name: make_proxy(backends=backends) for name in PROXIES}
        moving = replace(make_cluster(), members=members, proxies=proxies, moving=("shop-db-4",))
        assert references(moving, Asked(target=5)) == []
    members = {name: make_member(5, index) for index, name in enumerate(names(3))}
    assert references(replace(make_cluster(), members=members, moving=("shop-db-4",))) == ["galera-size"]


# How a member comes back


def test_a_short_outage_is_an_ist_and_a_long_one_an_sst() -> None:
    short, long = (forecast(make_cluster(), "shop-db-3", seconds) for seconds in (600, 1200))
    assert (short.by, short.bytes) == ("IST", 60_000_000)
    assert "57.2 MiB written in 600 s fit 102 MiB of shop-db-1" in short.why
    assert (long.by, long.bytes) == ("SST", 2_000 * MIB)
    assert long.seconds == pytest.approx(50)
    assert "114 MiB written in 1200 s, 102 MiB kept by shop-db-1" in long.why


def test_the_donor_that_keeps_most_is_taken() -> None:
    cluster = with_member(make_cluster(), "shop-db-2", gcache_bytes=1024 * MIB)
    assert forecast(cluster, "shop-db-3", HOUR_S).by == "IST"
    assert "of shop-db-2" in forecast(cluster, "shop-db-3", HOUR_S).why
    only_itself = with_member(make_cluster(), "shop-db-3", gcache_bytes=1024 * MIB)
    assert forecast(only_itself, "shop-db-3", HOUR_S).by == "SST", "nobody is its own donor"


def test_the_fastest_write_rate_that_anybody_sees_counts() -> None:
    cluster = with_member(make_cluster(), "shop-db-2", write_bytes_s=1e7)
    assert forecast(cluster, "shop-db-3", 60).by == "SST"


def test_a_donor_that_has_forgotten_what_is_missing_is_none() -> None:
    cluster = make_cluster()
    for name in ("shop-db-1", "shop-db-2"):
        cluster = with_member(cluster, name, gcache_downto=90_002)
    assert forecast(cluster, "shop-db-3", 1).by == "SST"
    cluster = with_member(cluster, "shop-db-2", gcache_downto=90_001)
    assert forecast(cluster, "shop-db-3", 1).by == "IST"
    cluster = with_member(cluster, "shop-db-2", gcache_downto=None)
    assert forecast(cluster, "shop-db-3", 1).by == "IST", "an empty cache keeps what is written from now on"


@pytest.mark.parametrize("fact", ["seqno", "write_bytes_s", "gcache_bytes"])
def test_what_is_not_known_is_taken_for_the_worse(fact: str) -> None:
    cluster = make_cluster()
    for name in names(3):
        cluster = with_member(cluster, name, **{fact: None})
    assert forecast(cluster, "shop-db-3", 1).by == "SST"
    assert references(cluster, Asked("restart", "shop-db-3", 1)) == ["galera-outage-needs-sst"]


def test_a_new_member_copies_everything() -> None:
    rejoin = forecast(make_cluster(), "shop-db-4", 0)
    assert (rejoin.by, rejoin.bytes) == ("SST", 2_000 * MIB)
    bare = make_cluster()
    for name in names(3):
        bare = with_member(bare, name, data_bytes=None)
    assert (forecast(bare, "shop-db-4", 0).seconds, forecast(bare, "shop-db-4", 0).bytes) == (None, None)


@given(st.floats(0, 1e5), st.floats(0, 1e5), st.floats(0, 1e9))
def test_a_longer_outage_is_never_better(one: float, other: float, rate: float) -> None:
    cluster = with_member(make_cluster(), "shop-db-1", write_bytes_s=rate)
    short, long = (forecast(cluster, "shop-db-3", seconds) for seconds in sorted((one, other)))
    assert (short.by, long.by) != ("SST", "IST")
