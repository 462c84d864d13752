"""Random schedules of faults and kills, from seeds, on the model world: the invariants hold and all converge."""

import os
import time
from concurrent.futures import ProcessPoolExecutor

import pytest
from schedules import schedule_of
from simulate import SLICE, play

SCHEDULES = int(os.environ.get("THEMS_SEEDS") or "2000")  # at least
WITHIN_S = 0.0 if os.environ.get("THEMS_SEEDS") else 90.0  # and as many more as this allows
FIRST = int(os.environ.get("THEMS_SEED") or "0")


@pytest.mark.timeout(0)  # THEMS_SEEDS may ask for any number; a run that goes round in circles ends by itself
@pytest.mark.slow
def test_random_schedules_converge_and_harm_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    end = time.monotonic() + WITHIN_S
    slices = [(first, min(SLICE, FIRST + SCHEDULES - first)) for first in range(FIRST, FIRST + SCHEDULES, SLICE)]
    cores, more = os.cpu_count() or 1, FIRST + SCHEDULES
    with ProcessPoolExecutor(cores) as processes:
        results = list(processes.map(play, *zip(*slices, strict=True)))
        while (left := end - time.monotonic()) > 0:
            firsts = [more + SLICE * core for core in range(cores)]
            results += processes.map(play, firsts, [SLICE] * cores, [left] * cores)
            more += SLICE * cores
    failures = [failure for _, found in results for failure in found]
    with capsys.disabled():
        print(f"\n{sum(played for played, _ in results)} schedules from seed {FIRST}, {len(failures)} broken")
    assert not failures, "\n".join(failures[:10])


def test_a_seed_plays_the_same_schedule_again() -> None:
    for seed in (3, 17, 40):
        lines: tuple[list[str], list[str]] = ([], [])
        for heard in lines:
            schedule_of(seed, heard.append)
        assert lines[0] == lines[1]
        assert lines[0]
