"""A job as the runner sees it: look, plan, do; its clients are bound already."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from thems_jobs.core.facts import Facts
from thems_jobs.core.plan import Plan, Step
from thems_jobs.core.platform import Platform
from thems_jobs.core.record import Record
from thems_jobs.errors import ThemsError


@dataclass(frozen=True)
class Look:
    """What to look at again: machines just touched, and the waits under way. Nothing else is asked.

    `record` is the platform's record if a step has just written it. `anew` looks at everything; facts that are given
    with it are of a moment ago, nobody else had the lease since, and their record is the one of now.
    """

    touched: frozenset[str] = frozenset()
    waits: tuple[Step, ...] = ()
    record: Record | None = None
    anew: bool = False


@dataclass(frozen=True)
class Done:
    """What became of one performed step: an error, or what was learned of its machine (fields of Machine).

    `record` is the platform's record as the step wrote it, `told` what people should know of it though it went well.
    """

    error: ThemsError | None = None
    learned: Mapping[str, Any] = field(default_factory=dict)
    record: Record | None = None
    told: str = ""


@dataclass(frozen=True)
class Job:
    """One job on one platform.

    `observe` takes the facts before (None at first: look at everything) and what to look at.
    `perform` takes a batch of steps and returns what became of each, by key; it raises nothing but bugs.
    `cancel` ends what takes long, soon.
    """

    name: str
    platform: Platform
    observe: Callable[[Facts | None, Look], Facts]
    plan: Callable[[Facts], Plan]
    perform: Callable[[Sequence[Step], Facts], Mapping[str, Done]]
    change_record: Callable[[Callable[[Record], Record]], Record]
    cancel: Callable[[], None]
