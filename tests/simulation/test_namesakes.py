"""Two machines of one name: what a run leaves that was held up, in the middle of a clone, for longer than its lease."""

import random

from schedules import Schedule, make_platform, scale_wish
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
