"""How a command is carried out: from how it was asked for, over its clients, to what is shown of it."""

import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from thems_jobs.cli.endings import ABORTED, ASKED, REPORT_S, STOPPED_REPORT_S, console_on
from thems_jobs.errors import UsageError

if TYPE_CHECKING:
    from thems_jobs.clock import SystemClock
    from thems_jobs.core.job import Job
    from thems_jobs.core.outcome import Outcome
    from thems_jobs.core.platform import Platform
    from thems_jobs.jobs.clients import Clients
    from thems_jobs.wish import Wish

SILENT = "its folder does not answer"  # what a file system that hangs says


def wished(
    plan: bool, yes: bool, expect_plan: str, detailed: bool, as_json: bool, report_dir: Path | None, started_by: str
) -> "Wish":
    """Given the options that all commands have, return how this one was asked for."""
    from thems_jobs.host import NAME_LIMIT, who
    from thems_jobs.wish import Wish

    who_asks = (started_by or who())[:NAME_LIMIT]
    ASKED.report_dir = report_dir
    return Wish(tuple(sys.argv[1:]), plan, yes, expect_plan, detailed, as_json, report_dir, who_asks)


def platform_at(path: Path | None) -> "Platform":
    """Given the platform's file, return what it declares. Raise UsageError if none is named or it is malformed."""
    from thems_jobs.platform_file import read_platform

    if path is None:
        raise UsageError("usage", "--platform", ["no platform file is named: use --platform FILE or THEMS_PLATFORM."])
    return read_platform(path)


def mean(mistakes: list[str]) -> None:
    """Given what cannot be meant, one sentence each. Raise UsageError if there is any."""
    if mistakes:
        raise UsageError("usage", "thems-jobs", mistakes, "Nothing was changed.")


def carry_out(
    platform: "Platform", make_job: "Callable[[Clients], Job]", wish: "Wish", scheduled: bool = False
) -> None:
    """Given a job and how it was asked for, show its plan or do it; print and write down what became of it."""
    if wish.report_dir:
        make_report_dir(wish.report_dir)
    with opened_clients(platform) as (clients, clock):
        job = make_job(clients)
        outcome = preview(job, wish, clock) if wish.plan_only else run(job, wish, clock, scheduled)
    raise typer.Exit(int(outcome.exit))


def preview(job: "Job", wish: "Wish", clock: "SystemClock") -> "Outcome":
    """Given a job, show what it would do, and say how to let it."""
    from thems_jobs import display, phrases, process, runner
    from thems_jobs.clock import Stopped, answer_of
    from thems_jobs.core import approval, gates
    from thems_jobs.core.outcome import Exit, Outcome, machine_rows

    started_at = clock.now()
    with stopping_gently(clock):
        try:
            plan, facts = answer_of(clock, lambda: runner.preview(job))
        except Stopped:
            return _stopped(job, wish, started_at, clock.now())
    refusals = (*plan.refusals, *approval.closed(plan, wish.expect_plan, facts.known_record.approved))
    lease = facts.known_record.lease
    if (plan.steps or plan.refusals) and lease and lease.until > facts.at and not process.is_over(lease.token):
        refusals = (gates.lease(lease, facts.at), *refusals)
    if refusals:
        closed = phrases.count(len(refusals), "gate is", "gates are")
        ending = (Exit.REFUSED, f"It would be refused: {closed} closed. Nothing was changed.")
    elif plan.steps:
        ending = (Exit.CHANGES if wish.detailed else Exit.OK, f"Plan {plan.digest}; nothing was changed.")
    else:
        ending = (Exit.OK, plan.finding or "Nothing to do: all is as declared.")
    rows = machine_rows(facts)
    outcome = Outcome(
        command=wish.command, platform=job.platform.name, started_by=wish.started_by, started_at=started_at,
        ended_at=clock.now(), exit=ending[0], message=ending[1],
        next=wish.approved_command(plan.digest) if plan.steps and not refusals else "", plan=plan,
        measured=facts.seconds, refusals=refusals, warnings=plan.warnings, before=rows, after=rows,
    )  # fmt: skip
    if not wish.as_json:
        console = console_on(sys.stdout)
        console.print(display.plan_view(plan, outcome.measured, refusals))
        console.print()
    conclude(outcome, wish, plan_shown=True)
    return outcome


