"""What every plan must hold, whatever the facts: doing any heads of it leads to the rest of it, and harms nobody."""

from collections import Counter
from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import worlds

from thems_jobs.core import model
from thems_jobs.core.capacity import serves, targets
from thems_jobs.core.facts import Balancer, Facts, Phase, Unknown
from thems_jobs.core.fleet import plan_tiers
from thems_jobs.core.plan import Action, Plan, heads
from thems_jobs.core.platform import Platform
from thems_jobs.core.timeline import timeline

CASES = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


def keys(plan: Plan) -> set[str]:
    return {step.key for step in plan.steps}


def difference(rest: Plan, plan: Plan, done: set[str]) -> dict[str, set[str]]:
    """Given the plan before and after some steps were done, return what should not have come or gone."""
    added, lost = keys(rest) - (keys(plan) - done), (keys(plan) - done) - keys(rest)
    return {"added": added, "lost": lost, "done": done} if added or lost else {}


def visited(facts: Facts) -> set[str]:
    """Web machines that serve and to which at least one balancer sends new visitors."""
    views = [view for view in facts.balancers.values() if isinstance(view, Balancer)]
    return {
        m.name
        for m in facts.of_tier("web")
        if serves(replace(m, health=m.health.removeprefix(model.NOT_ASKED)))
        and any(m.name in view.servers and view.servers[m.name].weight > 0 for view in views)
    }


def assert_harmless(platform: Platform, before: Facts, after: Facts, plan: Plan) -> None:
    """Given the facts before and after some steps, find no harm done by them."""
    least = min(len(visited(before)), platform.tiers["web"].minimum)
    assert len(visited(after)) >= least, "fewer machines serve than the minimum"
    for what in ("vmid", "address"):
        counts = Counter(getattr(m, what) for m in after.machines.values() if m.vmid)
        assert counts.most_common(1)[0][1] == 1 if counts else True, f"two machines share a {what}"
    strangers = {stranger.name for stranger in before.strangers}
    assert not strangers & {step.target for step in plan.steps}, "a step for a stranger"


def choose(platform: Platform, facts: Facts, draw: Any) -> tuple[dict[str, int], frozenset[str]]:
    """Given facts, choose what is asked for: the claims' targets, for some tiers, with machines to be replaced."""
    wanted = targets(platform, facts)
    wanted = {tier: wanted[tier] for tier in draw(st.sampled_from([("lb", "web"), ("lb", "web"), ("web",), ("lb",)]))}
    candidates = sorted(name for name, machine in facts.machines.items() if machine.tier in wanted)
    replaced = draw(st.sets(st.sampled_from(candidates), max_size=2)) if candidates else set()
    return wanted, frozenset(replaced)


def open_plan(plan: Plan) -> bool:
    return not plan.refusals


@CASES
@given(worlds(sound=True), st.data())
def test_any_heads_lead_to_the_rest_of_the_plan_and_at_last_to_the_targets(
    world: tuple[Platform, Facts], data: Any
) -> None:
    platform, facts = world
    wanted, replaced = choose(platform, facts, data.draw)
    plan = plan_tiers(platform, facts, wanted, replaced)
    rounds = 0
    while open_plan(plan) and plan.steps:
        ready = heads(plan, frozenset())
        assert ready, "a plan that waits for itself"
        chosen = data.draw(st.lists(st.sampled_from(ready), min_size=1, unique_by=lambda step: step.key))
        before = facts
        for step in chosen:
            facts = model.after(platform, facts, plan, step)
            assert_harmless(platform, before, facts, plan)
        rest = plan_tiers(platform, facts, wanted, replaced)
        assert not rest.refusals, [str(refusal) for refusal in rest.refusals]
        assert not difference(rest, plan, {step.key for step in chosen}), facts
        plan, rounds = rest, rounds + 1
        assert rounds < 500
    if open_plan(plan):
        for tier, count in wanted.items():
            there = facts.of_tier(tier)
            assert len(there) == count, "the target is not reached"
            assert all(m.phase is Phase.SERVING and m.reachable and m.name not in replaced for m in there)
        if "web" in wanted:
            assert len(visited(facts)) == wanted["web"]
        assert not facts.known_record.intents


