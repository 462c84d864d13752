"""A run as a person, or a log, follows it: the plan, the question, the progress."""

import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import NoReturn

from rich.console import Console, RenderableType

from thems_jobs import display
from thems_jobs.clock import SystemClock
from thems_jobs.core import forecast
from thems_jobs.core.facts import Facts
from thems_jobs.core.jenkins_jobs import Sync
from thems_jobs.core.outcome import StepRun
from thems_jobs.core.plan import Plan
from thems_jobs.progress import Board, Lines
from thems_jobs.wish import Wish


class Watch:
    """What a person, or a log, sees of a run: the plan, the question, the progress."""

    def __init__(self, wish: Wish, clock: SystemClock, console: Console) -> None:
        self._wish, self._clock, self._console = wish, clock, console
        self._progress: Board | Lines | None = None
        self.unapproved = ""  # digest of the plan that nobody said yes to

    def approve(self, plan: Plan, facts: Facts) -> bool:
        """Given the plan, show it, and return whether it may be done."""
        measured = facts.seconds
        return self._agreed(plan, display.plan_view(plan, measured, plan.refusals), measured)

    def approve_jobs(self, sync: Sync) -> bool:
        """Given what would be done to Jenkins' jobs, show it, and return whether it may be done."""
        return self._agreed(sync.plan, display.jobs_view(sync.plan, sync.differences), {})

    def _agreed(self, plan: Plan, view: RenderableType, measured: Mapping[str, float]) -> bool:
        self._console.print(view)
        approved = self._wish.yes or bool(self._wish.expect_plan) or self._says_yes()
        if self._clock.stopping() or not approved:
            self.unapproved = plan.digest
            return False
        if self._console.is_terminal:
            self._progress = Board(self._console, len(plan.steps), forecast.of_plan(plan, measured).seconds)
        else:
            self._progress = Lines(self._print_line)
        self._progress.__enter__()
        return True

    def _says_yes(self) -> bool:
        """Ask, where there is somebody to answer. A signal is an answer too."""
        if self._clock.stopping() or not (sys.stdin.isatty() and self._console.is_terminal):
            return False

        def leave(_number: int, _frame: object) -> NoReturn:
            self._clock.stop()
            raise EOFError

        before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            self._console.print("\nDo this? Type yes: ", end="")
            return input().strip().lower() in ("yes", "y")
        except EOFError:
            self._console.print()
            return False
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _print_line(self, line: str) -> None:
        with suppress(OSError):  # nobody reads the log any more: no reason to leave a run half done
            self._console.out(line, highlight=False)

    def on_step(self, run: StepRun) -> None:
        """Given a step that began or ended, show it."""
        if self._progress:
            self._progress.on_step(run)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._progress:
            self._progress.__exit__(None, None, None)
