"""One lab with real machines for the benchmarks that need it, and one scale for an event, measured once."""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "lab"))
from bench_lab import AFTER, BEFORE, BOOT_S, CLONE_S, CLONE_SLOTS, Bench, Scaled, Tell
from real_lab import CACHE, connect, run_lab
from shop import Shop

from thems_jobs.lab.layout import LabLayout


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Tell:
    """Print a line whatever pytest captures."""

    def say(line: str) -> None:
        with capsys.disabled():
            print(f"\n{line} (load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores)", flush=True)

    return say


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """The lab, its templates and a small platform, made with the latencies switched on from the platform on."""
    if os.geteuid() != 0:
        pytest.skip("lab machines need root: mounts, network namespaces, control groups")
    layout = LabLayout(tmp_path_factory.mktemp("lab"))
    up = run_lab("up", "--dir", layout.directory, "--cache", CACHE)
    assert up.returncode == 0, up.stderr
    try:
        bench = Bench(Shop(layout, connect(layout), tmp_path_factory.mktemp("shop")))
        for tier in ("balancer", "web"):
            bench.shop.run("template", "build", tier, "--yes")
        bench.control("latencies", clone_s=CLONE_S, boot_s=BOOT_S, clone_slots_per_storage=CLONE_SLOTS)
        bench.shop.run("provision", "--yes")
        yield bench
    finally:
        down = run_lab("down", "--dir", layout.directory)
        assert down.returncode == 0, down.stderr


@pytest.fixture(scope="session")
def scaled(bench: Bench) -> Scaled:
    """Scale the web tier from 2 to 10, the clock running from the command to its end, which is when all serve."""
    bench.expect_serving(BEFORE)
    bench.control("requests", reset=True)
    began = time.monotonic()
    run = bench.shop.scale_to(AFTER)
    seconds = time.monotonic() - began
    requests = bench.control("requests")["requests"]
    for step in run.report["steps"]:
        print(f"  {step['started_at'][11:21]} {step['seconds']:6.1f} s  {step['key']}: {step['outcome']}")
    bench.expect_serving(AFTER)
    return Scaled(seconds, requests)
