"""The loop: look, plan the whole, do the heads, look again, until nothing remains."""

import logging
import math
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from statistics import fmean

from thems_jobs.clock import Clock
from thems_jobs.core import approval, gates
from thems_jobs.core.facts import Counters, Facts, Phase
from thems_jobs.core.job import Done, Job, Look
from thems_jobs.core.machine import answering
from thems_jobs.core.outcome import Exit, Outcome, StepRun, machine_rows
from thems_jobs.core.plan import TABLES, Action, Plan, Refusal, Step, expected_s, heads
from thems_jobs.core.record import Approved, Lease
from thems_jobs.errors import EffectFailed, ThemsError, Transient, Unreachable
from thems_jobs.lease import HeldLease

log = logging.getLogger(__name__)

ATTEMPTS = 5  # of one effect that fails in a way worth looking again
BACKOFF_S = 1.0  # before the second attempt, then doubled
BATCHES = 2  # of one kind at once: while they run, later steps gather for the next
STOP_S = 10.0  # what may still be under way gets so long after SIGTERM; Jenkins kills after 20
CLOSED_POLL_S = 2.0  # how often a gate that closed in mid-run is asked again
SAME_LOOK_S = 10.0  # so long after the look that a plan rests on, what cannot have changed is not asked again


@dataclass(frozen=True)
class Options:
    """How this run was asked for. `approve` is asked once, with the plan, before anything is changed."""

    command: str  # to be shown, and run again, as it stands
    started_by: str
    approve: Callable[[Plan, Facts], bool]
    token: str  # identifies this run in the lease
    is_over: Callable[[str], bool] = lambda _token: False  # whether the run of a token is certainly dead
    expect_plan: str = ""
    scheduled: bool = False  # nobody waits for it: a held lease is no refusal


@dataclass
class _Run:
    """What one run keeps in mind: it may all be lost."""

    job: Job
    clock: Clock
    options: Options
    on_step: Callable[[StepRun], None]
    measured: Mapping[str, float] = field(default_factory=dict)
    calls: dict["Future[dict[str, Done]]", tuple[Step, ...]] = field(default_factory=dict)
    runs: dict[str, StepRun] = field(default_factory=dict)
    ended: list[StepRun] = field(default_factory=list)
    attempts: dict[str, int] = field(default_factory=dict)
    went_well: dict[str, int] = field(default_factory=dict)
    not_before: dict[str, float] = field(default_factory=dict)
    failed: dict[str, ThemsError] = field(default_factory=dict)
    closed_since: float = 0.0
    before: Facts | None = None
    facts: Facts | None = None  # the latest

    def __post_init__(self) -> None:
        self.lease = HeldLease(
            self.job.change_record, self.clock, self.options.token, self.options.started_by,
            self.job.platform.timeouts.lease_s, self.options.is_over,
        )  # fmt: skip


def preview(job: Job) -> tuple[Plan, Facts]:
    """Given a job, return what it would do and the facts that rests on. Nothing is changed."""
    facts = job.observe(None, Look())
    return job.plan(facts), facts


def run(job: Job, clock: Clock, options: Options, on_step: Callable[[StepRun], None]) -> Outcome:
    """Given a job, do what its plan says until nothing remains, and return what became of it.

    Raise nothing but bugs: whatever the world does ends as an outcome.
    """
    state, started_at = _Run(job, clock, options, on_step), clock.now()
    try:
        plan, before = preview(job)
    except ThemsError as error:
        return _outcome(state, started_at, Plan(), None, None, _refused(error))
    state.before, state.measured = before, before.seconds
    try:
        ending = _refusal_before(state, plan, before) or _apply(state, plan, before)
    except ThemsError as error:
        ending = _Ending(Exit.HALTED if state.ended else Exit.REFUSED, str(error), (_as_refusal(error),))
    return _outcome(state, started_at, plan, before, _after(state, before), ending)


def _after(state: _Run, before: Facts) -> Facts:
    """Return the facts at the end of a run; what the machines are is known, the balancers are asked once more."""
    if state.facts is None:
        return before
    try:
        return state.job.observe(state.facts, Look(frozenset(state.facts.machines)))
    except ThemsError as error:
        log.warning("The platform could not be looked at after the run: %s", error)
        return state.facts


