"""Each gate broken alone gives exactly its own refusal; a sound platform gives none."""

from dataclasses import replace
from typing import Any

import pytest
from platforms import AT, make_platform, serving, sound_facts

from thems_jobs.core import gates
from thems_jobs.core.facts import Balancer, Facts, Node, Phase, Server, Storage, Stranger, TemplateImage, Unknown
from thems_jobs.core.fleet import plan_tiers
from thems_jobs.core.plan import Action
from thems_jobs.core.platform import Database, Platform
from thems_jobs.core.record import Lease

PLATFORM = make_platform()
DATABASE = make_platform(database=Database(max_connections=80))  # room for six machines of ten workers
NARROW = make_platform(maximum=3, web_addresses="10.77.1.11-10.77.1.13")
FULL = {name: Node(name, True, 64, 0, 4096, 2048) for name in ("pve1", "pve2")}
SEEN = sound_facts(PLATFORM).balancers["shop-lb-1"]
assert isinstance(SEEN, Balancer)
HALF_DOWN = replace(SEEN, servers={**SEEN.servers, "shop-web-1": replace(SEEN.servers["shop-web-1"], up=False)})
BY_HAND = Balancer({**SEEN.servers, "test-server": Server("10.0.0.1:80", 1, True, 0)}, "")


def references(platform: Platform, facts: Facts, **wanted: int) -> list[str]:
    return sorted({refusal.reference for refusal in plan_tiers(platform, facts, wanted or {"web": 6}).refusals})


def test_a_sound_platform_is_refused_nothing() -> None:
    assert references(PLATFORM, sound_facts(PLATFORM)) == []


@pytest.mark.parametrize(
    ("reference", "changes"),
    [
        ("no-quorum", {"quorate": False}),
        ("record-unreadable", {"record": Unknown("its description holds no record")}),
        ("foreign-machine", {"strangers": (Stranger(1150, "postgres", "lab", "it is in pool 'lab'"),)}),
        ("template-missing", {"templates": {"lb": TemplateImage("debian", 900, "pve1", AT)}}),
        ("template-too-old", {"templates": {"web": TemplateImage("debian", 900, "pve1", AT - 36 * 86400)}}),
        ("storage-full", {"storages": tuple(Storage("shared", n, True, True, 31 * 1024) for n in ("pve1", "pve2"))}),
        ("node-capacity", {"nodes": FULL}),
        ("node-capacity", {"nodes": {}}),
        ("balancer-unreachable", {"balancers": {"shop-lb-1": SEEN, "shop-lb-2": Unknown("no route to host")}}),
        ("no-balancer", {"balancers": {}, "holders": ()}),
        ("unknown-server", {"balancers": {"shop-lb-1": BY_HAND, "shop-lb-2": SEEN}}),
        ("vrrp-holder", {"holders": ()}),
        ("vrrp-holder", {"holders": ("shop-lb-1", "shop-lb-2")}),
        ("balancers-disagree", {"balancers": {"shop-lb-1": HALF_DOWN, "shop-lb-2": SEEN}}),
        ("vmids-used-up", {"taken_vmids": frozenset(range(1100, 1200))}),
    ],
)
def test_one_thing_wrong_is_one_refusal(reference: str, changes: dict[str, Any]) -> None:
    assert references(PLATFORM, sound_facts(PLATFORM, **changes)) == [reference]


def test_storages_and_nodes_that_are_not_known_refuse() -> None:
    plan = plan_tiers(PLATFORM, sound_facts(PLATFORM, storages=()), {"web": 6})
    assert [refusal.reference for refusal in plan.refusals] == ["node-capacity"]
    assert "no node sees storage shared" in plan.refusals[0].measured


def test_all_closed_gates_are_told_not_the_first() -> None:
    facts = sound_facts(PLATFORM, quorate=False, holders=(), strangers=(Stranger(1150, "x", "", "it is in no pool"),))
    assert references(PLATFORM, facts) == ["foreign-machine", "no-quorum", "vrrp-holder"]


def test_php_workers_must_fit_the_database() -> None:
    assert references(DATABASE, sound_facts(DATABASE), web=6) == []
    assert references(DATABASE, sound_facts(DATABASE), web=7) == ["database-connections"]


def test_old_and_new_machines_overlap_at_the_database() -> None:
    facts = sound_facts(DATABASE, web=6)
    plan = plan_tiers(DATABASE, facts, {"web": 6}, frozenset({"shop-web-1"}))
    assert [refusal.reference for refusal in plan.refusals] == ["database-connections"]


def test_addresses_can_run_out() -> None:
    facts = sound_facts(NARROW, taken_addresses={"10.77.1.13": "a machine answers there"})
    assert references(NARROW, facts, web=3) == ["addresses-used-up"]


def test_claims_can_ask_for_more_than_the_maximum() -> None:
    assert references(PLATFORM, sound_facts(PLATFORM), web=9) == ["above-maximum"]


def test_too_few_may_not_stay() -> None:
    assert references(PLATFORM, sound_facts(PLATFORM, web=3), web=1) == ["below-minimum"]


