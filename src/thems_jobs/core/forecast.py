"""What a plan will take, machine by machine and as a whole."""

from collections.abc import Mapping
from dataclasses import dataclass

from thems_jobs.core.plan import Plan, expected_s
from thems_jobs.core.timeline import timeline


@dataclass(frozen=True)
class Expectation:
    """Seconds that something should take; `assumed` if any part of them was never measured here."""

    seconds: float
    assumed: bool


def of_machines(plan: Plan, measured: Mapping[str, float]) -> dict[str, Expectation]:
    """Given measured seconds by action, return what each machine's own steps should take, waits for others left out."""
    sums: dict[str, Expectation] = {}
    for step in plan.steps:
        seconds, assumed = expected_s(step, measured)
        before = sums.get(step.target, Expectation(0.0, False))
        sums[step.target] = Expectation(before.seconds + seconds, before.assumed or assumed)
    return sums


def of_plan(plan: Plan, measured: Mapping[str, float]) -> Expectation:
    """Given measured seconds by action, return what the whole plan should take, from its first step to its last."""
    ends = [end for _, end in timeline(plan, measured).values()]
    return Expectation(max(ends, default=0.0), any(expected_s(step, measured)[1] for step in plan.steps))
