"""The commands of the database cluster: galera-health, galera-recover."""

import json
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from thems_jobs.cli import endings, running
from thems_jobs.cli.options import (
    AsJson,
    DetailedExit,
    ExpectPlan,
    Parameters,
    PlanOnly,
    PlatformFile,
    ReportDir,
    StartedBy,
    Yes,
)

if TYPE_CHECKING:
    from thems_jobs.core.job import Job
    from thems_jobs.core.platform import Platform
    from thems_jobs.jobs.clients import Clients

WATCH_PAUSE_S = 3.0  # between two looks, each of which takes a window of its own

app = typer.Typer(rich_markup_mode=None)


@app.command("galera-health", epilog="Example: thems-jobs galera-health --for restart shop-db-2 --outage 90")
def galera_health(
    asked: Annotated[
        tuple[str, str] | None,
        typer.Option(
            "--for",
            metavar="ACTION NAME",
            show_default=False,
            help="Would it be safe to remove, restart, add or upgrade this member?",
        ),
    ] = None,
    outage: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="How long it is away. [default: 60; upgrade 600]")
    ] = None,
    target: Annotated[
        int | None, typer.Option(metavar="NUMBER", help="It is a part of going to so many members.")
    ] = None,
    accept_sst: Annotated[bool, typer.Option("--accept-sst", help="It may come back by a full copy.")] = False,
    accept_donor: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="This member may be a donor at the moment.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Look again and again, until Ctrl-C.")] = False,
    platform_file: PlatformFile = None,
    as_json: AsJson = False,
    report_dir: ReportDir = None,
    started_by: StartedBy = "",
    parameters: Parameters = None,  # noqa: ARG001 - its callback has done its work
) -> None:
    """Ask every database machine and proxy whether all is well, and would bear something risky; change nothing."""
    from thems_jobs.jobs import galera_health as job

    wish = running.wished(False, False, "", False, as_json, report_dir, started_by)
    platform = running.platform_at(platform_file)
    action, name = asked or ("", "")
    wanted = job.Parameters(action, name, outage, target, accept_sst, tuple(accept_donor or ()))
    running.mean(job.mistakes(platform, wanted))

    def make_job(clients: "Clients") -> "Job":
        return job.job(platform, wanted, clients)

    if watch:
        _follow(platform, make_job, as_json)
    else:
        running.carry_out(platform, make_job, wish)


@app.command("galera-recover", epilog="Example: thems-jobs galera-recover --bootstrap shop-db-2")
def galera_recover(
    bootstrap: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            show_default=False,
            help="The machine with the newest data, named by a person who has seen the order. [without it: only look]",
        ),
    ] = "",
    platform_file: PlatformFile = None,
    plan: PlanOnly = False,
    yes: Yes = False,
    expect_plan: ExpectPlan = "",
    detailed_exitcode: DetailedExit = False,
    as_json: AsJson = False,
    report_dir: ReportDir = None,
    started_by: StartedBy = "",
    parameters: Parameters = None,  # noqa: ARG001 - its callback has done its work
) -> None:
    """After a full crash, make one cluster again of the database machine with the newest data; never by itself."""
    from thems_jobs.jobs import galera_recover as job

    wish = running.wished(plan or not bootstrap, yes, expect_plan, detailed_exitcode, as_json, report_dir, started_by)
    platform = running.platform_at(platform_file)
    wanted = job.Parameters(bootstrap)
    running.mean(job.mistakes(platform, wanted))
    running.carry_out(platform, lambda clients: job.job(platform, wanted, clients), wish)


def _follow(platform: "Platform", make_job: "Callable[[Clients], Job]", as_json: bool) -> None:
    """Given a job whose plan has no steps, show what it finds again and again; end with the last verdict.

    A signal ends it, also while it looks; without any verdict it is aborted.
    """
    from rich.live import Live

    from thems_jobs import display, report
    from thems_jobs.clock import Stopped, answer_of
    from thems_jobs.core.job import Look

    facts, plan = None, None
    with running.opened_clients(platform) as (clients, clock), running.stopping_gently(clock):
        job = make_job(clients)
        with Live(console=endings.console_on(sys.stderr if as_json else sys.stdout)) as live, suppress(Stopped):
            while True:
                facts = answer_of(clock, partial(job.observe, facts, Look(anew=True)))
                plan = job.plan(facts)
                if as_json:
                    print(json.dumps(report.health_as_json(plan, facts.at)), flush=True)
                else:
                    live.update(display.health_view(plan, facts.at))
                clock.wait((), WATCH_PAUSE_S)
    if plan is None:
        raise typer.Exit(endings.ABORTED)
    raise typer.Exit(endings.REFUSED if plan.refusals else endings.OK)
