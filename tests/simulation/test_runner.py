"""The runner alone, with plans made up for it: what it must never do whatever the planners say."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

from clock import VirtualClock
from schedules import make_platform

from thems_jobs.core.facts import Facts
from thems_jobs.core.job import Done, Job, Look
from thems_jobs.core.outcome import Exit, Outcome
from thems_jobs.core.plan import Action, Change, Plan, Refusal, Step
from thems_jobs.core.record import Record
from thems_jobs.errors import EffectFailed, ThemsError, Transient
from thems_jobs.runner import Options, run

HELD_UP = Step(Action.ADMIT, "shop-web-3")
BALANCER = Step(Action.CONVERGE, "shop-lb-1")


def run_plans(first: Plan, then: Plan, errors: Mapping[str, ThemsError]) -> tuple[Outcome, int]:
    """Run a job whose plan changes once something was tried; return its outcome and how often it was planned."""
    clock, tried, planned = VirtualClock(random.Random(1)), list[str](), list[int]()
    facts = [Facts(clock.now(), Record())]

    def plan(_facts: Facts) -> Plan:
        planned.append(1)
        assert len(planned) < 1000, "the runner goes round in circles"
        return then if tried else first

    def perform(steps: Sequence[Step], _facts: Facts) -> Mapping[str, Done]:
        tried.extend(step.key for step in steps)
        return {step.key: Done(errors.get(step.key)) for step in steps}

    def change_record(change: object) -> Record:
        assert callable(change)
        facts[0] = replace(facts[0], record=change(facts[0].known_record))
        return facts[0].known_record

    def observe(_before: Facts | None, _look: Look) -> Facts:
        return replace(facts[0], at=clock.now())

    platform = make_platform(random.Random(1))
    job = Job("made up", platform, observe, plan, perform, change_record, lambda: None)
    options = Options("command", "somebody", lambda _plan, _facts: True, "token")
    return run(job, clock, options, lambda _step: None), len(planned)


def test_a_step_that_others_came_to_hold_up_is_not_waited_for() -> None:
    """It failed for a while; before its second attempt a balancer died, and could not be mended."""
    changes = (Change("make", "shop-web-3", "", ""), Change("repair", "shop-lb-1", "", ""))
    first = Plan((HELD_UP, replace(BALANCER, after=frozenset({HELD_UP.key}))), changes=changes)
    then = Plan((BALANCER, replace(HELD_UP, after=frozenset({BALANCER.key}))), changes=changes)
    errors = {
        HELD_UP.key: Transient("shop-web-3", "not now."),
        BALANCER.key: EffectFailed("shop-lb-1", "no route to host."),
    }
    outcome, planned = run_plans(first, then, errors)
    assert outcome.exit is Exit.HALTED
    assert "shop-lb-1" in outcome.message
    assert planned < 50


def test_an_effect_that_goes_well_in_vain_is_given_up() -> None:
    plan = Plan((HELD_UP,), changes=(Change("make", "shop-web-3", "", ""),))
    outcome, planned = run_plans(plan, plan, {})
    assert outcome.exit is Exit.HALTED
    assert "shop-web-3" in outcome.message
    assert planned < 50


def test_a_step_that_fails_for_a_while_is_tried_again_and_then_given_up() -> None:
    plan = Plan((HELD_UP,), changes=(Change("make", "shop-web-3", "", ""),))
    outcome, _ = run_plans(plan, plan, {HELD_UP.key: Transient("shop-web-3", "not now.")})
    assert outcome.exit is Exit.HALTED
    assert [step.outcome for step in outcome.steps].count("failed") == 5


def test_a_gate_that_is_closed_from_the_beginning_is_asked_again_after_what_is_given_back() -> None:
    closed = Refusal("proxies-disagree", "shop-proxy-1", "shop-web-3 drained", "one writer", "Look.")
    given_back = Step(Action.RESTORE, "shop-web-3")
    first = Plan((given_back, BALANCER), (closed,), (Change("restore", "shop-web-3", "", ""),))
    outcome, _ = run_plans(first, Plan(), {})
    assert outcome.exit is Exit.OK
    assert [step.key for step in outcome.steps if step.outcome == "ok"] == [given_back.key]
    outcome, _ = run_plans(first, Plan((BALANCER,), (closed,)), {})
    assert outcome.exit is Exit.HALTED, "something was changed"
