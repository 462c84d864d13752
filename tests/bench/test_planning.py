"""How long a plan of thousands of machines takes, against a loop whose speed says how fast this machine is."""

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "core"))
from platforms import make_platform, sound_facts

from thems_jobs.core.facts import Facts
from thems_jobs.core.fleet import plan_tiers
from thems_jobs.core.plan import heads
from thems_jobs.core.platform import Platform
from thems_jobs.core.timeline import timeline

LOOPS = 5_000_000  # about 0.25 s on the machine these limits were chosen on


def seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def calibrate() -> float:
    def loop() -> int:
        total = 0
        for number in range(LOOPS):
            total += number & 7
        return total

    return min(seconds(loop) for _ in range(3))


def roomy(facts: Facts) -> Facts:
    """Given facts, return them with nodes that have room for everything."""
    nodes = {name: replace(node, memory_mib=1 << 24, cores=9000) for name, node in facts.nodes.items()}
    return replace(facts, nodes=nodes)


def big_platform(machines: int) -> Platform:
    platform = make_platform(
        nodes=tuple(f"pve{n}" for n in range(40)), maximum=machines + 1, web_addresses="10.80.0.1-10.80.60.0"
    )
    web = replace(platform.tiers["web"], vmids="100000-120000")
    return replace(platform, tiers={"web": web, "lb": replace(platform.tiers["lb"], vmids="1200-1219")})


@pytest.mark.parametrize(("there", "wanted"), [(2, 5000), (5000, 2), (2500, 5000)], ids=["up", "down", "half"])
def test_planning_5000_machines(there: int, wanted: int, capsys: pytest.CaptureFixture[str]) -> None:
    platform = big_platform(5000)
    facts = roomy(sound_facts(platform, web=there))
    calibration = calibrate()
    planned = min(seconds(lambda: plan_tiers(platform, facts, {"web": wanted})) for _ in range(2))
    plan = plan_tiers(platform, facts, {"web": wanted})
    played = seconds(lambda: timeline(plan, {}))
    looked = seconds(lambda: heads(plan, frozenset()))
    with capsys.disabled():
        print(
            f"\nplan {there} → {wanted}: {planned:.2f} s = {planned / calibration:.1f} loops, "
            f"timeline {played:.2f} s, heads {looked:.3f} s, {len(plan.steps)} steps"
        )
    assert plan.refusals == ()
    assert planned < 4 * calibration  # under 1 s on the machine these limits were chosen on
    assert played < 4 * calibration


def test_planning_grows_in_proportion(capsys: pytest.CaptureFixture[str]) -> None:
    platform = big_platform(5000)
    facts = roomy(sound_facts(platform))

    def took(wanted: int) -> float:
        return min(seconds(lambda: timeline(plan_tiers(platform, facts, {"web": wanted}), {})) for _ in range(3))

    ratio = took(4000) / took(1000)
    with capsys.disabled():
        print(f"\nfour times the machines take {ratio:.1f} times as long")
    assert ratio < 8
