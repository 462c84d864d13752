"""Lists of balancers and proxies that somebody changed by hand: whatever is asked for then mends them, and is done."""

import random
from collections.abc import Callable
from dataclasses import replace
from itertools import permutations

import pytest
from schedules import Schedule, Wish, make_platform, provision_wish
from schedules_databases import machines, what_is_wrong, with_databases
from world import Vm

from thems_jobs.core.facts import Backup, Phase, Stamp
from thems_jobs.core.identity import read_stamp, tags_of, write_stamp
from thems_jobs.core.outcome import Exit

Table = dict[str, tuple[str, int]]
BY_HAND: dict[str, Callable[[Table], Table]] = {
    "drained": lambda table: {**table, "shop-db-2": (table["shop-db-2"][0], 0)},
    "forgotten": lambda table: {name: entry for name, entry in table.items() if name != "shop-db-1"},
    "another order": lambda table: dict(reversed(table.items())),
    "one that is gone": lambda table: {**table, "shop-db-9": ("10.77.3.19:3306", 100)},
}


def platform_at_rest(more: int = 0) -> tuple[Schedule, list[Vm]]:
    """Return a schedule on a platform that is well, with so many members more than wanted, and its two proxies."""
    chance = random.Random(4)
    schedule = Schedule(with_databases(make_platform(chance), chance), random.Random(0))
    tiers = schedule.platform.tiers
    schedule.furnish(tiers["web"].baseline, 2, databases=tiers["db"].baseline + more)
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
    raise AssertionError(f"still not done: {outcome.message if outcome else 'killed'}")


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


@pytest.mark.parametrize(("by_hand", "too"), [*permutations(BY_HAND, 2)])
@pytest.mark.parametrize("other", [0, 1])
def test_two_changes_by_hand_are_mended_at_once(by_hand: str, too: str, other: int) -> None:
    schedule, proxies = platform_at_rest()
    for proxy, change in ((proxies[0], by_hand), (proxies[other], too)):
        proxy.table = BY_HAND[change](proxy.table)
    assert runs_until_done(schedule, provision_wish(schedule.platform)) == 1


@pytest.mark.parametrize("taken_out", [(), ("shop-proxy-1",), ("shop-proxy-2",)])
def test_another_order_does_not_stop_a_member_from_leaving(taken_out: tuple[str, ...]) -> None:
    """Its drain had begun when the run was killed, and one proxy may have taken it out of its list."""
    schedule, proxies = platform_at_rest(more=1)
    leaving = machines(schedule.world, "db")[-1]
    stamp = read_stamp(leaving.description)
    assert isinstance(stamp, Stamp)
    stamp = replace(stamp, phase=Phase.DRAINING)
    leaving.description, leaving.tags, leaving.protection = write_stamp(stamp), tags_of(stamp), False
    schedule.world.backups.append(Backup(stamp.since, "shop-db-1", "made-long-ago", 1000))
    for proxy in proxies:
        proxy.table[leaving.name] = (proxy.table[leaving.name][0], 0)
        if proxy.name in taken_out:
            del proxy.table[leaving.name]
    proxies[0].table = BY_HAND["another order"](proxies[0].table)
    assert runs_until_done(schedule, provision_wish(schedule.platform)) == 1


def test_a_server_without_a_machine_is_taken_out_of_the_list_of_a_balancer_once() -> None:
    schedule, _ = platform_at_rest()
    balancer = machines(schedule.world, "lb")[0]
    before = dict(balancer.table)
    balancer.table["shop-web-9"] = ("10.77.1.19:80", 100)
    assert runs_until_done(schedule, provision_wish(schedule.platform)) == 1
    assert balancer.table == before
