"""A run that is killed, anywhere, and run again: the same end state, nothing left over, nothing foreign touched.

In `make test` a sample: one kill after every kind of step in a row, and moments from a seed (THEMS_SEED repeats
one). In `make test-kill` a run of its own for every single step.
"""

import os
import random
import signal
from collections.abc import Iterator

import pytest
from shop import STOP_S, Run, Shop, kill_in_turn, kill_when, later

from waiting import eventually

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

SEED = int(os.environ.get("THEMS_SEED") or random.randrange(10**6))
UNTIL = later(4)
UP = ("scale", "--tier", "web=3", "--event", "test", "--until", UNTIL, "--yes")
DOWN = ("scale", "--end", "test", "--yes")
WAYS = {"up": (UP, 3), "down": (DOWN, 2)}
MOST_STEPS = 16  # of one of these runs; it must end by itself when it is to be killed later than that
LONGEST_S = 25.0  # of one of these runs on two busy cores, as a rule


@pytest.fixture(scope="module", autouse=True)
def _strangers(provisioned: Shop) -> Iterator[None]:
    """Somebody else's VMs that look like ours: our tags, nearly our names, even our stamp, in another pool."""
    model = provisioned.vm("shop-web-1")
    assert model is not None
    stamp, tags = model.config["description"], model.config["tags"]
    provisioned.plant(7001, "shop-web-1-copy", pool="theirs", tags=tags, description=stamp)
    provisioned.plant(7002, "shop-web-three", pool="theirs", tags="thems")
    yield
    provisioned.uproot(7001)
    provisioned.uproot(7002)


def to(shop: Shop, way: str) -> None:
    """Bring the platform to where this way begins."""
    if way == "down":
        shop.run(*UP)


def test_runs_killed_after_every_kind_of_step_in_turn_still_end(shop: Shop) -> None:
    for way, (command, web) in WAYS.items():
        steps = kill_in_turn(lambda kill, command=command: shop.start(*command, on_step=kill))
        assert len({action for action, _ in steps}) >= 6, f"{way}: killed only after {steps}"
        shop.expect_settled(web)


@pytest.mark.parametrize("moment", range(2))
def test_a_run_killed_at_a_random_moment_is_finished_by_the_next(shop: Shop, moment: int) -> None:
    chance = random.Random(SEED * 1000 + moment)
    way = ("up", "down")[moment % 2]
    command, web = WAYS[way]
    to(shop, way)
    seconds = chance.uniform(0.5, LONGEST_S if way == "up" else LONGEST_S / 2)
    run = shop.start(*command).let_run(seconds)
    run.send(signal.SIGKILL)
    run.wait()
    print(f"THEMS_SEED={SEED}: {way} killed after {seconds:.1f} s with {run.steps[-1:] or 'nothing'} done")
    shop.run(*command)
    shop.expect_settled(web)


@pytest.mark.every_step
@pytest.mark.parametrize("index", range(1, MOST_STEPS + 1))
@pytest.mark.parametrize("way", WAYS)
def test_a_run_killed_after_its_nth_step_is_finished_by_the_next(shop: Shop, way: str, index: int) -> None:
    command, web = WAYS[way]
    to(shop, way)
    run = shop.start(*command, on_step=kill_when(lambda run: len(run.steps) == index)).wait()
    assert run.code in (0, -signal.SIGKILL), str(run)
    assert index < MOST_STEPS or run.code == 0, f"it has more steps than are tested: {run}"
    shop.run(*command)
    shop.expect_settled(web)


def stop(shop: Shop, run: Run) -> None:
    """Ask a run to stop, and hold it to what Jenkins relies on."""
    run.send(signal.SIGTERM)
    run.wait(within_s=STOP_S)
    assert run.code == 143, str(run)
    assert run.report["outcome"] == "aborted"
    assert run.report["next"].startswith("thems-jobs scale"), run.report["next"]
    eventually(lambda: not run.processes(), f"still there: {run.processes()}", within_s=5)
    assert "lease" not in shop.record()


def test_runs_that_are_asked_to_stop_do_and_can_go_on(shop: Shop) -> None:
    """One while Ansible works, one while visitors leave."""
    up = shop.start(*UP).until_step("await-boot")
    eventually(
        lambda: any("ansible-playbook" in line for line in up.processes().values()), "ansible never ran", within_s=20
    )
    stop(shop, up)
    shop.run(*UP)
    shop.expect_settled(web=3)
    stop(shop, shop.start(*DOWN).until_step("withdraw"))
    shop.run(*DOWN)
    shop.expect_settled(web=2)