def test_a_machine_on_a_node_that_is_offline_cannot_be_changed() -> None:
    nodes = {"pve1": Node("pve1", True, 64, 0, 1 << 18, 0), "pve2": Node("pve2", False)}
    facts = sound_facts(PLATFORM, web=3, nodes=nodes)
    facts = replace(facts, machines=facts.machines | {"shop-web-2": serving(PLATFORM, "web", 2, "pve2", running=False)})
    assert references(PLATFORM, facts, web=2) == ["node-offline"]
    assert references(PLATFORM, facts, web=3) == ["node-offline"]


def test_what_gives_capacity_back_passes_closed_gates() -> None:
    views = {name: replace(SEEN, servers={n: replace(s, weight=0) for n, s in SEEN.servers.items()})
             for name in ("shop-lb-1", "shop-lb-2")}  # fmt: skip
    closed = {"quorate": False, "holders": (), "strangers": (Stranger(1150, "x", "", "it is in no pool"),)}
    plan = plan_tiers(PLATFORM, sound_facts(PLATFORM, balancers=views, **closed), {"web": 2})
    assert {step.action for step in plan.steps} == {Action.RESTORE}
    assert plan.refusals == ()


def test_a_platform_without_balancers_makes_them_first() -> None:
    facts = sound_facts(PLATFORM, web=0, lb=0, holders=())
    plan = plan_tiers(PLATFORM, facts, {"web": 2, "lb": 2})
    assert plan.refusals == ()
    serve = {"serve shop-lb-1", "serve shop-lb-2"}
    assert all(serve <= step.after for step in plan.steps if step.action is Action.ADMIT)


def test_a_balancer_that_the_plan_replaces_need_not_answer() -> None:
    facts = sound_facts(PLATFORM)
    facts = replace(facts, balancers={"shop-lb-1": SEEN, "shop-lb-2": Unknown("no route to host")})
    plan = plan_tiers(PLATFORM, facts, {"web": 3, "lb": 2}, frozenset({"shop-lb-2"}))
    assert plan.refusals == ()
    first = {"serve shop-lb-3", "await-destroy shop-lb-2"}
    assert all(first <= step.after for step in plan.steps if step.action is Action.ADMIT)


def test_balancers_that_are_all_down_are_brought_up_although_nobody_holds_the_address() -> None:
    facts = sound_facts(PLATFORM, holders=(), balancers=dict.fromkeys(("shop-lb-1", "shop-lb-2"), Unknown("no route")))
    down = {name: replace(m, running=False, ssh_open=False) for name, m in facts.machines.items() if m.tier == "lb"}
    facts = replace(facts, machines={**facts.machines, **down})
    assert references(PLATFORM, facts, web=3, lb=2) == []
    assert references(PLATFORM, facts, web=3) == ["balancer-unreachable", "no-balancer"]


def test_two_tiers_do_not_get_the_same_room() -> None:
    there = 2 * 1024 + 512
    room = {"pve1": Node("pve1", True, 64, 0, 2048 + there + 1024 + 512, 0)}
    storages = (Storage("shared", "pve1", True, True, 1 << 20),)
    facts = sound_facts(PLATFORM, web=2, lb=1, nodes=room | {"pve2": Node("pve2", False)}, storages=storages)
    facts = replace(facts, machines={name: replace(m, node="pve1") for name, m in facts.machines.items()})
    assert references(PLATFORM, facts, web=3, lb=2) == []
    assert references(PLATFORM, facts, web=4, lb=2) == ["node-capacity"]


def test_a_held_lease_names_the_holder_and_how_long() -> None:
    refusal = gates.lease(Lease("token", "anna@agent-7", AT + 61.4), AT)
    assert refusal.reference == "lease-held"
    assert "anna@agent-7" in refusal.measured
    assert "61 s" in refusal.measured


def with_balancer(facts: Facts, number: int, **changes: Any) -> Facts:
    """Given facts, return them with a third balancer, which is not asked unless it serves."""
    other = serving(PLATFORM, "lb", number, **changes)
    return replace(facts, machines={**facts.machines, other.name: other})


@pytest.mark.parametrize("phase", [Phase.DRAINING, Phase.BUILDING])
def test_whoever_holds_the_address_must_be_a_balancer_that_is_asked_and_changed(phase: Phase) -> None:
    """Else machines would be stopped that its visitors still use."""
    facts = with_balancer(sound_facts(PLATFORM, web=4, holders=("shop-lb-3",)), 3, phase=phase)
    (refusal,) = plan_tiers(PLATFORM, facts, {"web": 2}).refusals
    assert refusal.reference == "vrrp-holder"
    assert refusal.measured == "held by shop-lb-3, which does not serve"


