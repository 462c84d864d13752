"""A scale up, a scale down and two replacements, killed at every call: after its effect, or with it still to come."""

import random
from collections.abc import Callable

import pytest
from schedules import TIMEOUTS, Schedule, Wish, make_platform, provision_wish, scale_wish
from session import Faults

from thems_jobs.core.outcome import Exit
from thems_jobs.core.record import Claim
from thems_jobs.jobs import scale

Begin = Callable[[Schedule], Wish]


def up(schedule: Schedule) -> Wish:
    schedule.furnish(2, 2)
    until = schedule.clock.now() + 10**6
    return scale_wish(schedule.platform, scale.Parameters({"web": 4}, until, "show", by="anna"))


def down(schedule: Schedule) -> Wish:
    schedule.furnish(4, 2, (Claim("show", {"web": 4}, schedule.clock.now() - 1, "anna"),))
    return scale_wish(schedule.platform, scale.Parameters())


def replacement(schedule: Schedule) -> Wish:
    schedule.furnish(2, 2)
    return provision_wish(schedule.platform, "shop-web-1")


def replacement_of_a_balancer(schedule: Schedule) -> Wish:
    schedule.furnish(2, 2)
    return provision_wish(schedule.platform, "shop-lb-1")


def schedule(begin: Begin) -> tuple[Schedule, Wish]:
    made = Schedule(make_platform(random.Random(2)), random.Random(0))
    return made, begin(made)


def calls_of(begin: Begin) -> int:
    """Return how many calls the command needs when nothing goes wrong."""
    whole, wish = schedule(begin)
    outcome = whole.run(wish)
    assert outcome is not None
    assert outcome.exit is Exit.OK
    assert whole.last is not None
    return whole.last.calls


@pytest.mark.parametrize("how", ["after", "late"])  # "before" a call is after the one before it
@pytest.mark.parametrize("begin", [up, down, replacement, replacement_of_a_balancer], ids=lambda begin: begin.__name__)
def test_killed_at_any_call_the_same_command_finishes(begin: Begin, how: str) -> None:
    total = calls_of(begin)
    assert total > 50
    for index in range(1, total + 1):
        killed, wish = schedule(begin)
        where = f"call {index} of {total}, {how}"
        assert killed.run(wish, Faults(kill_at=index, kill_how=how)) is None, where
        killed.land_late_effects()
        if index % 2:  # the next run is on the same host and sees that its process is gone
            killed.dead_tokens.add("run-1")
        else:
            killed.clock.pass_by(TIMEOUTS.lease_s + 1)
        for _ in range(2):  # a late effect may come after the next run has begun
            outcome = killed.run(wish)
            if outcome is not None and outcome.exit is Exit.OK:
                break
            killed.clock.pass_by(TIMEOUTS.lease_s + 1)
        assert outcome is not None
        assert outcome.exit is Exit.OK, f"{where}: {outcome.message}"
        killed.clock.pass_by(60)
        outcome = killed.run(wish)
        assert outcome is not None
        assert outcome.exit is Exit.OK, where
        killed.assert_converged(wish)


def test_a_second_run_is_refused_and_told_who_holds_the_platform() -> None:
    both, wish = schedule(up)
    answers = []
    both.run(wish, Faults(stall_at=60), lambda: answers.append(both.run(wish)))
    (refused,) = answers
    assert refused is not None
    assert refused.exit is Exit.REFUSED
    assert "run-1" in refused.message
    assert [refusal.reference for refusal in refused.refusals] == ["lease-held"]
    both.assert_converged(wish)


def test_a_run_that_lost_its_lease_does_nothing_more() -> None:
    both, wish = schedule(up)

    def take_over() -> None:
        both.clock.pass_by(TIMEOUTS.lease_s + 1)
        both.run(wish)

    outcome = both.run(wish, Faults(stall_at=80), take_over)
    assert outcome is not None
    assert outcome.exit in (Exit.HALTED, Exit.OK)
    both.clock.pass_by(60)
    last = both.run(wish)
    assert last is not None
    assert last.exit is Exit.OK
    both.assert_converged(wish)
