"""A plan: every step that remains, or the reasons why nothing may be done."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

from thems_jobs.core.rejoin import Rejoin


class Action(StrEnum):
    """What a step does. Those of WAITS do nothing: they are over when the facts say so."""

    CLAIM = "claim"
    RESERVE = "reserve"
    CLONE = "clone"
    AWAIT_CLONE = "await-clone"
    CONFIGURE = "configure"
    START = "start"
    AWAIT_BOOT = "await-boot"
    CONVERGE = "converge"
    CHECK = "check"
    FORBID_BOOTSTRAP = "forbid-bootstrap"
    BACKUP = "backup"
    BOOTSTRAP = "bootstrap"
    JOIN = "join"
    AWAIT_SYNC = "await-sync"
    LEAVE = "leave"
    ADMIT = "admit"
    AWAIT_UP = "await-up"
    SERVE = "serve"
    RESTORE = "restore"
    WITHDRAW = "withdraw"
    AWAIT_DRAIN = "await-drain"
    RETIRE = "retire"
    STOP = "stop"
    AWAIT_STOP = "await-stop"
    DESTROY = "destroy"
    AWAIT_DESTROY = "await-destroy"
    SETTLE = "settle"
    CREATE = "create"
    AWAIT_CREATE = "await-create"
    GROW = "grow"
    AWAIT_GROW = "await-grow"
    BAKE = "bake"
    SEAL = "seal"
    CONVERT = "convert"
    AWAIT_CONVERT = "await-convert"
    MAKE_FOLDER = "make-folder"
    CREATE_JOB = "create-job"
    UPDATE_JOB = "update-job"
    DISABLE_JOB = "disable-job"


# These change the balancers' tables.
TABLES = frozenset({Action.ADMIT, Action.SERVE, Action.RESTORE, Action.WITHDRAW, Action.RETIRE})
# These change Jenkins, and no machine.
OF_JENKINS = frozenset({Action.MAKE_FOLDER, Action.CREATE_JOB, Action.UPDATE_JOB, Action.DISABLE_JOB})
NOTED = OF_JENKINS | {Action.CLAIM, Action.BOOTSTRAP}  # what their notes say is part of what is approved


@dataclass(frozen=True)
class Wait:
    """Why we wait, how often we look, when we give up (seconds)."""

    reason: str
    poll_s: float
    deadline_s: float


# How long each action takes where neither this platform's record nor the cluster's history knows better.
ASSUMED_S: Mapping[Action, float] = {
    Action.AWAIT_CLONE: 30, Action.AWAIT_BOOT: 30, Action.CONVERGE: 30, Action.CHECK: 3, Action.AWAIT_UP: 5,
    Action.AWAIT_DRAIN: 30, Action.AWAIT_STOP: 10, Action.AWAIT_DESTROY: 5,
    Action.FORBID_BOOTSTRAP: 3, Action.BACKUP: 60, Action.BOOTSTRAP: 10, Action.AWAIT_SYNC: 30, Action.LEAVE: 10,
    Action.AWAIT_CREATE: 30, Action.AWAIT_GROW: 2, Action.BAKE: 180, Action.SEAL: 10, Action.AWAIT_CONVERT: 5,
}  # fmt: skip


@dataclass(frozen=True)
class Step:
    """One thing to do to one machine, after the steps named in `after`."""

    action: Action
    target: str
    after: frozenset[str] = frozenset()
    wait: Wait | None = None
    node: str = ""
    slot: str = ""  # steps of one slot are limited in number; see Plan.slots
    batch: str = ""  # heads of one batch are performed together, in one call
    note: str = ""

    @cached_property
    def key(self) -> str:
        return f"{self.action} {self.target}"


@dataclass(frozen=True)
class Refusal:
    """A closed gate: which, about what, what was measured, what is required, what to do."""

    reference: str
    subject: str
    measured: str
    required: str
    remedy: str
    machine: str = ""  # closed for this machine only; "" closes the gate for the whole plan

    def __str__(self) -> str:
        return f"{self.subject}: {self.measured}; required: {self.required}. {self.remedy}"


@dataclass(frozen=True)
class Condition:
    """One condition, asked of one subject. `ok` None: it could not be asked, and another check says why."""

    reference: str
    subject: str
    measured: str
    required: str
    ok: bool | None
    remedy: str = ""


@dataclass(frozen=True)
class Change:
    """What happens to one machine, as a person reads it."""

    kind: str  # make, finish, repair, restore, remove, backup; bootstrap, join
    machine: str
    node: str
    why: str


@dataclass(frozen=True)
class Plan:
    """All remaining steps and all refusals. `slots` limits how many steps of one slot may run at once.

    `checks` are the measurements behind gates that were asked whatever the steps are, `rejoin` is how the database
    member that was asked about would come back, `finding` is what a plan without steps has to say, `notes` are what
    whoever decides on it should know besides.
    """

    steps: tuple[Step, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    changes: tuple[Change, ...] = ()
    slots: Mapping[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    checks: tuple[Condition, ...] = ()
    rejoin: Rejoin | None = None
    finding: str = ""
    notes: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """What an approval binds to: targets and steps; no ids, addresses, seconds or measurements.

        No backup either: whether one is due is a matter of time, and it takes nothing away.
        """
        bound = [step for step in self.steps if step.action is not Action.BACKUP]
        text = "\n".join(sorted(step.key + (f" {step.note}" if step.action in NOTED else "") for step in bound))
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def heads(plan: Plan, in_flight: frozenset[str]) -> list[Step]:
    """Given the steps under way, return those to begin or to go on waiting for: predecessors done, a slot free."""
    remaining = {step.key for step in plan.steps}
    free = dict(plan.slots)
    ready = []
    for step in plan.steps:
        if step.key in in_flight and step.slot:
            free[step.slot] = free.get(step.slot, 1) - 1
    for step in sorted(plan.steps, key=lambda step: step.wait is None):  # waits hold their slots first
        if step.key in in_flight or not step.after.isdisjoint(remaining):
            continue
        if step.slot:
            if free.get(step.slot, 1) <= 0 and step.wait is None:
                continue
            free[step.slot] = free.get(step.slot, 1) - 1
        ready.append(step)
    return ready


def behind(step: Step, after: frozenset[str]) -> Step:
    """Given a step, return it behind these others, too. (A plan has many: this is the cheap form of `replace`.)"""
    if step.after:
        after = step.after | after
    return Step(step.action, step.target, after, step.wait, step.node, step.slot, step.batch, step.note)


def chain(steps: Iterable[Step], after: frozenset[str] = frozenset()) -> tuple[Step, ...]:
    """Given steps in order, return them each behind the one before, the first behind `after`."""
    linked: list[Step] = []
    for step in steps:
        linked.append(behind(step, after))
        after = frozenset({linked[-1].key})
    return tuple(linked)


def expected_s(step: Step, measured: Mapping[str, float]) -> tuple[float, bool]:
    """Given measured seconds by action, return the step's expected seconds and whether they are only assumed."""
    if step.action in measured:
        return measured[step.action], False
    return ASSUMED_S.get(step.action, 1.0), step.action in ASSUMED_S
