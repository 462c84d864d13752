"""How long `thems-jobs --help` takes, against a Python that does nothing."""

import subprocess
import sys
import time
from pathlib import Path

from bench_lab import Tell

RUNS = 7
AIM = 15.0  # times the bare interpreter: 0.3 s where that takes 0.02 s


def quickest(command: list[str]) -> float:
    """Given a command, return the seconds of its quickest run: what it needs when nobody disturbs."""
    seconds = []
    for _ in range(RUNS):
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def test_help_comes_at_once(tell: Tell) -> None:
    bare = quickest([sys.executable, "-c", "pass"])
    shown = quickest([str(Path(sys.executable).with_name("thems-jobs")), "--help"])
    tell(f"--help: {shown:.2f} s = {shown / bare:.1f} × python -c pass ({bare:.3f} s); aim < 0.3 s on a quiet machine")
    assert shown <= AIM * bare
