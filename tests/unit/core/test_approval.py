"""What an approval binds, and when it has been done."""

from dataclasses import replace

import pytest
from platforms import AT, make_platform, serving, sound_facts

from thems_jobs.core import approval
from thems_jobs.core.facts import Machine, Phase
from thems_jobs.core.fleet import plan_tiers
from thems_jobs.core.record import Approved

PLATFORM = make_platform()


def approved(up: tuple[str, ...] = (), down: tuple[str, ...] = ()) -> Approved:
    return Approved("0" * 12, "anna", AT, {"up": up, "down": down})


@pytest.mark.parametrize(
    ("given", "done"),
    [
        (approved(up=("record",)), True),
        (approved(up=("shop-web-1", "shop-web-2", "gala", "record")), True),
        (approved(up=("shop-web-1", "shop-web-3")), False),
        (approved(down=("shop-web-2",)), False),
        (approved(down=("shop-web-4",)), True),
    ],
)
def test_it_is_finished_when_all_that_came_serves_and_all_that_went_is_gone(given: Approved, done: bool) -> None:
    facts = sound_facts(PLATFORM)
    half_made: Machine = serving(PLATFORM, "web", 3, phase=Phase.BUILDING)
    facts = replace(facts, machines={**facts.machines, half_made.name: half_made})
    assert approval.finished(given, facts) is done


def test_what_remains_of_an_approved_plan_is_covered_and_nothing_else_is() -> None:
    facts = sound_facts(PLATFORM, web=2)
    three = plan_tiers(PLATFORM, facts, {"web": 3})
    given = approval.approve(three, "anna", AT, three.digest)
    assert approval.covers(given, three)
    assert approval.closed(three, three.digest, None) == []
    four = plan_tiers(PLATFORM, facts, {"web": 4})
    assert not approval.covers(given, four)
    assert [refusal.reference for refusal in approval.closed(four, three.digest, given)] == ["plan-changed"]
