"""Runs on the database tier, killed and run again while a shop writes orders: no order lost, the cluster as declared.

In `make test-rehearsals` one kill after every kind of step in a row, in `make test-kill` a run of its own for every
single step.
"""

import signal

import pytest
from database_shop import DatabaseShop
from orders import Orders, writing
from shop import kill_in_turn, kill_when, later

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.timeout(1800)]

THREE, FIVE = 3, 5
UP = ("scale", "--tier", "db=5", "--event", "test", "--until", later(4), "--yes")
DOWN = ("scale", "--end", "test", "--yes")
WAYS = {"up": (UP, FIVE), "down": (DOWN, THREE)}
MOST_STEPS = 26  # of one of these runs; it must end by itself when it is to be killed later than that


def expect_sound(shop: DatabaseShop, orders: Orders, members: int) -> None:
    """Hold the cluster against what it must be with so many members, and each of them against the orders."""
    assert len(shop.members()) == len(shop.tier("db")) == members
    shop.health()
    orders.wait_for_more()
    for vm in shop.tier("db"):
        orders.expect_all_at(vm)


def test_runs_killed_after_every_kind_of_step_in_turn_lose_no_order(shop: DatabaseShop) -> None:
    shop.forget_backups()
    platform = shop.layout.database_platform
    with writing(shop.layout) as orders:
        for way, (command, members) in WAYS.items():
            kinds = kill_in_turn(lambda kill, command=command: shop.start(*command, platform=platform, on_step=kill))
            assert len(kinds) >= 8, f"{way}: killed only after {kinds}"
            expect_sound(shop, orders, members)
            print(f"{way}: killed after {', '.join(sorted(kinds))}")
    print(f"{len(orders.acknowledged)} orders, {len(orders.refused)} refused, {orders.longest_gap_s:.2f} s")
    assert not orders.refused, orders.refused[:3]


@pytest.mark.every_step
@pytest.mark.parametrize("index", range(1, MOST_STEPS + 1))
@pytest.mark.parametrize("way", WAYS)
def test_a_run_killed_after_its_nth_step_loses_no_order(shop: DatabaseShop, way: str, index: int) -> None:
    command, members = WAYS[way]
    shop.do(*(UP if way == "down" else DOWN))
    shop.forget_backups()
    with writing(shop.layout) as orders:
        platform = shop.layout.database_platform
        run = shop.start(*command, platform=platform, on_step=kill_when(lambda run: len(run.steps) == index)).wait()
        assert run.code in (0, -signal.SIGKILL), str(run)
        assert index < MOST_STEPS or run.code == 0, f"it has more steps than are tested: {run}"
        shop.do(*command)
        expect_sound(shop, orders, members)