@pytest.mark.parametrize("phase", [Phase.DRAINING, Phase.BUILDING])
def test_a_holder_that_does_not_serve_gives_the_address_away_before_the_tables_are_changed(phase: Phase) -> None:
    facts = with_balancer(sound_facts(PLATFORM, web=4, holders=("shop-lb-3",)), 3, phase=phase)
    gone = serving(
        PLATFORM, "web", 4, phase=Phase.DRAINING
    )  # in no table that is asked, so nothing but the stop is left
    views = {name: replace(SEEN, servers=sound_facts(PLATFORM, web=3).balancers["shop-lb-1"].servers)  # type: ignore[union-attr]
             for name in facts.balancers}  # fmt: skip
    facts = replace(facts, machines={**facts.machines, gone.name: gone}, balancers=views)
    plan = plan_tiers(PLATFORM, facts, {"web": 2, "lb": 2})
    assert plan.refusals == ()
    later = [step for step in plan.steps if step.key in ("withdraw shop-web-3", "stop shop-web-4")]
    assert len(later) == 2
    assert all("withdraw shop-lb-3" in step.after for step in later)


def test_a_holder_that_is_being_made_serves_before_the_tables_are_changed() -> None:
    facts = with_balancer(sound_facts(PLATFORM, web=4, lb=1, holders=("shop-lb-2",)), 2, phase=Phase.BUILDING)
    plan = plan_tiers(PLATFORM, facts, {"web": 2, "lb": 2})
    assert plan.refusals == ()
    assert all("serve shop-lb-2" in step.after for step in plan.steps if step.action is Action.WITHDRAW)


def disagreeing(**changes: Any) -> Facts:
    """Facts in which shop-lb-1 finds a web machine down that shop-lb-2 finds up."""
    return sound_facts(PLATFORM, web=2, balancers={"shop-lb-1": HALF_DOWN, "shop-lb-2": SEEN}, **changes)


def test_balancers_that_disagree_are_named_with_what_each_finds() -> None:
    facts = sound_facts(PLATFORM, web=4)
    seen = facts.balancers["shop-lb-2"]
    assert isinstance(seen, Balancer)
    down = {name: replace(server, up=name in ("shop-web-3", "shop-web-4")) for name, server in seen.servers.items()}
    facts = replace(facts, balancers={"shop-lb-1": replace(seen, servers=down), "shop-lb-2": seen})
    refusals = plan_tiers(PLATFORM, facts, {"web": 2}).refusals
    assert [(refusal.subject, refusal.measured) for refusal in refusals] == [
        (name, "down for shop-lb-1, up for shop-lb-2") for name in ("shop-web-1", "shop-web-2")
    ]


def test_whoever_is_replaced_may_be_seen_otherwise_by_one_balancer() -> None:
    """That is how such a disagreement can end."""
    for name in ("shop-web-1", "shop-lb-1", "shop-lb-2"):
        plan = plan_tiers(PLATFORM, disagreeing(), {"web": 2, "lb": 2}, frozenset({name}))
        assert plan.refusals == (), name


@pytest.mark.parametrize("name", ["shop-web-1", "shop-lb-1"])
def test_who_has_only_just_begun_to_serve_may_not_be_checked_yet(name: str) -> None:
    """A run that was killed at that moment goes on."""
    facts = disagreeing()
    machine = facts.machines[name]
    assert machine.stamp is not None
    machine = replace(machine, stamp=replace(machine.stamp, since=AT - 2))
    assert references(PLATFORM, replace(facts, machines={**facts.machines, name: machine})) == []


def test_a_wrong_address_in_one_table_is_put_right_at_once() -> None:
    """It is neither nothing to do nor a reason to refuse."""
    astray = replace(SEEN, servers={**SEEN.servers, "shop-web-1": Server("10.9.9.9:80", 100, False, 0)})
    plan = plan_tiers(PLATFORM, sound_facts(PLATFORM, balancers={"shop-lb-1": astray, "shop-lb-2": SEEN}), {"web": 2})
    assert [step.key for step in plan.steps] == ["restore shop-web-1"]
    assert plan.refusals == ()
    other_port = {name: replace(server, address=f"{server.address}:8080") for name, server in SEEN.servers.items()}
    facts = sound_facts(PLATFORM, balancers={"shop-lb-1": replace(SEEN, servers=other_port), "shop-lb-2": SEEN})
    assert plan_tiers(PLATFORM, facts, {"web": 2}).steps == ()


@pytest.mark.parametrize(
    "view",
    [
        {},
        {"shop-web-1": SEEN.servers["shop-web-1"]},
        {name: replace(server, weight=0) for name, server in SEEN.servers.items()},
        {name: replace(server, weight=10) for name, server in SEEN.servers.items()},
        {**SEEN.servers, "shop-web-9": Server("10.77.1.19:80", 0, False, 0)},
    ],
)
def test_tables_that_differ_because_a_run_was_killed_between_them_are_made_alike(view: dict[str, Server]) -> None:
    facts = sound_facts(PLATFORM, balancers={"shop-lb-1": replace(SEEN, servers=view), "shop-lb-2": SEEN})
    plan = plan_tiers(PLATFORM, facts, {"web": 2})
    assert plan.steps
    assert plan.refusals == ()
