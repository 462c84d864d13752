"""Room on the nodes: what a run was shown to fit is what it makes, though clones begin one wave after the other."""

import random
from dataclasses import replace

import pytest
from schedules import Schedule, make_platform, scale_wish
from world import Vm

from thems_jobs.core.outcome import Exit
from thems_jobs.jobs import scale


def schedule_with_room(*machines: int) -> Schedule:
    """Given for how many web machines each node has room, return a schedule in which two clones begin at a time."""
    platform = make_platform(random.Random(2))
    names = tuple(f"pve{number + 1}" for number in range(len(machines)))
    proxmox = replace(platform.proxmox, nodes=names, clones_per_storage=2)
    web = replace(platform.tiers["web"], maximum=9)
    schedule = Schedule(replace(platform, proxmox=proxmox, tiers={**platform.tiers, "web": web}), random.Random(0))
    schedule.furnish(2, 2)
    reserve = proxmox.memory_reserve_mib
    for name, count in zip(names, machines, strict=True):
        used = sum(int(vm.options["memory"]) for vm in schedule.ours() if vm.node == name)
        schedule.world.memory_mib[name] = reserve + used + count * web.memory_mib
    return schedule


@pytest.mark.parametrize("others", [0, 1])
def test_no_wave_of_clones_takes_a_node_s_room_twice(others: int) -> None:
    """Others' machines are counted beside ours."""
    schedule = schedule_with_room(4 + others, 2)
    options = {"memory": "1024", "cores": "2"}
    for number in range(others):
        schedule.world.vms[7000 + number] = Vm(7000 + number, "postgres", "pve1", "other", options=options)
    before = {vm.vmid for vm in schedule.ours()}
    until = schedule.clock.now() + 10**6
    outcome = schedule.run(scale_wish(schedule.platform, scale.Parameters({"web": 9}, until, "show")))
    assert outcome is not None
    assert [refusal.reference for refusal in outcome.refusals] == ["node-capacity"]
    assert outcome.refusals[0].measured.startswith("room for 6 more machines")
    outcome = schedule.run(scale_wish(schedule.platform, scale.Parameters({"web": 8}, until, "show")))
    assert outcome is not None
    assert outcome.exit is Exit.OK, outcome.message
    new = [vm.node for vm in schedule.ours() if vm.vmid not in before]
    assert (new.count("pve1"), new.count("pve2")) == (4, 2)
