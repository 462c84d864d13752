"""Namesakes: a second machine, as a run leaves it that was held up in the middle of a clone for longer than its lease,
a container, and machines that a changed platform file has no place for."""

import random

import pytest
from schedules import Schedule, Wish, make_platform, provision_wish, scale_wish
from world import Vm

from thems_jobs.core.facts import Phase, Stamp
from thems_jobs.core.identity import tags_of, write_stamp
from thems_jobs.core.outcome import Exit
from thems_jobs.jobs import scale


def test_a_second_machine_of_a_name_is_left_alone_and_named() -> None:
    schedule = Schedule(make_platform(random.Random(2)), random.Random(0))
    schedule.furnish(2, 2)
    stamp = Stamp("shop", "shop-web-2", 1099 + 6, "web", Phase.BUILDING)
    second = Vm(stamp.vmid, "shop-web-2", "pve1", "shop", write_stamp(stamp), tags_of(stamp))
    schedule.world.vms[second.vmid] = second
    before = second.state()
    wish = scale_wish(schedule.platform, scale.Parameters({"web": 3}, schedule.clock.now() + 10**6, "show"))
    outcome = schedule.run(wish)
    assert outcome is not None
    assert outcome.exit is Exit.REFUSED
    assert [(refusal.reference, refusal.measured) for refusal in outcome.refusals] == [
        ("foreign-machine", "it is a second shop-web-2, beside VM 1101")
    ]
    assert second.state() == before
    del schedule.world.vms[second.vmid]
    outcome = schedule.run(wish)
    assert outcome is not None
    assert outcome.exit is Exit.OK
    schedule.assert_converged(wish)


def test_of_two_machines_of_a_name_that_do_not_serve_the_one_that_came_further_counts() -> None:
    """The first clone's answer was lost, so another one was made, and configured."""
    schedule = Schedule(make_platform(random.Random(2)), random.Random(0))
    schedule.furnish(2, 2)
    for vmid, configured in ((1102, False), (1103, True)):
        stamp = Stamp("shop", "shop-web-3", vmid, "web", Phase.BUILDING)
        tags = tags_of(stamp) if configured else ()
        schedule.world.vms[vmid] = Vm(vmid, "shop-web-3", "pve1", "shop", write_stamp(stamp), tags)
    wish = scale_wish(schedule.platform, scale.Parameters({"web": 3}, schedule.clock.now() + 10**6, "show"))
    why = "it is a second shop-web-3, beside VM 1103"
    assert refused(schedule, wish) == [("foreign-machine", "VM 1102 (shop-web-3)", why)]


def refused(schedule: Schedule, wish: Wish) -> list[tuple[str, str, str]]:
    outcome = schedule.run(wish)
    assert outcome is not None
    assert outcome.exit is Exit.REFUSED
    return [(refusal.reference, refusal.subject, refusal.measured) for refusal in outcome.refusals]


@pytest.mark.parametrize(("vmid", "name"), [(1110, "cache"), (5000, "shop-web-3"), (1110, "shop-web-3")])
def test_a_container_with_an_id_or_a_name_of_ours_is_a_stranger(vmid: int, name: str) -> None:
    schedule = Schedule(make_platform(random.Random(2)), random.Random(0))
    schedule.furnish(2, 2)
    schedule.world.vms[vmid] = Vm(vmid, name, "pve1", "shop", kind="lxc")
    wish = scale_wish(schedule.platform, scale.Parameters({"web": 3}, schedule.clock.now() + 10**6, "show"))
    assert refused(schedule, wish) == [("foreign-machine", f"VM {vmid} ({name})", "it is a container")]


@pytest.mark.parametrize(("vmid", "name", "tier"), [(1300, "shop-cache-1", "cache"), (1110, "shop-web-11", "web")])
def test_a_machine_without_a_place_in_the_platform_file_is_a_stranger(vmid: int, name: str, tier: str) -> None:
    """Its tier was removed or renamed, or the tier's addresses became fewer."""
    schedule = Schedule(make_platform(random.Random(2)), random.Random(0))
    schedule.furnish(2, 2)
    stamp = Stamp("shop", name, vmid, tier, Phase.SERVING)
    schedule.world.vms[vmid] = Vm(vmid, name, "pve1", "shop", write_stamp(stamp), tags_of(stamp))
    ((reference, subject, measured),) = refused(schedule, provision_wish(schedule.platform, "shop-web-1"))
    assert (reference, subject) == ("foreign-machine", f"VM {vmid} ({name})")
    assert "the platform file has no place for it" in measured
