"""Each gate broken alone gives exactly its own refusal; a sound platform gives none."""

from dataclasses import replace
from typing import Any

import pytest
from platforms import AT, make_platform, serving, sound_facts

from thems_jobs.core import gates
from thems_jobs.core.facts import Balancer, Facts, Node, Server, Storage, Stranger, TemplateImage, Unknown
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
