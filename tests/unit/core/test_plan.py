"""Plans as a whole: digest, heads, slots, timeline, and what single machines need."""

from dataclasses import replace

import pytest
from platforms import AT, make_platform, serving, sound_facts

from thems_jobs.core.facts import Balancer, Facts, Machine, Node, Phase, Server
from thems_jobs.core.fleet import plan_tiers
from thems_jobs.core.plan import Action, Plan, Step, Wait, chain, heads
from thems_jobs.core.record import Intent, Record
from thems_jobs.core.timeline import timeline

PLATFORM = make_platform()


def with_machine(facts: Facts, machine: Machine) -> Facts:
    return replace(facts, machines={**facts.machines, machine.name: machine})


def actions(plan: Plan, name: str) -> list[str]:
    return [str(step.action) for step in plan.steps if step.target == name]


def test_nothing_to_do_is_an_empty_plan() -> None:
    assert plan_tiers(PLATFORM, sound_facts(PLATFORM), {"web": 2, "lb": 2}) == Plan(slots={"clone shared": 4})


def test_a_new_machine_takes_every_step_in_order() -> None:
    plan = plan_tiers(PLATFORM, sound_facts(PLATFORM), {"web": 3})
    assert actions(plan, "shop-web-3") == [
        "clone", "await-clone", "configure", "start", "await-boot", "converge", "check", "admit", "await-up", "serve",
    ]  # fmt: skip
    assert actions(plan, "record") == ["reserve", "settle"]
    assert heads(plan, frozenset())[0].action is Action.RESERVE


def test_a_machine_that_leaves_is_drained_before_anything_else() -> None:
    plan = plan_tiers(PLATFORM, sound_facts(PLATFORM, web=3), {"web": 2})
    assert actions(plan, "shop-web-3") == [
        "withdraw", "await-drain", "retire", "stop", "await-stop", "destroy", "await-destroy"
    ]  # fmt: skip


def test_a_replacement_serves_before_the_old_machine_leaves_and_has_another_name() -> None:
    plan = plan_tiers(PLATFORM, sound_facts(PLATFORM), {"web": 2}, frozenset({"shop-web-1"}))
    (withdraw,) = [step for step in plan.steps if step.action is Action.WITHDRAW]
    assert withdraw.target == "shop-web-1"
    assert "serve shop-web-3" in withdraw.after


def test_a_replacement_that_is_given_up_keeps_the_old_machine() -> None:
    lost = Machine("shop-web-3", "web", 1102, "10.77.1.13", clone="no space left", clone_attempt=3)
    facts = replace(sound_facts(PLATFORM), record=Record(intents={"shop-web-3": Intent(1102, 3, AT)}))
    plan = plan_tiers(PLATFORM, with_machine(facts, lost), {"web": 2}, frozenset({"shop-web-1"}))
    assert [(refusal.reference, refusal.machine) for refusal in plan.refusals] == [("task-failed", "shop-web-3")]
    assert plan.steps == ()


def test_a_machine_that_dies_already_is_not_counted_and_another_is_made() -> None:
    dying = serving(PLATFORM, "web", 3, phase=Phase.DRAINING, running=False, ssh_open=False, power="destroying")
    plan = plan_tiers(PLATFORM, with_machine(sound_facts(PLATFORM), dying), {"web": 3})
    assert actions(plan, "shop-web-3") == ["await-destroy"]
    assert "clone" in actions(plan, "shop-web-4")


def test_a_machine_that_was_about_to_leave_is_taken_back_first() -> None:
    facts = with_machine(sound_facts(PLATFORM), serving(PLATFORM, "web", 3, phase=Phase.DRAINING, health=""))
    views = {
        name: replace(view, servers={**view.servers, "shop-web-3": Server("10.77.1.13", 0, True, 1)})
        for name, view in facts.balancers.items()
        if isinstance(view, Balancer)
    }
    plan = plan_tiers(PLATFORM, replace(facts, balancers=views), {"web": 4})
    assert plan.steps[1].key == "restore shop-web-3"
    assert "restore shop-web-3" in {step.key for step in heads(plan, frozenset())}
    assert actions(plan, "shop-web-3") == ["restore"]


def test_a_machine_that_is_shutting_down_is_let_down_and_started_again() -> None:
    down = serving(PLATFORM, "web", 2, power="stopping")
    plan = plan_tiers(PLATFORM, with_machine(sound_facts(PLATFORM), down), {"web": 2})
    assert actions(plan, "shop-web-2")[:3] == ["await-stop", "start", "await-boot"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"running": False, "ssh_open": False}, ["start", "await-boot", "converge", "check", "serve"]),
        ({"converged": "as it was"}, ["converge", "check", "serve"]),
        ({"health": "the balancers find it down"}, ["converge", "check", "serve"]),
        ({"renewed": True, "warm": True}, ["serve"]),
    ],
)
def test_what_is_wrong_with_a_serving_machine_is_mended(change: dict[str, object], expected: list[str]) -> None:
    facts = with_machine(sound_facts(PLATFORM), serving(PLATFORM, "web", 2, **change))
    assert actions(plan_tiers(PLATFORM, facts, {"web": 2}), "shop-web-2") == expected


