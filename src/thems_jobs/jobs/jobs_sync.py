"""jobs-sync: bring Jenkins' jobs to their definitions in git. Nothing is ever deleted.

It has no platform, so neither the record nor its lease: docs/decisions.md says why that is enough.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from thems_jobs.clients.jenkins import Jenkins
from thems_jobs.clock import Clock
from thems_jobs.core import approval, job_xml
from thems_jobs.core.facts import Unknown
from thems_jobs.core.jenkins_jobs import Definition, Definitions, LiveJobs, Sync, as_is, fingerprint_of, plan_sync
from thems_jobs.core.outcome import Exit, Outcome, StepRun
from thems_jobs.core.plan import Action, Plan, Refusal, Step, expected_s
from thems_jobs.errors import EffectFailed, Refused, ThemsError, Transient, Unreachable, UsageError
from thems_jobs.trusted_files import check_authority, read_token

ATTEMPTS = 3  # of one write whose answer is lost; Jenkins is looked at before each
PAUSE_S = 1.0  # before it is looked at
EXAMPLE_GIT = "//git.example.com/"  # in jobs/defaults.yaml, until somebody has edited it


@dataclass(frozen=True)
class Parameters:
    """`disable_left`: jobs that left the code are disabled, too."""

    definitions: Definitions
    disable_left: bool = False


@dataclass(frozen=True)
class Options:
    """How this run was asked for. `approve` is asked once, before anything is changed."""

    command: str
    started_by: str
    approve: Callable[[Sync], bool]
    on_step: Callable[[StepRun], None]
    plan_only: bool = False
    detailed: bool = False  # drift that is only to be shown ends with CHANGES
    expect_plan: str = ""


def mistakes(definitions: Definitions) -> list[str]:
    """Given definitions, return one sentence for each thing that cannot be meant."""
    if EXAMPLE_GIT not in definitions.folder.xml:
        return []
    return ["defaults.yaml: git-url is still the example, expected where Jenkins fetches this repository from."]


def open_jenkins(url: str, ca_file: Path | None, environment: Mapping[str, str]) -> Jenkins:
    """Given where Jenkins is, return it, not asked yet. Raise UsageError if it, or who we are there, is not named."""
    user, token_file = environment.get("THEMS_JENKINS_USER"), environment.get("THEMS_JENKINS_TOKEN_FILE")
    named = {
        "--jenkins-url (or THEMS_JENKINS_URL)": url,
        "THEMS_JENKINS_USER": user,
        "THEMS_JENKINS_TOKEN_FILE": token_file,
    }
    wrong = [f"{name} is missing." for name, value in named.items() if not value]
    if wrong or not user or not token_file:
        raise UsageError("usage", "jobs-sync", wrong, "The token file has one line, an API token of that user.")
    if ca_file:
        check_authority(ca_file, "Name the certificate of the authority that signed Jenkins' own, in PEM.")
    return Jenkins(url, user, read_token(Path(token_file)), ca_file)


def observe(jenkins: Jenkins, definitions: Definitions, now: float) -> LiveJobs:
    """Return what is in our folder. Raise ThemsError if Jenkins does not tell; one job alone becomes Unknown."""
    jenkins.user_id()
    names = jenkins.jobs_in(definitions.folder.name)
    jobs = dict[str, str | Unknown]()
    for name in names or ():
        try:
            found = jenkins.config(name)
        except (EffectFailed, Refused) as error:
            found = Unknown(error.detail)  # type: ignore[assignment]
        if found is not None:  # it may have gone since it was listed
            jobs[name] = found
    return LiveJobs(now, names is not None, jobs, _folder_xml(jenkins, definitions) if names is not None else "")


def _folder_xml(jenkins: Jenkins, definitions: Definitions) -> str:
    """Return the folder's own config.xml, "" if it is not shown to us: it is only for a warning."""
    try:
        return jenkins.config(definitions.folder.name) or ""
    except (EffectFailed, Refused):
        return ""


def plan(parameters: Parameters, live: LiveJobs) -> Sync:
    """Given what is live, return what remains to be done."""
    return plan_sync(parameters.definitions, live, parameters.disable_left)


# Doing


def perform(jenkins: Jenkins, definitions: Definitions, step: Step, clock: Clock) -> str:
    """Do one step, and return what Jenkins did not keep of it, "" if it kept all. Raise ThemsError if it failed.

    A write whose answer is lost is looked at before it is tried again.
    """
    wanted = {job.name: job for job in (definitions.folder, *definitions.jobs)}
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _try(jenkins, wanted, step)
        except Transient:
            if attempt == ATTEMPTS:
                raise
            clock.wait((), PAUSE_S)
    raise AssertionError("the last attempt ends the loop")