@dataclass(frozen=True)
class _Ending:
    exit: Exit
    message: str
    refusals: tuple[Refusal, ...] = ()
    again: bool = True  # running the command again is how to go on


def _as_refusal(error: ThemsError) -> Refusal:
    return Refusal(error.reference, error.subject, error.detail, "it to succeed", error.remedy)


def _refused(error: ThemsError) -> _Ending:
    return _Ending(Exit.REFUSED, f"Refused, nothing was changed: {error}", (_as_refusal(error),))


def _refusal_before(state: _Run, plan: Plan, facts: Facts) -> _Ending | None:
    """Given the plan, return why it ends before anything is changed, or None when it may go on."""
    if not plan.steps and not plan.refusals:
        _tidy(state, facts)
        exit_code = Exit.DEGRADED if plan.warnings else Exit.OK
        return _Ending(
            exit_code,
            plan.warnings[0] if plan.warnings else plan.finding or "Nothing to do: all is as declared.",
            (),
            False,
        )
    if plan.refusals and not any(step.action is Action.RESTORE for step in plan.steps):
        count = len(plan.refusals)
        gates_closed = "1 gate is" if count == 1 else f"{count} gates are"
        return _Ending(Exit.REFUSED, f"Refused, nothing was changed: {gates_closed} closed.", plan.refusals)
    if (other := state.lease.of_another(facts.known_record)) is not None:
        return _held(state, other)
    changed = approval.closed(plan, state.options.expect_plan, facts.known_record.approved)
    if changed:
        message = "Refused, nothing was changed: the plan is no longer the one that was approved."
        return _Ending(Exit.REFUSED, message, tuple(changed))
    if not state.options.approve(plan, facts):
        return _Ending(Exit.REFUSED, "Not approved, nothing was changed.")
    return None


def _tidy(state: _Run, facts: Facts) -> None:
    """Given that nothing is to be done, take out of the record what a run left that died after its last step."""
    record = facts.known_record
    if (record.lease or record.approved) and state.lease.of_another(record) is None:
        state.lease.forget_the_dead(lambda approved: approval.finished(approved, facts))


def _apply(state: _Run, plan: Plan, before: Facts) -> _Ending:
    """Given an approved plan and the facts it rests on, hold the lease and work until nothing remains."""
    options = state.options
    approved = approval.approve(plan, options.started_by, state.clock.now(), options.expect_plan or plan.digest)
    if (other := state.lease.take(approved)) is not None:
        return _held(state, other)
    ending = None
    try:
        ending = _work(state, approved, _look_under_lease(state, before))
        return ending
    finally:
        done = ending is not None and ending.exit in (Exit.OK, Exit.DEGRADED)
        state.lease.give_back(done, _measured(state))


def _held(state: _Run, lease: Lease) -> _Ending:
    refusal = gates.lease(lease, state.clock.now())
    if state.options.scheduled:
        return _Ending(Exit.OK, f"Skipped: the platform is {refusal.measured}.", (), False)
    return _Ending(Exit.REFUSED, f"Refused, nothing was changed: the platform is {refusal.measured}.", (refusal,))


def _measured(state: _Run) -> dict[str, float]:
    """Return how many seconds each action took in this run, on average."""
    seconds: dict[str, list[float]] = {}
    for step in state.ended:
        if step.outcome == "ok" and step.ended_at is not None:
            seconds.setdefault(step.action, []).append(step.ended_at - step.started_at)
    return {action: fmean(values) for action, values in seconds.items()}


def _look_under_lease(state: _Run, before: Facts) -> Facts:
    """Given the facts that the plan rests on, look at everything again, now that nobody else may change it.

    If it is the same look but for a moment, and no run was at work since, what Proxmox lists unchanged is not asked
    again: before each effect the machine's own configuration counts.
    """
    lease, moments = state.lease, state.clock.now() - before.at
    if lease.record is None or lease.found != before.record or moments > SAME_LOOK_S:
        return state.job.observe(None, Look())
    return state.job.observe(replace(before, record=lease.record), Look(anew=True))


