"""The loop: look, plan the whole, do the heads, look again, until nothing remains."""

import logging
from collections.abc import Callable
from dataclasses import replace

from thems_jobs.clock import Clock, Stopped
from thems_jobs.core import approval, gates
from thems_jobs.core.facts import Facts
from thems_jobs.core.job import Job, Look
from thems_jobs.core.outcome import Exit, Outcome, StepRun
from thems_jobs.core.plan import TABLES, Action, Plan, Step, heads
from thems_jobs.core.record import Approved, Lease
from thems_jobs.ending import Ending, aborted, closed, failed, finished, give_back, let_end, outcome
from thems_jobs.errors import EffectFailed, ThemsError, Transient, Unreachable
from thems_jobs.run_state import ATTEMPTS, Options, Run

__all__ = ["Options", "preview", "run"]

log = logging.getLogger(__name__)

BATCHES = 2  # of one kind at once: while they run, later steps gather for the next
CLOSED_POLL_S = 2.0  # how often a gate that closed in mid-run is asked again
SAME_LOOK_S = 10.0  # so long after the look that a plan rests on, what cannot have changed is not asked again


def preview(job: Job) -> tuple[Plan, Facts]:
    """Given a job, return what it would do and the facts that rests on. Nothing is changed."""
    facts = job.observe(None, Look())
    return job.plan(facts), facts


def run(job: Job, clock: Clock, options: Options, on_step: Callable[[StepRun], None]) -> Outcome:
    """Given a job, do what its plan says until nothing remains, and return what became of it.

    Raise nothing but bugs: whatever the world does ends as an outcome, and being asked to stop as ABORTED.
    """
    state, started_at, plan = Run(job, clock, options, on_step), clock.now(), Plan()
    ending: Ending | None = None
    try:
        plan, before = state.ask(lambda: preview(job))
        state.before, state.measured = before, before.seconds
        ending = _refusal_before(state, plan, before) or _apply(state, plan, before)
    except ThemsError as error:
        ending = failed(state, error)
    except Stopped:
        log.info("Asked to stop before anything was changed.")
    after = _after(state)
    if ending is None or clock.stopping():
        ending = aborted(state, ending)
    return outcome(state, started_at, plan, after, ending)


def _after(state: Run) -> Facts | None:
    """Return the facts at the end of a run; what the machines are is known, the balancers are asked once more."""
    facts = state.facts
    if facts is None:
        return state.before
    try:
        return state.ask(lambda: state.job.observe(facts, Look(frozenset(facts.machines))))
    except ThemsError as error:
        log.warning("The platform could not be looked at after the run: %s", error)
    except Stopped:
        log.info("The platform was not looked at after the run.")
    return facts


def _refusal_before(state: Run, plan: Plan, facts: Facts) -> Ending | None:
    """Given the plan, return why it ends before anything is changed, or None when it may go on."""
    if not plan.steps and not plan.refusals:
        _tidy(state, facts)
        exit_code = Exit.DEGRADED if plan.warnings else Exit.OK
        return Ending(
            exit_code,
            plan.warnings[0] if plan.warnings else plan.finding or "Nothing to do: all is as declared.",
            (),
            False,
        )
    if (other := state.lease.of_another(facts.known_record)) is not None:
        return _held(state, other, plan)
    if plan.refusals and not any(step.action is Action.RESTORE for step in plan.steps):
        count = len(plan.refusals)
        gates_closed = "1 gate is" if count == 1 else f"{count} gates are"
        return Ending(Exit.REFUSED, f"Refused, nothing was changed: {gates_closed} closed.", plan.refusals)
    changed = approval.closed(plan, state.options.expect_plan, facts.known_record.approved)
    if changed:
        message = "Refused, nothing was changed: the plan is no longer the one that was approved."
        return Ending(Exit.REFUSED, message, tuple(changed))
    if not state.options.approve(plan, facts):
        return Ending(Exit.REFUSED, "Not approved, nothing was changed.")
    return None


def _tidy(state: Run, facts: Facts) -> None:
    """Given that nothing is to be done, take out of the record what a run left that died after its last step."""
    record = facts.known_record
    if (record.lease or record.approved) and state.lease.of_another(record) is None:
        state.ask(lambda: state.lease.forget_the_dead(lambda approved: approval.finished(approved, facts)))


def _apply(state: Run, plan: Plan, before: Facts) -> Ending:
    """Given an approved plan and the facts it rests on, hold the lease and work until nothing remains."""
    options = state.options
    approved = approval.approve(plan, options.started_by, state.clock.now(), options.expect_plan or plan.digest)
    try:
        if (other := state.ask(lambda: state.lease.take(approved))) is not None:
            return _held(state, other, plan)
        ending = _work(state, approved, _look_under_lease(state, before))
    except ThemsError as error:
        ending = failed(state, error)
    except Stopped:
        ending = aborted(state, None)
    except Exception:  # a bug: what is under way is no longer looked after
        let_end(state, cancel=True)
        give_back(state, done=False)
        raise
    let_end(state)
    give_back(state, ending.done)
    return ending


