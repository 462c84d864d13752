"""A run while it goes: one line per machine on a terminal, one line per ended step anywhere else."""

import threading
import time
from collections.abc import Callable, Mapping

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from thems_jobs import phrases
from thems_jobs.core.outcome import StepRun
from thems_jobs.core.plan import Action
from thems_jobs.display import words

DOING: Mapping[str, str] = {
    Action.CLAIM: "writing the claim", Action.RESERVE: "reserving ids", Action.CLONE: "asking for a clone",
    Action.AWAIT_CLONE: "cloning", Action.CONFIGURE: "setting size and network", Action.START: "switching on",
    Action.AWAIT_BOOT: "booting", Action.CONVERGE: "configuring", Action.CHECK: "checking and warming up",
    Action.FORBID_BOOTSTRAP: "being kept from making a cluster", Action.BACKUP: "giving a copy of its data",
    Action.BOOTSTRAP: "making the cluster", Action.JOIN: "joining the cluster",
    Action.AWAIT_SYNC: "taking the data", Action.LEAVE: "leaving the cluster",
    Action.ADMIT: "getting its first visitors", Action.AWAIT_UP: "being checked by the balancers",
    Action.SERVE: "getting its full share", Action.RESTORE: "getting its share back",
    Action.WITHDRAW: "getting no new visitors", Action.AWAIT_DRAIN: "draining", Action.RETIRE: "leaving the balancers",
    Action.STOP: "shutting down", Action.AWAIT_STOP: "shutting down", Action.DESTROY: "being removed",
    Action.AWAIT_DESTROY: "being removed", Action.SETTLE: "tidying up",
    Action.CREATE: "asking for a VM", Action.AWAIT_CREATE: "importing the image", Action.GROW: "enlarging the disk",
    Action.AWAIT_GROW: "enlarging the disk", Action.BAKE: "installing its role", Action.SEAL: "forgetting who it is",
    Action.CONVERT: "becoming a template", Action.AWAIT_CONVERT: "becoming a template",
    Action.MAKE_FOLDER: "being made", Action.CREATE_JOB: "being created", Action.UPDATE_JOB: "being updated",
    Action.DISABLE_JOB: "being disabled",
}  # fmt: skip
ENDED: Mapping[str, str] = {
    Action.SERVE: "serves", Action.RESTORE: "serves again", Action.AWAIT_DESTROY: "is gone",
    Action.RETIRE: "left the balancers", Action.CLAIM: "written", Action.SETTLE: "tidy",
    Action.AWAIT_CONVERT: "is a template",
}  # fmt: skip
RECORD = (Action.CLAIM, Action.RESERVE, Action.SETTLE)
TOOK, WORDS, BAR = 10, 34, 16  # signs: the longest duration, the longest of DOING, the bar
LATE_S = 5.0  # a step is shown as late when it has taken twice what was expected and so much more


class Lines:
    """One plain line for each step that ended, for logs."""

    def __init__(self, print_line: Callable[[str], None]) -> None:
        self._print_line = print_line

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is left to be done: every line was printed when it was due."""

    def on_step(self, run: StepRun) -> None:
        """Given a step that began or ended, print it if it ended."""
        if run.ended_at is None:
            return
        at = phrases.moment(run.ended_at)[11:19]
        took, expected = phrases.duration(run.ended_at - run.started_at), phrases.duration(run.expected_s)
        line = f"{at} {run.target} {run.action} {run.outcome}, {took} (expected {expected})"
        more = run.told if run.outcome == "ok" else run.detail
        self._print_line(phrases.plain(f"{line}: {more}" if more else line))


class Board:
    """One line per machine, redrawn while steps begin and end."""

    def __init__(self, console: Console, steps: int, expected_s: float) -> None:
        self._latest: dict[str, StepRun] = {}
        self._under_way: dict[str, StepRun] = {}
        self._ended = 0
        self._steps, self._expected_s = steps, expected_s
        self._started_at = time.time()
        self._spinner = Spinner("dots")
        self._lock = threading.Lock()
        self._live = Live(self, console=console, refresh_per_second=4, transient=False)

    def __enter__(self) -> "Board":
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def on_step(self, run: StepRun) -> None:
        """Given a step that began or ended, keep it for the next drawing."""
        with self._lock:
            self._latest["record" if run.action in RECORD else run.target] = run
            if run.ended_at is None:
                self._under_way[run.key] = run
            else:
                self._under_way.pop(run.key, None)
                self._ended += 1

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        with self._lock:
            latest, ended = list(self._latest.items()), self._ended
        now = time.time()
        room = max(3, options.size.height - 3)
        if len(latest) > room:  # those that are at rest have nothing new to say
            latest = sorted(latest, key=lambda item: item[1].ended_at is not None)[:room]
        width = max((len(name) for name, _ in latest), default=0)
        for name, run in latest:
            line = Text.assemble(phrases.plain(name).ljust(width), "  ", *self._line(run, now))
            line.truncate(options.max_width, overflow="ellipsis")
            yield line
        took, expected = phrases.duration(now - self._started_at), phrases.duration(self._expected_s)
        yield Text(f"{ended} of {self._steps} steps, {took} of about {expected}", "dim")

    def _line(self, run: StepRun, now: float) -> list[Text]:
        """Given a machine's latest step, return how long it has taken, what it does, and how far that is."""
        doing = DOING.get(run.action, run.action)
        took = phrases.duration((run.ended_at or now) - run.started_at).rjust(TOOK)
        if run.ended_at is None:
            past = now - run.started_at
            full = min(BAR, int(BAR * past / run.expected_s)) if run.expected_s > 0 else 0
            late = "yellow" if past > 2 * run.expected_s + LATE_S else ""
            spin = self._spinner.render(now)
            mark = spin if isinstance(spin, Text) else Text("-")
            bar = Text.assemble(("━" * full, "cyan"), ("━" * (BAR - full), "bright_black"))
            return [Text(took, late), Text("  "), mark, Text(f" {doing}".ljust(WORDS)), bar]
        if run.outcome == "ok":
            return [Text(took, "dim"), Text("  ✓ ", "green"), Text(ENDED.get(run.action, doing))]
        return [Text(took, "dim"), words(f"  ✗ {run.action} {run.outcome}: {run.detail}", "bold red")]