def _try(jenkins: Jenkins, definitions: Mapping[str, Definition], step: Step) -> str:
    """Look, and do what is not done. Between look and write somebody may still save the job: Jenkins has no digest."""
    if step.action is Action.MAKE_FOLDER:
        if jenkins.jobs_in(step.target) is None:
            jenkins.create(step.target, definitions[step.target].xml)
        return ""
    found = jenkins.config(step.target)
    if step.action is Action.DISABLE_JOB:
        return _disable(jenkins, step.target, found)
    wanted = definitions[step.target]
    if found is not None and as_is(wanted, found):
        return ""
    if step.action is Action.CREATE_JOB and found is None:
        jenkins.create(step.target, wanted.xml)
    elif step.action is Action.UPDATE_JOB and found is not None and fingerprint_of(wanted, found) == step.note:
        jenkins.update(step.target, wanted.xml)
    else:
        raise EffectFailed(
            step.target, "somebody changed it in Jenkins since the plan was made; it was left as it is.",
            "Look at the new plan, then run this again.", "job-moved",
        )  # fmt: skip
    return _not_kept(wanted, jenkins.config(step.target))


def _disable(jenkins: Jenkins, name: str, found: str | None) -> str:
    if found is not None and job_xml.field(found, "disabled") != "true":
        jenkins.disable(name)
        after = jenkins.config(name)
        if after is not None and job_xml.field(after, "disabled") != "true":
            raise EffectFailed(name, "Jenkins took the wish to disable it, and it is still enabled.")
    return ""


def _not_kept(wanted: Definition, found: str | None) -> str:
    """Given what was sent and what Jenkins has now, return what differs: mostly a plugin is missing."""
    if found is None:
        raise EffectFailed(wanted.name, "Jenkins took it, and has no such job.")
    if as_is(wanted, found):
        return ""
    return job_xml.differences(job_xml.meaning(found), job_xml.meaning(wanted.xml))


# The run


@dataclass
class _Run:
    """What one run keeps in mind: it may all be lost."""

    jenkins: Jenkins
    clock: Clock
    options: Options
    started_at: float
    sync: Sync = field(default_factory=lambda: Sync(Plan(), {}, ()))
    steps: list[StepRun] = field(default_factory=list)
    errors: list[ThemsError] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    not_kept: dict[str, str] = field(default_factory=dict)


def run(jenkins: Jenkins, parameters: Parameters, clock: Clock, options: Options) -> Outcome:
    """Compare Jenkins' jobs with their definitions and, unless only the plan is wanted, bring them there.

    Raise nothing but bugs. A signal may raise KeyboardInterrupt in here: what was done is told all the same.
    """
    state = _Run(jenkins, clock, options, clock.now())
    try:
        state.sync = plan(parameters, observe(jenkins, parameters.definitions, clock.now()))
    except ThemsError as error:
        state.refusals.append(_as_refusal(error))
        return _end(state, Exit.REFUSED, f"Refused, nothing was changed: {error}")
    except KeyboardInterrupt:
        return _end(state, Exit.ABORTED, "Aborted on request, nothing was changed.")
    changed = approval.closed(state.sync.plan, options.expect_plan, None)
    state.refusals += [*changed, *state.sync.plan.refusals]
    if changed:
        message = "Refused, nothing was changed: the plan is no longer the one that was approved."
        return replace(_end(state, Exit.REFUSED, message), next="")  # what was approved is gone
    if options.plan_only:
        return _end(state, *_found(state))
    if state.sync.plan.steps and not options.approve(state.sync):
        code, text = (Exit.ABORTED, "Aborted on request") if clock.stopping() else (Exit.REFUSED, "Not approved")
        return _end(state, code, f"{text}, nothing was changed.")
    with suppress(KeyboardInterrupt):  # a write that is under way may land: the next run looks
        _do_all(state, parameters.definitions)
    state.refusals += [_as_refusal(error) for error in state.errors]
    return _end(state, *_became(state))


