"""Lists of balancers and proxies that somebody changed by hand: whatever is asked for then mends them, and is done."""

import random
from collections.abc import Callable

import pytest
from schedules import Schedule, Wish, make_platform, provision_wish
from schedules_databases import machines, what_is_wrong, with_databases
from world import Vm

from thems_jobs.core.outcome import Exit

Table = dict[str, tuple[str, int]]
BY_HAND: dict[str, Callable[[Table], Table]] = {
    "drained": lambda table: {**table, "shop-db-2": (table["shop-db-2"][0], 0)},
    "forgotten": lambda table: {name: entry for name, entry in table.items() if name != "shop-db-1"},
    "another order": lambda table: dict(reversed(table.items())),
    "one that is gone": lambda table: {**table, "shop-db-9": ("10.77.3.19:3306", 100)},
}


def platform_at_rest() -> tuple[Schedule, list[Vm]]:
    """Return a schedule on a platform that is well, and its two proxies."""
    chance = random.Random(4)
    schedule = Schedule(with_databases(make_platform(chance), chance), random.Random(0))
    tiers = schedule.platform.tiers
    schedule.furnish(tiers["web"].baseline, 2, databases=tiers["db"].baseline)
    return schedule, machines(schedule.world, "proxy")


def die(schedule: Schedule, vm: Vm) -> None:
    vm.running, vm.ready_at, vm.changed_at = False, float("inf"), schedule.clock.now()
    schedule.monitor.expect_less()
    schedule.world.changed()
    schedule.clock.pass_by(60)


def runs_until_done(schedule: Schedule, wish: Wish) -> int:
    """Return how many runs it took, three at most; after them all must be as it should be."""
    for number in (1, 2, 3):
        outcome = schedule.run(wish)
        if outcome is not None and outcome.exit is Exit.OK:
            assert not what_is_wrong(schedule.world, schedule.platform.tiers["db"].baseline)
            return number
        schedule.clock.pass_by(200)
    raise AssertionError(f"still not done: {outcome}")


@pytest.mark.parametrize("by_hand", BY_HAND)
@pytest.mark.parametrize("replaced", [(), ("shop-proxy-1",), ("shop-proxy-2",), ("shop-db-3",)])
def test_a_list_of_a_proxy_is_mended_by_the_run_that_finds_it(by_hand: str, replaced: tuple[str, ...]) -> None:
    schedule, proxies = platform_at_rest()
    proxies[0].table = BY_HAND[by_hand](proxies[0].table)
    assert runs_until_done(schedule, provision_wish(schedule.platform, *replaced)) == 1


@pytest.mark.parametrize("by_hand", BY_HAND)
@pytest.mark.parametrize("replaced", [(), ("shop-proxy-2",)])
def test_a_dead_proxy_does_not_keep_the_list_of_the_other_as_it_is(by_hand: str, replaced: tuple[str, ...]) -> None:
    """The gates wait for the list, and a dead proxy takes none. It may come back with an old one, which ends a run."""
    schedule, proxies = platform_at_rest()
    proxies[0].table = BY_HAND[by_hand](proxies[0].table)
    die(schedule, proxies[1])
    assert runs_until_done(schedule, provision_wish(schedule.platform, *replaced)) <= 2


def test_a_server_without_a_machine_is_taken_out_of_the_list_of_a_balancer_once() -> None:
    schedule, _ = platform_at_rest()
    balancer = machines(schedule.world, "lb")[0]
    before = dict(balancer.table)
    balancer.table["shop-web-9"] = ("10.77.1.19:80", 100)
    assert runs_until_done(schedule, provision_wish(schedule.platform)) == 1
    assert balancer.table == before