def _work(state: _Run, approved: Approved, facts: Facts) -> _Ending:
    """Given the facts, plan, do the heads and look, again and again; return how it ended."""
    while True:
        state.facts, plan = facts, state.job.plan(facts)
        if not approval.covers(approved, plan):
            extra = "The platform changed under the run: what remains is not what was approved."
            refusals = (*plan.refusals, *approval.closed(plan, approved.digest, None))
            return _drain_calls(state, _Ending(Exit.HALTED if _begun(state) else Exit.REFUSED, extra, refusals))
        _end_waits(state, plan)
        state.lease.keep()
        if state.clock.stopping() or state.lease.lost:
            return _drain_calls(state, _stopped(state))
        ready = _ready(state, plan)
        waits = [step for step in ready if step.wait]
        _start_waits(state, waits)
        for batch in _batches([step for step in ready if not step.wait]):
            _start(state, batch, facts)
        later = _later(state, plan)
        if not state.calls and not waits and not state.closed_since and not later:
            return _finished(state, plan)
        if state.closed_since and _given_up(state):
            return _drain_calls(state, _closed(state, plan))
        facts = _look_again(state, facts, waits, later)


def _ready(state: _Run, plan: Plan) -> list[Step]:
    """Given the plan, return the heads that may begin now, and the waits that go on.

    While a gate is closed only steps that give capacity back begin; waits go on.
    """
    now = state.clock.now()
    whole = [refusal for refusal in plan.refusals if not refusal.machine]
    state.closed_since = (state.closed_since or now) if whole else 0.0
    in_flight = frozenset(step.key for steps in state.calls.values() for step in steps)
    ready = []
    for step in heads(plan, in_flight):
        if not step.wait and state.went_well.get(step.key, 0) >= ATTEMPTS:
            state.failed.setdefault(step.key, _in_vain(step))
        if step.key in state.failed or state.not_before.get(step.key, 0) > now:
            continue
        if whole and not step.wait and step.action is not Action.RESTORE:
            continue
        ready.append(step)
    busy = [steps[0].batch for steps in state.calls.values()]
    ready = [step for step in ready if not step.batch or busy.count(step.batch) < BATCHES]
    turn = _turn_at_tables(state, ready)
    return [step for step in ready if step.action not in TABLES or step.batch == turn]


def _turn_at_tables(state: _Run, ready: list[Step]) -> str | None:
    """Return which batch may change the balancers' tables now: of two at once, one would find the other's change."""
    if any(steps[0].action in TABLES for steps in state.calls.values()):
        return None
    return next((step.batch for step in ready if step.action in TABLES), None)


def _in_vain(step: Step) -> EffectFailed:
    """Given an effect that went well again and again and is still planned, return that as its failure."""
    return EffectFailed(
        step.target, f"{step.action} went well {ATTEMPTS} times, and the platform still asks for it.",
        "Look at what undoes it, then run the same command again.",
    )  # fmt: skip


def _later(state: _Run, plan: Plan) -> list[float]:
    """Return when the heads that failed for a while may begin again; what waits for others is no head yet."""
    now = state.clock.now()
    times = [state.not_before.get(step.key, 0) for step in heads(plan, frozenset()) if step.key not in state.failed]
    return [at for at in times if at > now]


def _batches(steps: list[Step]) -> list[tuple[Step, ...]]:
    """Given heads, return them as they are performed: those of one batch together."""
    groups: dict[str, list[Step]] = {}
    for step in steps:
        groups.setdefault(step.batch or step.key, []).append(step)
    return [tuple(group) for group in groups.values()]


def _start(state: _Run, batch: tuple[Step, ...], facts: Facts) -> None:
    for step in batch:
        state.not_before.pop(step.key, None)
        _begin(state, step)
    call = state.clock.submit(lambda: dict(state.job.perform(batch, facts)))
    state.calls[call] = batch


