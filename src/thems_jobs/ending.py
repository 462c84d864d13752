"""How a run ends: what is still under way is let end, the lease given back, and what became of it all is told."""

import logging
from dataclasses import dataclass, replace
from statistics import fmean

from thems_jobs.core.facts import Counters, Facts, Phase
from thems_jobs.core.machine import answering
from thems_jobs.core.outcome import Exit, Outcome, machine_rows
from thems_jobs.core.plan import Action, Plan, Refusal, Step
from thems_jobs.errors import ThemsError
from thems_jobs.run_state import Run

log = logging.getLogger(__name__)

# From SIGTERM to the end: 10 s, 2 s, 3 s for a report, and what cli.leave waits; Jenkins kills after 20.
STOP_S = 10.0  # what may still be under way gets so long
GIVE_BACK_S = 2.0  # the platform's record gets so long
LOOK_S = 0.2  # how soon it is noticed that something ended


@dataclass(frozen=True)
class Ending:
    """How a run ended: the exit code, the line that matters, and why."""

    exit: Exit
    message: str
    refusals: tuple[Refusal, ...] = ()
    again: bool = True  # running the command again is how to go on

    @property
    def done(self) -> bool:
        return self.exit in (Exit.OK, Exit.DEGRADED)


# The words


def failed(run: Run, error: ThemsError) -> Ending:
    """Given an error that a run cannot go on with, return how it ends."""
    if run.begun:
        return Ending(Exit.HALTED, f"Halted: {error}", (_as_refusal(error),))
    return Ending(Exit.REFUSED, f"Refused, nothing was changed: {error}", (_as_refusal(error),))


def aborted(run: Run, ending: Ending | None) -> Ending:
    """Given how a run ended by itself, None if it did not, return how it ends now that a stop was asked for."""
    if ending and ending.done:
        return replace(ending, exit=Exit.ABORTED, message=f"{ending.message} Then it was aborted on request.")
    text = "Aborted on request; running the same command again goes on from here."
    text = text if run.begun else "Aborted on request, nothing was changed."
    return Ending(Exit.ABORTED, text, ending.refusals if ending else ())


def closed(run: Run, plan: Plan) -> Ending:
    """Given a plan whose gates stayed closed, return how the run ends."""
    first = plan.refusals[0]
    if not run.begun:
        return Ending(Exit.REFUSED, f"Refused, nothing was changed: {first}", plan.refusals)
    return Ending(Exit.HALTED, f"Halted, a gate closed on the way: {first}", plan.refusals)


def finished(run: Run, plan: Plan) -> Ending:
    """Given that nothing is under way and nothing can begin, return how the run ended."""
    refusals = (*plan.refusals, *(_as_refusal(error) for error in run.failed.values()))
    if run.failed or plan.refusals or plan.steps:
        first = next(iter(run.failed.values()), None) or (plan.refusals[0] if plan.refusals else "")
        return Ending(Exit.HALTED, f"Halted: {first}", refusals)
    text = _in_words(run.before, run.facts) or "all is as declared"
    exit_code = Exit.DEGRADED if plan.warnings else Exit.OK
    return Ending(exit_code, f"Done: {text}." + "".join(f" {w}" for w in plan.warnings), (), False)


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


def _as_refusal(error: ThemsError) -> Refusal:
    return Refusal(error.reference, error.subject, error.detail, "it to succeed", error.remedy)


# The end itself


def let_end(run: Run, cancel: bool = False) -> None:
    """Begin nothing new; wait until what is under way has ended, and keep the lease meanwhile.

    When a stop is asked for, or the lease is lost, what takes long is cancelled and the rest gets STOP_S. What has
    not ended then is noted as aborted, and stays in `calls`.
    """
    for call in [call for call in run.calls if call.cancel()]:  # it had not begun
        _note_aborted(run, run.calls.pop(call))
    deadline, hurried = run.clock.now() + run.job.platform.timeouts.converge_s, False
    while under_way(run) and run.clock.now() < deadline:
        if not hurried and (cancel or run.clock.stopping() or run.lease.lost):
            run.job.cancel()
            deadline, hurried = min(deadline, run.clock.now() + STOP_S), True
        run.clock.wait(list(run.calls), LOOK_S)
        run.take_ended()
        run.lease.keep()
    for steps in run.calls.values():
        _note_aborted(run, steps)
    _note_aborted(run, tuple(Step(Action(wait.action), wait.target) for wait in run.runs.values()))


def under_way(run: Run) -> bool:
    """True while something of ours may still land."""
    return bool(run.calls) or run.lease.being_taken


def _note_aborted(run: Run, steps: tuple[Step, ...]) -> None:
    for step in steps:
        run.end(step, None, "aborted")


def give_back(run: Run, done: bool) -> None:
    """Given whether the run converged, give the lease back, unless something of ours may still land."""
    if under_way(run):
        log.warning("Something that was begun may still land, so the lease is not given back: it ends by itself.")
        return
    answer, stopped_at = run.clock.detach(lambda: run.lease.give_back(done, _measured(run))), 0.0
    while not answer.done():
        if run.clock.stopping():
            stopped_at = stopped_at or run.clock.now()
            if run.clock.now() - stopped_at > GIVE_BACK_S:
                log.warning("The platform's record does not answer, so the lease is not given back: it ends by itself.")
                return
        run.clock.wait([answer], LOOK_S)
    answer.result()


def _measured(run: Run) -> dict[str, float]:
    """Return how many seconds each action took in this run, on average."""
    seconds: dict[str, list[float]] = {}
    for step in run.ended:
        if step.outcome == "ok" and step.ended_at is not None:
            seconds.setdefault(step.action, []).append(step.ended_at - step.started_at)
    return {action: fmean(values) for action, values in seconds.items()}


# What is told of it


def outcome(run: Run, started_at: float, plan: Plan, after: Facts | None, ending: Ending) -> Outcome:
    """Given the plan that was shown, the facts at the end and how the run ended, return all that is told of it."""
    before = run.before
    return Outcome(
        command=run.options.command,
        platform=run.job.platform.name,
        started_by=run.options.started_by,
        started_at=started_at,
        ended_at=run.clock.now(),
        exit=ending.exit,
        message=ending.message,
        next=run.options.command if ending.again else "",
        plan=plan,
        measured=run.measured,
        steps=tuple(run.ended),
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
