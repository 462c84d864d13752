"""Play many schedules, or one of them with every step shown: python tests/simulation/simulate.py --help."""

import argparse
import logging
import sys
import time
import traceback
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from schedules import schedule_of

SLICE = 50  # schedules that one process plays in a row


def reproduce(seed: int) -> str:
    return f"python tests/simulation/simulate.py --seed {seed}"


def play(first: int, count: int, within_s: float = float("inf")) -> tuple[int, list[str]]:
    """Given the first seed, a number and how long it may take, return how many were played and what went wrong."""
    failures, end, played = list[str](), time.monotonic() + within_s, 0
    logging.disable(logging.CRITICAL)  # runs in trouble say so, thousands of times
    for seed in range(first, first + count):
        if time.monotonic() > end:
            break
        played += 1
        try:
            schedule_of(seed)
        except Exception as error:
            failures.append(f"seed {seed}: {error!r} — {reproduce(seed)}")
    return played, failures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2000, help="how many schedules")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="one schedule, with every step shown")
    arguments = parser.parse_args()
    if arguments.seed is not None:
        try:
            schedule_of(arguments.seed, trace=print)
        except Exception:
            traceback.print_exc()
            return 1
        return 0
    began = time.monotonic()
    played, failures = play(arguments.first, arguments.seeds)
    for reason, count in Counter(failure.partition(": ")[2][:70] for failure in failures).most_common(20):
        print(f"{count} × {reason}")
    print("\n".join(failures[:20]))
    print(f"{played} schedules in {time.monotonic() - began:.0f} s, {len(failures)} broken")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
