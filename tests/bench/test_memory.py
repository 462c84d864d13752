"""How much memory thems-jobs needs for a scale of 50 machines, which are not there: see stand_in_world.py."""

import os
from pathlib import Path

import pytest
from bench_lab import Tell
from stand_in import stand_in_world

AIM_MIB, NEW = 150.0, 50


@pytest.mark.timeout(900)
def test_peak_memory_of_scaling_by_50(tmp_path: Path, tell: Tell) -> None:
    if os.geteuid() != 0:
        pytest.skip("a network namespace of one's own needs root")
    with stand_in_world(tmp_path) as world:
        small = world.run("provision").peak_mib
        ran = world.run("scale", "--tier", f"web={2 + NEW}", "--event", "bench", "--until", "2040-01-01T00:00Z")
    assert sum(step["action"] == "serve" and step["outcome"] == "ok" for step in ran.report["steps"]) == NEW
    tell(
        f"memory: {ran.peak_mib:.0f} MiB at most for {NEW} new machines = {ran.peak_mib / small:.2f} × what 4 machines "
        f"need ({small:.0f} MiB); aim < {AIM_MIB:g} MB"
    )
    assert ran.peak_mib * 1.048576 < AIM_MIB