def _do_all(state: _Run, definitions: Definitions) -> None:
    """Do every step in its order; one that fails stops those behind it, and a Jenkins that is gone stops all."""
    clock, undone = state.clock, set[str]()
    for step in state.sync.plan.steps:
        if clock.stopping() or any(isinstance(error, Unreachable) for error in state.errors):
            return
        if step.after & undone:
            undone.add(step.key)
            continue
        expected, assumed = expected_s(step, {})
        going = StepRun(step.key, step.action, step.target, "", expected, assumed, clock.now())
        state.options.on_step(going)
        try:
            if not_kept := perform(state.jenkins, definitions, step, clock):
                state.not_kept[step.target] = not_kept
            ended = replace(going, ended_at=clock.now(), outcome="ok")
        except ThemsError as error:
            state.errors.append(error)
            undone.add(step.key)
            ended = replace(going, ended_at=clock.now(), outcome="failed", detail=str(error))
        state.steps.append(ended)
        state.options.on_step(ended)


def _found(state: _Run) -> tuple[Exit, str]:
    """Return how a comparison ends."""
    steps, left = _counted(state.sync.plan.steps, "to "), [f"{name} left the code" for name in _still_left(state)]
    if state.sync.plan.refusals:
        drift = f"Drift: {', '.join(steps)}. " if steps else ""
        return Exit.DEGRADED, f"Nothing was changed. {drift}{_items(state)}"
    if not steps and not left:
        return Exit.OK, "No drift: all jobs are as git says."
    return (Exit.CHANGES if state.options.detailed else Exit.OK), (
        f"Drift: {', '.join([*steps, *left])}. Nothing was changed."
    )


def _became(state: _Run) -> tuple[Exit, str]:
    """Return how a run ends that was to change something."""
    total, done = len(state.sync.plan.steps), [step for step in state.steps if step.outcome == "ok"]
    first = state.errors[0] if state.errors else None
    if first and not done and isinstance(first, Refused | Unreachable):
        return Exit.REFUSED, f"Refused, nothing was changed: {first}"
    if first:
        return Exit.HALTED, f"Halted, {len(done)} of {total} done: {first}"
    if len(done) < total:
        return Exit.ABORTED, f"Aborted on request, {len(done)} of {total} done."
    words = (
        f"Done: {', '.join(_counted(state.sync.plan.steps))}." if done else "Nothing to do: all jobs are as git says."
    )
    skipped = _items(state)
    return (Exit.DEGRADED, f"{words} {skipped}") if skipped else (Exit.OK, words)


def _counted(steps: Sequence[Step], to: str = "") -> list[str]:
    """Given steps, return how many of each kind there are: `2 to update`, or `2 updated`."""
    verbs = {
        Action.MAKE_FOLDER: ("make the folder", "folder made"), Action.CREATE_JOB: ("create", "created"),
        Action.UPDATE_JOB: ("update", "updated"), Action.DISABLE_JOB: ("disable", "disabled"),
    }  # fmt: skip
    counts = {action: sum(step.action is action for step in steps) for action in verbs}
    return [f"{count} {to}{verbs[action][0 if to else 1]}" for action, count in counts.items() if count]


def _items(state: _Run) -> str:
    """Return what was skipped, is not as it was sent, or left the code, by name."""
    parts = [f"{refusal.subject} is skipped: {refusal.measured}" for refusal in state.sync.plan.refusals]
    parts += [f"{name} is not as it was sent: Jenkins did not keep all of it" for name in state.not_kept]
    parts += [f"{name} left the code and still runs" for name in _still_left(state)]
    return " ".join(f"{part.rstrip('.')}." for part in parts)


def _still_left(state: _Run) -> list[str]:
    disabled = {step.target for step in state.sync.plan.steps if step.action is Action.DISABLE_JOB}
    return [name for name in state.sync.left if name not in disabled]


def _as_refusal(error: ThemsError) -> Refusal:
    return Refusal(error.reference, error.subject, error.detail, "it to succeed", error.remedy)


def _end(state: _Run, code: Exit, message: str) -> Outcome:
    options, sync = state.options, state.sync
    not_kept = {f"{name} (not kept)": text for name, text in state.not_kept.items()}
    return Outcome(
        command=options.command, platform=state.jenkins.url, started_by=options.started_by,
        started_at=state.started_at, ended_at=state.clock.now(), exit=code, message=message,
        next=options.command if code in (Exit.REFUSED, Exit.HALTED, Exit.ABORTED) else "", plan=sync.plan, measured={},
        steps=tuple(state.steps), refusals=tuple(state.refusals), warnings=sync.plan.warnings,
        about="job", differences={**sync.differences, **not_kept},
    )  # fmt: skip
