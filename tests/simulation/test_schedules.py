"""Random schedules of faults and kills, from seeds, on the model world: the invariants hold and all converge."""

import os
from concurrent.futures import ProcessPoolExecutor

import pytest
from schedules import schedule_of
from simulate import SLICE, play

SCHEDULES = int(os.environ.get("THEMS_SEEDS") or "2000")
FIRST = int(os.environ.get("THEMS_SEED") or "0")


@pytest.mark.timeout(0)  # THEMS_SEEDS may ask for any number; a run that goes round in circles ends by itself
@pytest.mark.slow
def test_random_schedules_converge_and_harm_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    slices = [(first, min(SLICE, FIRST + SCHEDULES - first)) for first in range(FIRST, FIRST + SCHEDULES, SLICE)]
    with ProcessPoolExecutor() as processes:
        results = list(processes.map(play, *zip(*slices, strict=True)))
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
