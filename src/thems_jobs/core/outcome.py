"""What became of a run: its steps as they went, and how it ended."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from thems_jobs.core.facts import Counters, Facts
from thems_jobs.core.machine import answering
from thems_jobs.core.plan import Plan, Refusal


class Exit(IntEnum):
    """The whole contract with Jenkins."""

    OK = 0
    CRASHED = 1
    USAGE = 2
    CHANGES = 3
    REFUSED = 4
    DEGRADED = 5
    HALTED = 6
    ABORTED = 143


@dataclass(frozen=True)
class StepRun:
    """A step as it went; `ended_at` is None while it is under way. Times are unix seconds."""

    key: str
    action: str
    target: str
    node: str
    expected_s: float
    assumed: bool
    started_at: float
    ended_at: float | None = None
    outcome: str = "running"  # running, ok, failed, aborted
    detail: str = ""
    told: str = ""  # what people should know of it though it went well


@dataclass(frozen=True)
class MachineRow:
    """One machine in the before/after table."""

    name: str
    tier: str
    node: str
    address: str
    phase: str
    connections: int | None
    weight: int | None


@dataclass(frozen=True)
class Outcome:
    """A run from its beginning to its end. `plan` is what was shown and approved."""

    command: str
    platform: str
    started_by: str
    started_at: float
    ended_at: float
    exit: Exit
    message: str  # the line that matters
    next: str  # the command to go on with; "" when there is nothing to do
    plan: Plan
    measured: Mapping[str, float]  # seconds by action, as the plan's expectations were made from
    steps: tuple[StepRun, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    warnings: tuple[str, ...] = ()
    before: tuple[MachineRow, ...] = ()
    after: tuple[MachineRow, ...] = ()
    about: str = "machine"  # what the plan's changes and the differences are about
    differences: Mapping[str, str] = field(default_factory=dict)  # a diff by what differs, to be shown as it is
    served: Counters | None = None  # at the balancers' front between before and after; None if not comparable


def machine_rows(facts: Facts) -> tuple[MachineRow, ...]:
    """Given facts, return the machines as people read them, tier by tier."""
    views = list(answering(facts).values())
    rows = []
    for tier in sorted({machine.tier for machine in facts.machines.values()}):
        for machine in facts.of_tier(tier):
            servers = [view.servers[machine.name] for view in views if machine.name in view.servers]
            rows.append(
                MachineRow(
                    machine.name, tier, machine.node, machine.address,
                    str(machine.phase or ("template" if machine.template else "cloning")),
                    sum(server.connections for server in servers) if servers else None,
                    min(server.weight for server in servers) if servers else None,
                )
            )  # fmt: skip
    return tuple(rows)