def _start_waits(state: _Run, waits: list[Step]) -> None:
    for step in waits:
        if step.key not in state.runs:
            _begin(state, step)
        run = state.runs[step.key]
        if step.wait and state.clock.now() - run.started_at > step.wait.deadline_s:
            waited = EffectFailed(
                step.target, f"{step.wait.reason}, and that was not over after {step.wait.deadline_s:g} s.",
                "It was left as it is; look at it, then run the same command again.", f"{step.action}-deadline",
            )  # fmt: skip
            _end(state, step, waited)


def _begin(state: _Run, step: Step) -> None:
    seconds, assumed = expected_s(step, state.measured)
    attempt = state.attempts.get(step.key, 0) + 1
    run = StepRun(
        step.key, str(step.action), step.target, step.node, seconds, assumed, state.clock.now(),
        detail=f"attempt {attempt}" if attempt > 1 else step.wait.reason if step.wait else "",
    )  # fmt: skip
    state.runs[step.key] = run
    state.on_step(run)


def _end(state: _Run, step: Step, error: ThemsError | None, outcome: str = "") -> None:
    """Note that a step ended; a transient error earns it another attempt, any other ends it for this run."""
    run, now = state.runs.pop(step.key, None), state.clock.now()
    if error:
        attempts = state.attempts[step.key] = state.attempts.get(step.key, 0) + 1
        if isinstance(error, Transient) and attempts < ATTEMPTS:
            state.not_before[step.key] = now + BACKOFF_S * math.pow(2, attempts - 1)
        else:
            state.failed[step.key] = error
    elif not outcome:
        times = state.went_well[step.key] = state.went_well.get(step.key, 0) + 1
        state.not_before[step.key] = now + (BACKOFF_S * math.pow(2, times - 2) if times > 1 else 0)
    if run:
        outcome = outcome or ("failed" if error else "ok")
        state.ended.append(replace(run, ended_at=now, outcome=outcome, detail=str(error) if error else run.detail))
        state.on_step(state.ended[-1])


def _end_waits(state: _Run, plan: Plan) -> None:
    """Note which waits are over: they have left the plan."""
    remaining = {step.key for step in plan.steps}
    in_flight = {step.key for steps in state.calls.values() for step in steps}
    for key, run in list(state.runs.items()):
        if key not in remaining and key not in in_flight:
            _end(state, Step(Action(run.action), run.target), None)


def _look_again(state: _Run, facts: Facts, waits: list[Step], later: list[float]) -> Facts:
    """Wait until something ends or is due, take in what was learned, and look at what was touched."""
    now = state.clock.now()
    polls = [step.wait.poll_s for step in waits if step.wait] + [at - now for at in later]
    if state.closed_since:  # everything is looked at then, so not more often than that
        polls = [max(CLOSED_POLL_S, poll) for poll in (CLOSED_POLL_S, *polls)]
    renewal = state.lease.renew_at - now
    state.clock.wait(list(state.calls), max(0.05, min([*polls, renewal, 5.0])))
    touched, record = set[str](), None
    machines = dict(facts.machines)
    for call in [call for call in state.calls if call.done()]:
        for step in state.calls[call]:
            done = call.result().get(step.key) or Done()
            touched.add(step.target)
            record = done.record or record
            _end(state, step, done.error)
            if step.target in machines and done.learned:
                machines[step.target] = replace(machines[step.target], **done.learned)
        del state.calls[call]
    facts = replace(facts, machines=machines)
    look = Look(frozenset(touched), tuple(waits), record)
    try:
        if state.closed_since:
            return state.job.observe(replace(facts), Look(frozenset(facts.machines), tuple(waits)))
        return state.job.observe(facts, look)
    except (Transient, Unreachable) as error:
        if not state.closed_since:
            log.warning("Looking again: %s", error)
        return replace(facts, at=state.clock.now())


