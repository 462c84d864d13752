"""Jenkins' jobs and their definitions in git: what differs, and what would be done about it."""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from thems_jobs.core import job_xml
from thems_jobs.core.facts import Unknown
from thems_jobs.core.gate_list import GateState
from thems_jobs.core.plan import Action, Change, Plan, Refusal, Step

# Ends the description of every job that we made: it tells people where the job is defined, and us that it is ours.
MARK = re.compile(r"Defined in git: jobs/([a-z0-9-]+)\.yaml")
LIBRARIES = "org.jenkinsci.plugins.workflow.libs.FolderLibraries"


def mark(source: str) -> str:
    """Given the name of a definition's file, return the sentence that ends its job's description."""
    return f"Defined in git: jobs/{source}.yaml. Changes made here show up as drift in Jobs sync."


# What may stand in a job's way, in the words of a gate that is open.
GATES: Mapping[str, str] = {
    "definition-broken": "every definition can be rendered",
    "job-unreadable": "every job in Jenkins can be read",
    "job-of-other-kind": "every job is of its kind",
    "job-moved": "nobody saved a job meanwhile",
}


@dataclass(frozen=True)
class Definition:
    """One job as git wants it. `source` is its file's name without .yaml, and the job's own name in the folder."""

    name: str  # with its folder: shop/provision
    source: str
    xml: str


@dataclass(frozen=True)
class Definitions:
    """All of jobs/. `broken` has the files that cannot be rendered, and why, by name without .yaml."""

    folder: Definition
    jobs: tuple[Definition, ...]
    broken: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class LiveJobs:
    """What is in our folder, as config.xml by full name; Unknown where Jenkins would not or could not tell."""

    at: float
    folder: bool  # whether it is there
    jobs: Mapping[str, str | Unknown] = field(default_factory=dict)
    folder_xml: str = ""  # its own config.xml; "" where it cannot be read


@dataclass(frozen=True)
class Sync:
    """What would be done, and what differs, as a diff by job. `left` are enabled jobs that left the code."""

    plan: Plan
    differences: Mapping[str, str]
    left: tuple[str, ...]


def plan_sync(definitions: Definitions, live: LiveJobs, disable_left: bool) -> Sync:
    """Given definitions and what is live, return what remains to be done. A job that cannot be done stops no other."""
    steps, changes, differences = list[Step](), list[Change](), dict[str, str]()
    refusals = [_broken(source, why) for source, why in sorted(definitions.broken.items())]
    root = definitions.folder.name
    if not live.folder:
        steps.append(Step(Action.MAKE_FOLDER, root, note=_fingerprint(definitions.folder.xml)))
        changes.append(Change("make", root, "", "the folder is missing"))
    behind = frozenset(step.key for step in steps)
    for job in definitions.jobs:
        found = live.jobs.get(job.name)
        if found is None:
            steps.append(Step(Action.CREATE_JOB, job.name, behind, note=_fingerprint(*job_xml.meaning(job.xml))))
            changes.append(Change("make", job.name, "", "it is missing"))
            continue
        refusal, before = _reading(job, found)
        wanted = job_xml.meaning(job.xml)
        if refusal:
            refusals.append(refusal)
        elif before != wanted:
            differences[job.name] = job_xml.differences(before, wanted)
            steps.append(Step(Action.UPDATE_JOB, job.name, note=_fingerprint(*before, "", *wanted)))
            changes.append(Change("update", job.name, "", _in_words(differences[job.name])))
    left = tuple(_left(definitions, live))
    if disable_left:
        steps += [Step(Action.DISABLE_JOB, name) for name in left]
        changes += [Change("disable", name, "", "it left the code: disabled, not deleted") for name in left]
    warnings = (
        [] if disable_left else [f"{name} left the code and still runs; --disable-left stops it." for name in left]
    )
    warnings += _other_library(definitions, live)
    warnings += [
        f"{name} is in the folder, but neither in git nor marked as ours: it is left alone."
        for name in _strangers(definitions, live)
    ]
    return Sync(Plan(tuple(steps), tuple(refusals), tuple(changes), {}, tuple(warnings)), differences, left)


