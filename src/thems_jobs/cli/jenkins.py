"""The commands that bring Jenkins' jobs to their definitions: jobs-sync plan, jobs-sync apply."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from thems_jobs.cli import endings, running
from thems_jobs.cli.options import (
    AsJson,
    DetailedExit,
    DisableLeft,
    ExpectPlan,
    JenkinsCaFile,
    JenkinsUrl,
    JobsFolder,
    Parameters,
    ReportDir,
    StartedBy,
    Yes,
)

if TYPE_CHECKING:
    from thems_jobs.clock import SystemClock
    from thems_jobs.wish import Wish

app = typer.Typer(
    help="Bring Jenkins' jobs to their definitions in git; nothing is ever deleted. Who asks is in THEMS_JENKINS_USER, "
    "the API token in the file THEMS_JENKINS_TOKEN_FILE.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("plan", epilog="Example: thems-jobs jobs-sync plan --jenkins-url https://jenkins.example.com/")
def jobs_sync_plan(
    jenkins_url: JenkinsUrl = "",
    ca_file: JenkinsCaFile = None,
    definitions: JobsFolder = None,
    disable_left: DisableLeft = False,
    detailed_exitcode: DetailedExit = False,
    as_json: AsJson = False,
    report_dir: ReportDir = None,
    started_by: StartedBy = "",
    parameters: Parameters = None,  # noqa: ARG001 - its callback has done its work
) -> None:
    """Show how every live job differs from its definition; change nothing."""
    wish = running.wished(True, False, "", detailed_exitcode, as_json, report_dir, started_by)
    _sync_jobs(wish, jenkins_url, ca_file, definitions, disable_left)


@app.command("apply", epilog="Example: thems-jobs jobs-sync apply --yes")
def jobs_sync_apply(
    jenkins_url: JenkinsUrl = "",
    ca_file: JenkinsCaFile = None,
    definitions: JobsFolder = None,
    disable_left: DisableLeft = False,
    yes: Yes = False,
    expect_plan: ExpectPlan = "",
    as_json: AsJson = False,
    report_dir: ReportDir = None,
    started_by: StartedBy = "",
    parameters: Parameters = None,  # noqa: ARG001 - its callback has done its work
) -> None:
    """Create and update the jobs, each for itself: one that cannot be done stops no other."""
    wish = running.wished(False, yes, expect_plan, False, as_json, report_dir, started_by)
    _sync_jobs(wish, jenkins_url, ca_file, definitions, disable_left)


def _sync_jobs(wish: "Wish", url: str, ca_file: Path | None, definitions: Path | None, disable_left: bool) -> None:
    """Given how it was asked for, compare Jenkins' jobs with their definitions, or bring them there."""
    from thems_jobs import display, resources
    from thems_jobs.clients.job_builder import read_definitions
    from thems_jobs.clock import SystemClock
    from thems_jobs.core.outcome import Exit
    from thems_jobs.jobs import jobs_sync as job
    from thems_jobs.watch import Watch

    if wish.report_dir:
        running.make_report_dir(wish.report_dir)
    jenkins = job.open_jenkins(url, ca_file, os.environ)
    wanted = job.Parameters(read_definitions(definitions or resources.jobs()), disable_left)
    running.mean(job.mistakes(wanted.definitions))
    clock = SystemClock()
    watch = Watch(wish, clock, endings.console_on(sys.stderr))
    options = job.Options(
        wish.command,
        wish.started_by,
        watch.approve_jobs,
        watch.on_step,
        wish.plan_only,
        wish.detailed,
        wish.expect_plan,
    )
    with running.stopping_gently(clock):
        try:
            with _interrupting(clock):
                outcome = job.run(jenkins, wanted, clock, options)
        finally:
            watch.close()
        shown = wish.plan_only and outcome.plan.steps and outcome.exit not in (Exit.REFUSED, Exit.ABORTED)
        if shown or (watch.unapproved and not clock.stopping()):
            arguments = ("jobs-sync", "apply", *wish.arguments[2:])
            outcome = replace(outcome, next=replace(wish, arguments=arguments).approved_command(outcome.plan.digest))
        if wish.plan_only and not wish.as_json:
            endings.console_on(sys.stdout).print(display.jobs_view(outcome.plan, outcome.differences))
        running.conclude(outcome, wish, plan_shown=wish.plan_only)
    raise typer.Exit(int(outcome.exit))


@contextmanager
def _interrupting(clock: "SystemClock") -> Iterator[None]:
    """Let a signal break off what is under way: for a job that waits for nothing but answers, and may be run again."""

    def stop(_number: int, _frame: object) -> None:
        clock.stop()
        raise KeyboardInterrupt

    with running.on_signals(stop):
        yield