def test_a_balancer_that_leaves_but_took_the_address_back_hands_it_over_again() -> None:
    leaving = serving(PLATFORM, "lb", 3, phase=Phase.DRAINING, health="")
    facts = replace(with_machine(sound_facts(PLATFORM), leaving), holders=("shop-lb-3",))
    assert actions(plan_tiers(PLATFORM, facts, {"lb": 2}), "shop-lb-3")[:2] == ["withdraw", "await-drain"]


def test_a_balancer_that_shuts_down_is_not_drained_again() -> None:
    leaving = serving(PLATFORM, "lb", 3, phase=Phase.DRAINING, power="stopping")
    facts = with_machine(sound_facts(PLATFORM), leaving)
    assert actions(plan_tiers(PLATFORM, facts, {"lb": 2}), "shop-lb-3")[0] == "await-stop"


def test_a_server_without_a_machine_is_taken_out_of_the_tables() -> None:
    facts = sound_facts(PLATFORM)
    ghost = {"shop-web-7": Server("10.77.1.17", 100, False, 0)}
    views = {
        n: replace(v, servers={**v.servers, **ghost}) for n, v in facts.balancers.items() if isinstance(v, Balancer)
    }
    plan = plan_tiers(PLATFORM, replace(facts, balancers=views), {"web": 2})
    assert [step.key for step in plan.steps] == ["retire shop-web-7"]


def same_but(facts: Facts) -> list[Facts]:
    """Given facts, return some that differ in what no approval is about."""
    later = replace(facts, at=facts.at + 3600, taken_vmids=facts.taken_vmids | {1102, 1103})
    measured = replace(facts, record=Record(seconds={"clone": 9.0}))
    moved = replace(facts, nodes={name: replace(node, memory_used_mib=9000) for name, node in facts.nodes.items()})
    busy = replace(facts, nodes=facts.nodes | {"pve1": Node("pve1", True, 64, 60, 1 << 18, 1 << 17)})
    return [later, measured, moved, busy]


def test_a_digest_does_not_cover_ids_times_places_or_measurements() -> None:
    facts = sound_facts(PLATFORM)
    digest = plan_tiers(PLATFORM, facts, {"web": 4}).digest
    assert {plan_tiers(PLATFORM, other, {"web": 4}).digest for other in same_but(facts)} == {digest}


def test_a_digest_covers_targets_and_steps() -> None:
    facts = sound_facts(PLATFORM)
    plans = [plan_tiers(PLATFORM, facts, {"web": count}) for count in (2, 3, 4)]
    assert len({plan.digest for plan in plans}) == 3
    claims = [Plan((Step(Action.CLAIM, "show", note=note),)).digest for note in ("web=4", "web=5")]
    assert len(set(claims)) == 2


def test_the_digest_is_known() -> None:
    """It is kept in records and in people's approvals, so it may not change from one release to the next unnoticed."""
    assert plan_tiers(PLATFORM, sound_facts(PLATFORM), {"web": 3}).digest == "5706f5dbb1a9"


def clones(*names: str) -> list[Step]:
    """Steps that clone machines on one storage: a short call, then a wait of 30 s, in the same slot."""
    wait = Wait("Proxmox clones its disk", 2, 600)
    return [
        step
        for name in names
        for step in chain(
            [Step(Action.CLONE, name, slot="disk"), Step(Action.AWAIT_CLONE, name, wait=wait, slot="disk")]
        )
    ]


def test_as_many_heads_of_a_slot_begin_as_it_has_and_waits_hold_theirs() -> None:
    steps = clones("a", "b", "c")
    assert [step.key for step in heads(Plan(tuple(steps), slots={"disk": 2}), frozenset())] == ["clone a", "clone b"]
    cloned = Plan(tuple(steps[1:]), slots={"disk": 2})
    assert [step.key for step in heads(cloned, frozenset())] == ["await-clone a", "clone b"]
    assert [step.key for step in heads(cloned, frozenset({"clone b"}))] == ["await-clone a"]


def test_the_timeline_plays_what_the_runner_would_do() -> None:
    spans = timeline(Plan(tuple(clones("a", "b", "c")), slots={"disk": 2}), {"clone": 2.0, "await-clone": 10.0})
    assert spans == {
        "clone a": (0, 2), "await-clone a": (2, 12), "clone b": (0, 2), "await-clone b": (2, 12),
        "clone c": (12, 14), "await-clone c": (14, 24),
    }  # fmt: skip


def test_a_plan_that_waits_for_itself_has_no_timeline_but_ends() -> None:
    knot = (Step(Action.START, "a", frozenset({"start b"})), Step(Action.START, "b", frozenset({"start a"})))
    assert timeline(Plan(knot), {}) == {}
