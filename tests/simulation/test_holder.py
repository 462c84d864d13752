"""The VRRP address on a balancer that does not serve: its visitors are seen, too, before anything is stopped."""

import random
from dataclasses import replace

from schedules import Schedule, make_platform, provision_wish, scale_wish
from world import Machines, Vm

from thems_jobs.core.facts import Phase
from thems_jobs.core.identity import read_stamp, tags_of, write_stamp
from thems_jobs.core.outcome import Exit, Outcome
from thems_jobs.core.record import Claim
from thems_jobs.jobs import scale


def schedule_with_holder(balancers: int) -> Schedule:
    """An event is over, and a balancer has the address that an earlier run had begun to take away."""
    schedule = Schedule(make_platform(random.Random(2)), random.Random(0))
    schedule.furnish(4, balancers, (Claim("show", {"web": 4}, schedule.clock.now() - 1, "anna"),))
    holder = next(vm for vm in schedule.ours() if vm.name == "shop-lb-1")
    stamp = read_stamp(holder.description)
    assert stamp is not None
    stamp = replace(stamp, phase=Phase.DRAINING)
    holder.description, holder.tags, holder.protection = write_stamp(stamp), tags_of(stamp), False
    schedule.world.holder = holder.vmid

    def before(what: str, vm: Vm) -> None:
        held, table = schedule.world.current_holder(), Machines(schedule.world)
        if what == "shutdown" and held is not None and vm.name in held.table:
            assert table.show(held.name, held.address).servers[vm.name].connections == 0, f"{vm.name} is in use"

    schedule.world.before = before
    return schedule


def ended(outcome: Outcome | None) -> Outcome:
    assert outcome is not None
    return outcome


def test_visitors_of_a_balancer_that_leaves_are_waited_for() -> None:
    """There is one too many, so the same run takes the address from it."""
    schedule = schedule_with_holder(3)
    wish = scale_wish(schedule.platform, scale.Parameters())
    assert ended(schedule.run(wish)).exit is Exit.OK
    schedule.assert_converged(wish)


def test_what_a_killed_run_left_is_refused_until_provision_has_finished_it() -> None:
    schedule = schedule_with_holder(2)
    wish = scale_wish(schedule.platform, scale.Parameters())
    outcome = ended(schedule.run(wish))
    assert outcome.exit is Exit.REFUSED
    assert [refusal.reference for refusal in outcome.refusals] == ["vrrp-holder"]
    assert ended(schedule.run(provision_wish(schedule.platform))).exit is Exit.OK
    assert ended(schedule.run(wish)).exit is Exit.OK
    schedule.assert_converged(wish)
