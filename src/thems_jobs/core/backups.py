"""A copy of all data before risk: when one is due, of whom, and what waits for it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from thems_jobs.core.databases import is_database, joined, settings_of, told, writers
from thems_jobs.core.facts import Backup, Facts, Phase, Unknown, number_of
from thems_jobs.core.identity import tier_of
from thems_jobs.core.plan import Action, Change, Refusal, Step, behind
from thems_jobs.core.platform import BackupFolder, Platform

CLOCKS_DIFFER_S = 60.0  # two agents' clocks, kept by NTP, differ by less: a copy from later than that is of a wrong one
NO_FOLDER = (
    "Nothing is copied before {what}: the platform file names no database.cluster.backup (docs/database-machines.md)."
)


@dataclass(frozen=True)
class Guarded:
    """Steps with the backup that some of them wait for, and what stands in its way."""

    steps: tuple[Step, ...]
    refusals: tuple[Refusal, ...] = ()
    warnings: tuple[str, ...] = ()


def before_leaving(platform: Platform, facts: Facts, steps: Sequence[Step]) -> Guarded:
    """Given a plan's steps, return them so that serving members leave for good behind a fresh backup of one that stays.

    Who has begun to leave goes on: the backup was before that. Whatever brings machines up waits for none of it.
    """
    settings = settings_of(platform)
    leaving = [step for step in steps if step.action is Action.WITHDRAW and _serves_as_member(platform, facts, step)]
    if settings is None or not leaving:
        return Guarded(tuple(steps))
    if settings.backup is None:
        return Guarded(tuple(steps), warnings=(NO_FOLDER.format(what="database members leave"),))
    source = _source(platform, facts, steps)
    if is_fresh(settings.backup, facts) or not source:  # where no member is left, the cluster's gates are closed
        return Guarded(tuple(steps))
    up = [s for s in steps if s.action in (Action.SERVE, Action.RESTORE) and _of_tier(platform, s, settings.tier)]
    copy = Step(Action.BACKUP, source, frozenset(step.key for step in up))
    gone = {step.key for step in leaving}
    guarded = [behind(step, frozenset({copy.key})) if step.key in gone else step for step in steps]
    return Guarded((*guarded, copy), unusable(settings.backup, facts, source))


def before_bootstrap(platform: Platform, facts: Facts, made: Step) -> Guarded:
    """Given the step that makes a cluster of what one stopped machine holds, return it behind a copy of just that.

    How old a copy is does not count here: it has the very last transaction, or it does not.
    """
    settings = settings_of(platform)
    folder = settings.backup if settings else None
    if folder is None:
        return Guarded((made,), warnings=(NO_FOLDER.format(what="the cluster is made anew"),))
    if isinstance(facts.backup, Backup) and f"{facts.backup.uuid}:{facts.backup.seqno}" == made.note:
        return Guarded((made,))
    copy = Step(Action.BACKUP, made.target, made.after)
    return Guarded((copy, behind(made, frozenset({copy.key}))), unusable(folder, facts, made.target))


def shown(facts: Facts, steps: Sequence[Step], changes: Sequence[Change]) -> tuple[Change, ...]:
    """Given a plan's steps and what happens to its machines, return that with whom a copy is made of."""
    copied = [step.target for step in steps if step.action is Action.BACKUP]
    known = [replace(c, why=f"{c.why}; all data is copied from it") if c.machine in copied else c for c in changes]
    new = [name for name in copied if name not in {change.machine for change in changes}]
    return (*(Change("backup", name, facts.machines[name].node, "all data is copied from it") for name in new), *known)


def is_fresh(folder: BackupFolder, facts: Facts) -> bool:
    """True if the newest backup counts as one made before a change of now: of the members' cluster, and young enough.

    One whose time has not come yet may be of any age: it was made where the clock was wrong.
    """
    if not isinstance(facts.backup, Backup):
        return False
    answers = [told(facts, name) for name in facts.machines if joined(facts, name)]
    age_s = facts.at - facts.backup.at
    return {facts.backup.uuid} == {m.uuid for m in answers if m} and -CLOCKS_DIFFER_S <= age_s <= folder.fresh_s


def unusable(folder: BackupFolder, facts: Facts, machine: str) -> tuple[Refusal, ...]:
    """Given whom a backup would be made of, return why it could not be kept. What does not wait for it may be done."""
    if not isinstance(facts.backup, Unknown):
        return ()
    return (
        Refusal(
            "backup-folder", folder.folder, facts.backup.reason, "a folder that this account may write to",
            "Mount it, or mend its rights; or name another one in the platform file (database.cluster.backup).",
            machine,
        ),
    )  # fmt: skip


def _of_tier(platform: Platform, step: Step, tier: str) -> bool:
    return tier_of(platform, step.target) == tier


def _serves_as_member(platform: Platform, facts: Facts, step: Step) -> bool:
    machine = facts.machines.get(step.target)
    return machine is not None and is_database(platform, machine.tier) and machine.phase is Phase.SERVING


def _source(platform: Platform, facts: Facts, steps: Sequence[Step]) -> str:
    """Return who is copied, "" for nobody: of those that stay, and serve when their steps are done, the last one that
    is no writer; who comes first in the proxies' tables is the next writer."""
    settings = settings_of(platform)
    if settings is None:
        return ""
    going = {Action.WITHDRAW, Action.RETIRE, Action.LEAVE, Action.STOP, Action.DESTROY, Action.AWAIT_DESTROY}
    leaving = {step.target for step in steps if step.action in going}
    coming = {s.target for s in steps if s.action is Action.SERVE and _of_tier(platform, s, settings.tier)}
    there = {m.name for m in facts.of_tier(settings.tier) if m.phase is Phase.SERVING and joined(facts, m.name)}
    writing = writers(facts)
    staying = (there | coming) - leaving
    return max(staying, key=lambda name: (name not in writing, number_of(name)), default="")