def promised_mib(platform: Platform, facts: Facts) -> Counter[str]:
    """What our machines on each node have, or will have."""
    taken = Counter[str]()
    for machine in facts.machines.values():
        if machine.exists or machine.clone == "cloning":
            taken[machine.node] += platform.tiers[machine.tier].memory_mib
    return taken


@CASES
@given(worlds(sound=True), st.data())
def test_no_node_gets_more_machines_over_a_whole_run_than_it_has_room_for(
    world: tuple[Platform, Facts], data: Any
) -> None:
    """Clones begin one wave after the other, and their nodes are chosen anew each time."""
    platform, facts = world
    room = {name: data.draw(st.integers(0, 8)) * 512 for name in facts.nodes}
    most = {name: room[name] + promised_mib(platform, facts)[name] for name in facts.nodes}
    nodes = {
        n: replace(node, memory_mib=most[n] + platform.proxmox.memory_reserve_mib) for n, node in facts.nodes.items()
    }
    facts = replace(facts, nodes=nodes)
    wanted, replaced = choose(platform, facts, data.draw)
    plan = plan_tiers(platform, facts, wanted, replaced)
    while open_plan(plan) and plan.steps:
        ready = heads(plan, frozenset())
        for step in data.draw(st.lists(st.sampled_from(ready), min_size=1, unique_by=lambda step: step.key)):
            facts = model.after(platform, facts, plan, step)
        taken = promised_mib(platform, facts)
        assert all(taken[name] <= most[name] for name in most), (taken, most)
        plan = plan_tiers(platform, facts, wanted, replaced)


@CASES
@given(worlds(), st.data())
def test_a_closed_gate_leaves_only_what_gives_capacity_back(world: tuple[Platform, Facts], data: Any) -> None:
    platform, facts = world
    wanted, replaced = choose(platform, facts, data.draw)
    plan = plan_tiers(platform, facts, wanted, replaced)
    if not plan.refusals:
        return
    restoring = [step for step in heads(plan, frozenset()) if step.action is Action.RESTORE]
    before = facts
    for step in restoring:
        facts = model.after(platform, facts, plan, step)
        assert_harmless(platform, before, facts, plan)
    rest = plan_tiers(platform, facts, wanted, replaced)
    assert not difference(rest, plan, {step.key for step in restoring})


@CASES
@given(worlds(), st.data())
def test_every_restore_is_a_head_where_a_balancer_answers(world: tuple[Platform, Facts], data: Any) -> None:
    platform, facts = world
    plan = plan_tiers(platform, facts, *choose(platform, facts, data.draw))
    answers = any(isinstance(view, Balancer) for view in facts.balancers.values())
    for step in plan.steps:
        if step.action is Action.RESTORE and answers:
            assert step in heads(plan, frozenset())


@CASES
@given(worlds(), st.data())
def test_nobody_is_withdrawn_while_a_machine_that_stays_is_not_up(world: tuple[Platform, Facts], data: Any) -> None:
    platform, facts = world
    plan = plan_tiers(platform, facts, *choose(platform, facts, data.draw))
    coming = {(s.target.split("-")[1], s.key) for s in plan.steps if s.action in (Action.SERVE, Action.RESTORE)}
    for step in plan.steps:
        machine = facts.machines.get(step.target)
        if step.action is Action.WITHDRAW and machine and machine.phase is Phase.SERVING:
            assert {key for tier, key in coming if tier == machine.tier} <= step.after


@CASES
@given(worlds(sound=True), st.data())
def test_what_is_not_known_refuses(world: tuple[Platform, Facts], data: Any) -> None:
    platform, facts = world
    wanted, replaced = choose(platform, facts, data.draw)
    plan = plan_tiers(platform, facts, wanted, replaced)
    if all(step.action is Action.RESTORE for step in plan.steps):
        return
    blind = replace(facts, record=Unknown("the record VM has no description"))
    again = plan_tiers(platform, blind, wanted, replaced)
    assert "record-unreadable" in {refusal.reference for refusal in again.refusals} or not again.steps


@CASES
@given(worlds(), st.data())
def test_the_timeline_has_every_step_after_those_before_it(world: tuple[Platform, Facts], data: Any) -> None:
    platform, facts = world
    plan = plan_tiers(platform, facts, *choose(platform, facts, data.draw))
    spans = timeline(plan, {})
    assert set(spans) == keys(plan)
    for step in plan.steps:
        assert all(spans[key][1] <= spans[step.key][0] for key in step.after & set(spans))
