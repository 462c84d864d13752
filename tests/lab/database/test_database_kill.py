"""Runs on the database tier, killed and run again while a shop writes orders: no order lost, the cluster as declared.

In `make test-rehearsals` one kill after every kind of step, in `make test-kill` after every step of every machine.
"""

import pytest
from database_shop import DatabaseShop
from orders import Orders, writing
from shop import kill_in_turn, later

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.timeout(2400)]

THREE, FIVE = 3, 5
UP = ("scale", "--tier", "db=5", "--event", "test", "--until", later(4), "--yes")
DOWN = ("scale", "--end", "test", "--yes")
WAYS = {"up": (UP, FIVE), "down": (DOWN, THREE)}


def expect_sound(shop: DatabaseShop, orders: Orders, members: int) -> None:
    """Hold the cluster against what it must be with so many members, and each of them against the orders."""
    assert len(shop.members()) == len(shop.tier("db")) == members
    shop.health()
    orders.wait_for_more()
    for vm in shop.tier("db"):
        orders.expect_all_at(vm)


def kill_both_ways(shop: DatabaseShop, every_step: bool, at_least: int) -> None:
    """Scale up and back with orders coming in, killed in turn; no way may have fewer steps to be killed after."""
    shop.forget_backups()
    platform = shop.layout.database_platform
    with writing(shop.layout) as orders:
        for way, (command, members) in WAYS.items():
            steps = kill_in_turn(
                lambda kill, command=command: shop.start(*command, platform=platform, on_step=kill), every_step
            )
            words = sorted({f"{action} {target}" if every_step else action for action, target in steps})
            assert len(words) >= at_least, f"{way}: killed only after {words}"
            expect_sound(shop, orders, members)
            print(f"{way}: killed after {len(words)}: {', '.join(words)}")
    print(f"{len(orders.acknowledged)} orders, {len(orders.refused)} refused, {orders.longest_gap_s:.2f} s")
    assert not orders.refused, orders.refused[:3]


def test_runs_killed_after_every_kind_of_step_in_turn_lose_no_order(shop: DatabaseShop) -> None:
    kill_both_ways(shop, every_step=False, at_least=8)


@pytest.mark.every_step
def test_runs_killed_after_every_single_step_in_turn_lose_no_order(shop: DatabaseShop) -> None:
    kill_both_ways(shop, every_step=True, at_least=12)
