"""The picture of a run: a lane per machine, what was expected as an outline, what happened as a bar."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from thems_jobs import phrases
from thems_jobs.core.outcome import Outcome
from thems_jobs.core.plan import Action
from thems_jobs.core.timeline import timeline

# Which actions have one colour: the same kind of work.
KINDS: Mapping[str, tuple[Action, ...]] = {
    "record": (Action.CLAIM, Action.RESERVE, Action.SETTLE),
    "clone": (Action.CLONE, Action.AWAIT_CLONE, Action.CREATE, Action.AWAIT_CREATE, Action.GROW, Action.AWAIT_GROW),
    "boot": (Action.CONFIGURE, Action.START, Action.AWAIT_BOOT),
    "configure": (Action.CONVERGE, Action.CHECK, Action.BAKE, Action.SEAL, Action.CONVERT, Action.AWAIT_CONVERT),
    "join": (Action.FORBID_BOOTSTRAP, Action.BOOTSTRAP, Action.JOIN, Action.AWAIT_SYNC),
    "copy": (Action.BACKUP,),
    "admit": (Action.ADMIT, Action.AWAIT_UP, Action.SERVE, Action.RESTORE),
    "drain": (Action.WITHDRAW, Action.AWAIT_DRAIN, Action.RETIRE),
    "jenkins": (Action.MAKE_FOLDER, Action.CREATE_JOB, Action.UPDATE_JOB, Action.DISABLE_JOB),
    "remove": (Action.LEAVE, Action.STOP, Action.AWAIT_STOP, Action.DESTROY, Action.AWAIT_DESTROY),
}
# Attributes, not style: Jenkins shows reports without any style, and the bars must still be there.
COLOURS: Mapping[str, str] = {
    "record": "#8a94a6", "clone": "#5b8def", "boot": "#2fa8b8", "configure": "#8f6fd8",
    "join": "#c2549b", "copy": "#7c8a3a", "admit": "#3fa66a",
    "drain": "#d99a2b", "remove": "#b0735a", "jenkins": "#8f6fd8",
    "failed": "#d64545",
}  # fmt: skip
TICKS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200)
TICKS = 6  # at most so many, so that their labels fit on a phone
NARROWEST = 0.35  # percent; anything shorter could not be seen


@dataclass(frozen=True)
class Bar:
    """One step. `left` and `width` are percent of the lane."""

    left: float
    width: float
    kind: str
    colour: str
    wait: bool
    title: str


@dataclass
class Lane:
    """One machine."""

    name: str
    expected: list[Bar] = field(default_factory=list)
    actual: list[Bar] = field(default_factory=list)
    node: str = ""


@dataclass(frozen=True)
class Picture:
    """All lanes on one time axis; `ticks` are percent and label."""

    lanes: tuple[Lane, ...]
    ticks: tuple[tuple[float, str], ...]
    kinds: tuple[tuple[str, str], ...]


def kind_of(action: str) -> str:
    """Given an action, return the kind of work it is."""
    return next(kind for kind, actions in KINDS.items() if action in actions)


def picture(outcome: Outcome) -> Picture | None:
    """Given an outcome, return its picture, or None if nothing was planned and nothing was done."""
    spans = timeline(outcome.plan, outcome.measured)
    if not spans and not outcome.steps:
        return None
    origin = min((run.started_at for run in outcome.steps), default=outcome.started_at)
    ends = [(run.ended_at or outcome.ended_at) - origin for run in outcome.steps]
    horizon = max([end for _, end in spans.values()] + ends + [1.0]) * 1.01
    lanes: dict[str, Lane] = {}
    nodes = {change.machine: change.node for change in outcome.plan.changes}

    def lane_of(action: str, target: str, node: str) -> Lane:
        name = "record" if kind_of(action) == "record" else target
        return lanes.setdefault(name, Lane(name, node=nodes.get(target, node)))

    def bar(action: str, start: float, end: float, title: str, failed: bool = False) -> Bar:
        kind = "failed" if failed else kind_of(action)
        width = max(NARROWEST, 100 * (end - start) / horizon)
        wait = action.startswith("await-") and not failed
        return Bar(round(100 * start / horizon, 3), round(width, 3), kind, COLOURS[kind], wait, title)

    for step in outcome.plan.steps:
        if step.key in spans:
            start, end = spans[step.key]
            title = f"{step.key}: expected {phrases.duration(end - start)}"
            lane_of(step.action, step.target, step.node).expected.append(bar(step.action, start, end, title))
    for run in sorted(outcome.steps, key=lambda run: run.started_at):
        start, end = run.started_at - origin, (run.ended_at or outcome.ended_at) - origin
        title = f"{run.key}: {phrases.duration(end - start)} (expected {phrases.duration(run.expected_s)})"
        title += f", {run.outcome}" if run.outcome != "ok" else ""
        title += f" – {run.detail}" if run.detail else ""
        lane_of(run.action, run.target, run.node).actual.append(
            bar(run.action, start, end, title, run.outcome == "failed")
        )
    shown = {bar.kind for lane in lanes.values() for bar in lane.expected + lane.actual}
    kinds = tuple((kind, colour) for kind, colour in COLOURS.items() if kind in shown)
    return Picture(tuple(lanes.values()), _ticks(horizon), kinds)


def _ticks(horizon: float) -> tuple[tuple[float, str], ...]:
    apart = next((seconds for seconds in TICKS_S if horizon / seconds <= TICKS), TICKS_S[-1])
    return tuple((round(100 * at / horizon, 3), _clock(at)) for at in range(0, int(horizon) + 1, apart))


def _clock(seconds: int) -> str:
    if seconds < 3600:
        return f"{seconds // 60}:{seconds % 60:02d}"
    return f"{seconds // 3600}:{seconds % 3600 // 60:02d} h"