def _drain_calls(state: _Run, ending: _Ending) -> _Ending:
    """Start nothing new; give what is under way a little time to end."""
    if state.clock.stopping():
        state.job.cancel()
    deadline = state.clock.now() + (STOP_S if state.clock.stopping() else state.job.platform.timeouts.converge_s)
    while state.calls and state.clock.now() < deadline:
        state.clock.wait(list(state.calls), 0.2)
        for call in [call for call in state.calls if call.done()]:
            for step in state.calls.pop(call):
                _end(state, step, (call.result().get(step.key) or Done()).error)
    for steps in state.calls.values():
        for step in steps:
            _end(state, step, None, "aborted")
    for run in list(state.runs.values()):
        _end(state, Step(Action(run.action), run.target), None, "aborted")
    return ending


def _stopped(state: _Run) -> _Ending:
    if state.lease.lost:
        return _Ending(Exit.HALTED, f"Halted: {state.lease.lost}", (_as_refusal(state.lease.lost),))
    return _Ending(Exit.ABORTED, "Aborted on request; running the same command again goes on from here.")


def _given_up(state: _Run) -> bool:
    """True if the gate was closed for too long. What is given back at the same time may be what opens it."""
    patience_s = state.job.platform.timeouts.patience_s if _begun(state) else 0.0
    return state.clock.now() - state.closed_since > patience_s


def _begun(state: _Run) -> bool:
    """True if something was done, or is under way and will have been done."""
    return bool(state.ended or state.calls)


def _closed(state: _Run, plan: Plan) -> _Ending:
    first = plan.refusals[0]
    if not state.ended:
        return _Ending(Exit.REFUSED, f"Refused, nothing was changed: {first}", plan.refusals)
    return _Ending(Exit.HALTED, f"Halted, a gate closed on the way: {first}", plan.refusals)


def _finished(state: _Run, plan: Plan) -> _Ending:
    """Given that nothing is under way and nothing can begin, return how the run ended."""
    refusals = (*plan.refusals, *(_as_refusal(error) for error in state.failed.values()))
    if state.failed or plan.refusals or plan.steps:
        first = next(iter(state.failed.values()), None) or (plan.refusals[0] if plan.refusals else "")
        return _Ending(Exit.HALTED, f"Halted: {first}", refusals)
    text = _in_words(state.before, state.facts) or "all is as declared"
    exit_code = Exit.DEGRADED if plan.warnings else Exit.OK
    return _Ending(exit_code, f"Done: {text}." + "".join(f" {w}" for w in plan.warnings), (), False)


def _in_words(before: Facts | None, after: Facts | None) -> str:
    """Given the facts before and after, return how many serve now, where that changed."""
    if before is None or after is None:
        return ""
    parts = []
    for tier in sorted({machine.tier for machine in (*before.machines.values(), *after.machines.values())}):
        first, last = ({m.name for m in facts.of_tier(tier) if m.phase is Phase.SERVING} for facts in (before, after))
        if first != last:
            count = (
                f"{len(first)} → {len(last)}" if len(first) != len(last) else f"{len(last)}, {len(last - first)} new"
            )
            parts.append(f"{tier} {count} serving")
    return ", ".join(parts)


def _outcome(
    state: _Run, started_at: float, plan: Plan, before: Facts | None, after: Facts | None, ending: _Ending
) -> Outcome:
    return Outcome(
        command=state.options.command,
        platform=state.job.platform.name,
        started_by=state.options.started_by,
        started_at=started_at,
        ended_at=state.clock.now(),
        exit=ending.exit,
        message=ending.message,
        next=state.options.command if ending.again else "",
        plan=plan,
        measured=state.measured,
        steps=tuple(state.ended),
        refusals=ending.refusals,
        warnings=plan.warnings,
        before=machine_rows(before) if before else (),
        after=machine_rows(after) if after else (),
        served=_served(before, after) if before and after else None,
    )


def _served(before: Facts, after: Facts) -> Counters | None:
    """Given the facts before and after, return the requests in between; None if a balancer was replaced meanwhile."""
    first, last = answering(before), answering(after)
    if not first or first.keys() != last.keys():
        return None
    requests = [last[name].counters.requests - first[name].counters.requests for name in first]
    failed = [last[name].counters.failed - first[name].counters.failed for name in first]
    return Counters(sum(requests), sum(failed)) if min(requests) >= 0 and min(failed) >= 0 else None
