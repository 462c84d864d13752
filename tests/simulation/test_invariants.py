"""What the monitor must notice."""

import random

import pytest
from schedules import Broken, Schedule, make_platform
from world import Cluster, Machines


def test_stopping_a_web_machine_that_has_visitors_is_noticed() -> None:
    made = Schedule(make_platform(random.Random(2)), random.Random(0))
    made.furnish(2, 2)
    world, (web, first, second) = made.world, [made.world.vms[vmid] for vmid in (1100, 1200, 1201)]
    cluster, machines = Cluster(world), Machines(world)

    def drain(balancer: str, address: str) -> None:
        generation = machines.show(balancer, address).generation
        machines.apply(balancer, address, generation, {web.name: (f"{web.address}:80", 0)})

    with pytest.raises(Broken, match="shop-lb-1, shop-lb-2 has visitors on it"):
        cluster.shutdown(web.node, web.vmid, 60)
    drain(first.name, first.address)
    made.clock.pass_by(60)
    with pytest.raises(Broken, match="shop-web-1 is stopped, and shop-lb-2 has visitors on it"):
        cluster.shutdown(web.node, web.vmid, 60)
    drain(second.name, second.address)
    second.leaves[web.name] = world.now() + 5
    with pytest.raises(Broken, match="visitors"):
        cluster.shutdown(web.node, web.vmid, 60)
    made.clock.pass_by(6)
    cluster.shutdown(web.node, web.vmid, 60)
