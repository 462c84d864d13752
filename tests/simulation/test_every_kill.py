"""Scaling up and down and replacements, killed at every call, after its effect or before, or asked to stop there."""

import logging
import os
import random
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import pytest
from schedules import TIMEOUTS, Schedule, Wish, make_platform, provision_wish, scale_wish
from schedules_databases import with_databases
from session import Faults

from thems_jobs.core.outcome import Exit
from thems_jobs.core.record import Claim
from thems_jobs.jobs import scale

EVERY_CALL = bool(os.environ.get("THEMS_EVERY_CALL"))
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


def databases_up(schedule: Schedule) -> Wish:
    schedule.furnish(2, 2, databases=3)
    until = schedule.clock.now() + 10**6
    return scale_wish(schedule.platform, scale.Parameters({"db": 5}, until, "show", by="anna"))


def databases_down(schedule: Schedule) -> Wish:
    schedule.furnish(2, 2, (Claim("show", {"db": 5}, schedule.clock.now() - 1, "anna"),), databases=5)
    return scale_wish(schedule.platform, scale.Parameters())


def replacement_of_the_writer(schedule: Schedule) -> Wish:
    schedule.furnish(2, 2, databases=3)
    return provision_wish(schedule.platform, "shop-db-1")


def replacement_of_a_proxy(schedule: Schedule) -> Wish:
    schedule.furnish(2, 2, databases=3)
    return provision_wish(schedule.platform, "shop-proxy-1")


WEB = (up, down, replacement, replacement_of_a_balancer)
DATABASES = (databases_up, databases_down, replacement_of_the_writer, replacement_of_a_proxy)


def schedule(begin: Begin) -> tuple[Schedule, Wish]:
    chance = random.Random(2)
    platform = make_platform(chance)
    made = Schedule(with_databases(platform, chance) if begin in DATABASES else platform, random.Random(0))
    return made, begin(made)


def calls_of(begin: Begin) -> list[int]:
    """Return the numbers of the calls of the command when nothing goes wrong; of a database tier, of its effects.

    Between two effects a run only looks, and a database tier's takes long: THEMS_EVERY_CALL=1 kills at those, too.
    """
    whole, wish = schedule(begin)
    outcome = whole.run(wish)
    assert outcome is not None
    assert outcome.exit is Exit.OK
    assert whole.last is not None
    return whole.last.writes if begin in DATABASES and not EVERY_CALL else list(range(1, whole.last.calls + 1))


def finishes(begin: Begin, how: str, index: int) -> None:
    """Kill the command at a call, or stop it there; demand that the same command finishes what it began."""
    killed, wish = schedule(begin)
    if how == "stopped":
        stopped = killed.run(wish, Faults(stop_at=index))
        assert stopped is not None
        assert stopped.exit is Exit.ABORTED
    else:
        assert killed.run(wish, Faults(kill_at=index, kill_how=how)) is None
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
    assert outcome.exit is Exit.OK, outcome.message
    killed.clock.pass_by(60)
    outcome = killed.run(wish)
    assert outcome is not None
    assert outcome.exit is Exit.OK, outcome.message
    killed.assert_converged(wish)
    killed.assert_sound()


def trouble(begin: Begin, how: str, index: int) -> str:
    """Return what is wrong after a kill at a call, "" for nothing."""
    logging.disable(logging.CRITICAL)
    try:
        finishes(begin, how, index)
    except Exception as error:
        return f"at call {index}, {how}: {error!r}"
    return ""


@pytest.mark.parametrize("how", ["after", "late", "stopped"])  # "before" a call is after the one before it
@pytest.mark.parametrize("begin", [*WEB, *DATABASES], ids=lambda begin: begin.__name__)
def test_killed_at_any_call_the_same_command_finishes(begin: Begin, how: str) -> None:
    calls = calls_of(begin)
    assert len(calls) > 10
    with ProcessPoolExecutor() as processes:
        found = processes.map(trouble, *zip(*((begin, how, index) for index in calls), strict=True), chunksize=8)
        wrong = [text for text in found if text]
    assert not wrong, "\n".join(wrong[:10])


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