def _held(state: Run, lease: Lease, plan: Plan) -> Ending:
    """Given the lease of another run, return how this one ends; what that one does may be what closes our gates."""
    refusal = gates.lease(lease, state.clock.now())
    if state.options.scheduled:
        return Ending(Exit.OK, f"Skipped: the platform is {refusal.measured}.", (), False)
    message = f"Refused, nothing was changed: the platform is {refusal.measured}."
    return Ending(Exit.REFUSED, message, (refusal, *plan.refusals))


def _look_under_lease(state: Run, before: Facts) -> Facts:
    """Given the facts that the plan rests on, look at everything again, now that nobody else may change it.

    If it is the same look but for a moment, and no run was at work since, what Proxmox lists unchanged is not asked
    again: before each effect the machine's own configuration counts.
    """
    lease, moments = state.lease, state.clock.now() - before.at
    if lease.record is None or lease.found != before.record or moments > SAME_LOOK_S:
        return state.ask(lambda: state.job.observe(None, Look()))
    again = replace(before, record=lease.record)
    return state.ask(lambda: state.job.observe(again, Look(anew=True)))


def _work(state: Run, approved: Approved, facts: Facts) -> Ending:
    """Given the facts, plan, do the heads and look, again and again; return how it ended.

    Raise Stopped when a stop is asked for, LeaseLost when the lease is lost, and whatever looking raises for good.
    """
    while True:
        state.facts, plan = facts, state.job.plan(facts)
        if not approval.covers(approved, plan):
            extra = "The platform changed under the run: what remains is not what was approved."
            refusals = (*plan.refusals, *approval.closed(plan, approved.digest, None))
            return Ending(Exit.HALTED if state.begun else Exit.REFUSED, extra, refusals)
        _end_waits(state, plan)
        state.hold()
        if state.clock.stopping():
            raise Stopped
        ready = _ready(state, plan)
        waits = [step for step in ready if step.wait]
        _start_waits(state, waits)
        for batch in _batches([step for step in ready if not step.wait]):
            if state.clock.stopping():
                raise Stopped
            _start(state, batch, facts)
        later = _later(state, plan)
        if not state.calls and not waits and not state.closed_since and not later:
            return finished(state, plan)
        if state.closed_since and _given_up(state):
            return closed(state, plan)
        facts = _look_again(state, facts, waits, later)


def _ready(state: Run, plan: Plan) -> list[Step]:
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


def _turn_at_tables(state: Run, ready: list[Step]) -> str | None:
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


def _later(state: Run, plan: Plan) -> list[float]:
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


def _start(state: Run, batch: tuple[Step, ...], facts: Facts) -> None:
    for step in batch:
        state.not_before.pop(step.key, None)
        state.begin(step)
    call = state.clock.submit(lambda: dict(state.job.perform(batch, facts)))
    state.calls[call] = batch


def _start_waits(state: Run, waits: list[Step]) -> None:
    for step in waits:
        if step.key not in state.runs:
            state.begin(step)
        run = state.runs[step.key]
        if step.wait and state.clock.now() - run.started_at > step.wait.deadline_s:
            waited = EffectFailed(
                step.target, f"{step.wait.reason}, and that was not over after {step.wait.deadline_s:g} s.",
                "It was left as it is; look at it, then run the same command again.", f"{step.action}-deadline",
            )  # fmt: skip
            state.end(step, waited)


def _end_waits(state: Run, plan: Plan) -> None:
    """Note which waits are over: they have left the plan."""
    remaining = {step.key for step in plan.steps}
    in_flight = {step.key for steps in state.calls.values() for step in steps}
    for key, run in list(state.runs.items()):
        if key not in remaining and key not in in_flight:
            state.end(Step(Action(run.action), run.target), None)


def _look_again(state: Run, facts: Facts, waits: list[Step], later: list[float]) -> Facts:
    """Wait until something ends or is due, take in what was learned, and look at what was touched."""
    now = state.clock.now()
    polls = [step.wait.poll_s for step in waits if step.wait] + [at - now for at in later]
    if state.closed_since:  # everything is looked at then, so not more often than that
        polls = [max(CLOSED_POLL_S, poll) for poll in (CLOSED_POLL_S, *polls)]
    renewal = state.lease.renew_at - now
    state.clock.wait(list(state.calls), max(0.05, min([*polls, renewal, 5.0])))
    touched, record = set[str](), None
    machines = dict(facts.machines)
    for step, done in state.take_ended():
        touched.add(step.target)
        record = done.record or record
        if step.target in machines and done.learned:
            machines[step.target] = replace(machines[step.target], **done.learned)
    facts = replace(facts, machines=machines)
    look = Look(frozenset(touched), tuple(waits), record)
    if state.closed_since:
        look = Look(frozenset(facts.machines), tuple(waits))
    try:
        return state.ask(lambda: state.job.observe(facts, look))
    except (Transient, Unreachable) as error:
        if not state.closed_since:
            log.warning("Looking again: %s", error)
        return replace(facts, at=state.clock.now())


def _given_up(state: Run) -> bool:
    """True if the gate was closed for too long. What is given back at the same time may be what opens it."""
    patience_s = state.job.platform.timeouts.patience_s if state.begun else 0.0
    return state.clock.now() - state.closed_since > patience_s