def _stopped(job: "Job", wish: "Wish", started_at: float, ended_at: float) -> "Outcome":
    """Given a job that was asked to stop before its plan was known, write down that nothing came of it."""
    from thems_jobs.core.outcome import Exit, Outcome
    from thems_jobs.core.plan import Plan

    outcome = Outcome(
        command=wish.command, platform=job.platform.name, started_by=wish.started_by, started_at=started_at,
        ended_at=ended_at, exit=Exit.ABORTED, message="Aborted on request, nothing was changed.",
        next=wish.command, plan=Plan(), measured={},
    )  # fmt: skip
    conclude(outcome, wish)
    return outcome


def run(job: "Job", wish: "Wish", clock: "SystemClock", scheduled: bool) -> "Outcome":
    """Given a job, do it."""
    from thems_jobs import process, runner
    from thems_jobs.core.outcome import Exit
    from thems_jobs.watch import Watch

    watch = Watch(wish, clock, console_on(sys.stderr))
    options = runner.Options(
        command=wish.command, started_by=wish.started_by, approve=watch.approve, token=process.identify(),
        is_over=process.is_over, expect_plan=wish.expect_plan, scheduled=scheduled,
    )  # fmt: skip
    with stopping_gently(clock):
        try:
            outcome = runner.run(job, clock, options, watch.on_step)
        finally:
            watch.close()
        if watch.unapproved and outcome.exit is Exit.REFUSED:
            outcome = replace(outcome, next=wish.approved_command(watch.unapproved))
        conclude(outcome, wish)
    return outcome


def conclude(outcome: "Outcome", wish: "Wish", plan_shown: bool = False) -> None:
    """Given what became of a run, write it down and print it, the line that matters last."""
    from thems_jobs import display, report
    from thems_jobs.clock import detached
    from thems_jobs.core.outcome import Exit

    if folder := wish.report_dir:
        within_s = STOPPED_REPORT_S if outcome.exit is Exit.ABORTED else REPORT_S
        try:
            detached(lambda: report.write_report(outcome, folder)).result(within_s)
            console_on(sys.stderr).print(display.words(f"Report: {folder / 'report.html'}", "dim"))
        except OSError as error:
            reason = str(error) or SILENT
            console_on(sys.stderr).print(display.words(f"The report could not be written: {reason}", "bold red"))
    if wish.as_json:
        print(json.dumps(report.as_json(outcome), indent=2))
    else:
        console_on(sys.stdout).print(display.outcome_view(outcome, plan_shown), crop=False)


@contextmanager
def opened_clients(platform: "Platform") -> "Iterator[tuple[Clients, SystemClock]]":
    """Given a platform, open its clients, in its machines' network, for one run."""
    from thems_jobs.clock import SystemClock
    from thems_jobs.host import enter_network
    from thems_jobs.jobs.connect import open_clients
    from thems_jobs.platform_file import check_files
    from thems_jobs.private_folder import PrivateFolder, remove_left

    check_files(platform)
    if platform.reach.netns:
        enter_network(platform.reach.netns)
    clock = SystemClock()

    remove_left()
    with PrivateFolder() as folder:
        clients = open_clients(platform, Path(), folder.path, clock)
        try:
            yield clients, clock
        finally:
            clients.ssh.close()
            clock.close()


def make_report_dir(folder: Path) -> None:
    from thems_jobs.clock import detached

    try:
        detached(lambda: folder.mkdir(parents=True, exist_ok=True)).result(REPORT_S)
    except OSError as error:
        reason = error.strerror or SILENT
        raise UsageError("usage", f"--report-dir {folder}", [f"it cannot be made ({reason})."]) from error


@contextmanager
def on_signals(handler: Callable[[int, object], None]) -> Iterator[None]:
    """Let this handle being asked to stop, for a while."""
    before = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


@contextmanager
def stopping_gently(clock: "SystemClock") -> Iterator[None]:
    """Let a signal ask the clock to stop, so that a run can end well; a second Ctrl-C ends us at once."""

    def stop(number: int, _frame: object) -> None:
        if clock.stopping() and number == signal.SIGINT:
            sys.exit(ABORTED)
        clock.stop()

    with on_signals(stop):
        yield