def gate_states_of_jobs(refusals: Sequence[Refusal], looked: bool) -> list[GateState]:
    """Given all refusals of a run, and whether Jenkins was looked at, return every gate of jobs, then all others."""
    closed = {
        ref: tuple(r for r in refusals if r.reference == ref) for ref in [*GATES, *(r.reference for r in refusals)]
    }
    return [
        GateState(ref, GATES.get(ref, ref.replace("-", " ")), looked or bool(mine), mine)
        for ref, mine in closed.items()
    ]


def as_is(definition: Definition, found: str) -> bool:
    """True if a live config.xml means what the definition says."""
    return job_xml.meaning(found) == job_xml.meaning(definition.xml)


def fingerprint_of(definition: Definition, found: str) -> str:
    """Given a definition and what is live, return what a step that updates it is noted with."""
    return _fingerprint(*job_xml.meaning(found), "", *job_xml.meaning(definition.xml))


def _fingerprint(*lines: str) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


def _in_words(difference: str) -> str:
    lines = difference.splitlines()[2:]
    more, less = sum(line.startswith("+") for line in lines), sum(line.startswith("-") for line in lines)
    return f"it differs: +{more} −{less} lines" if lines else "a secret in it differs"


def _reading(job: Definition, found: str | Unknown) -> tuple[Refusal | None, tuple[str, ...]]:
    """Given a job and what is live, return what that means, or why it cannot be compared."""
    try:
        if isinstance(found, Unknown):
            raise ValueError(found.reason)  # noqa: TRY301, TRY004 - one way out for all that cannot be read
        ours, theirs = job_xml.read_xml(job.xml).tag, job_xml.read_xml(found).tag
    except ValueError as error:
        return Refusal(
            "job-unreadable", job.name, f"{error}", "its config.xml",
            "Look at the job's Configure page and at Jenkins' log; then run this again.", job.name,
        ), ()  # fmt: skip
    if ours != theirs:
        return Refusal(
            "job-of-other-kind", job.name, f"it is a {theirs}", f"a {ours}",
            "Rename or delete it in Jenkins, when nobody needs it: a job's kind cannot be changed.", job.name,
        ), ()  # fmt: skip
    return None, job_xml.meaning(found)


def _broken(source: str, why: str) -> Refusal:
    return Refusal(
        "definition-broken", f"jobs/{source}.yaml", why, "a definition that can be rendered",
        "Mend it (jenkins-jobs test jobs shows it, too); the other jobs are done without it.", source,
    )  # fmt: skip


def _marked(found: str | Unknown) -> tuple[bool, bool]:
    """Given what is live, return whether we made it, and whether it is disabled."""
    if isinstance(found, Unknown):
        return False, False
    try:
        marked = bool(MARK.search(job_xml.field(found, "description")))
        return marked, job_xml.field(found, "disabled") == "true"
    except ValueError:
        return False, False


def _undefined(definitions: Definitions, live: LiveJobs) -> Iterator[str]:
    folder = definitions.folder.name
    defined = {job.name for job in definitions.jobs} | {f"{folder}/{source}" for source in definitions.broken}
    yield from sorted(live.jobs.keys() - defined)


def _left(definitions: Definitions, live: LiveJobs) -> Iterator[str]:
    """Yield jobs that we made, that git no longer has, and that are not disabled."""
    yield from (name for name in _undefined(definitions, live) if _marked(live.jobs[name]) == (True, False))


def _other_library(definitions: Definitions, live: LiveJobs) -> list[str]:
    """Return a sentence if the folder's shared library is another one than in git.

    It is not written: what else the folder holds, its credentials, would have to be sent back with it, and Jenkins may
    have shown it to us without them.
    """
    wanted, found = job_xml.part(definitions.folder.xml, LIBRARIES), job_xml.part(live.folder_xml, LIBRARIES)
    if not live.folder_xml or wanted == found:
        return []
    sentence = (
        "its shared library is not as in jobs/folder.yaml and jobs/defaults.yaml: change it in Jenkins (Configure)."
    )
    return [f"{definitions.folder.name}: {sentence}"]


def _strangers(definitions: Definitions, live: LiveJobs) -> Iterator[str]:
    yield from (name for name in _undefined(definitions, live) if not _marked(live.jobs[name])[0])
