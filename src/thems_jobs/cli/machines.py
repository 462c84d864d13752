"""The commands that make machines: provision, scale, template build."""

from pathlib import Path
from typing import Annotated

import typer

from thems_jobs.cli import running
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

app = typer.Typer(rich_markup_mode=None)
template = typer.Typer(help="What a tier's machines are cloned from.", no_args_is_help=True, rich_markup_mode=None)


@app.command(epilog="Example: thems-jobs provision web --replace shop-web-2 --plan")
def provision(
    tiers: Annotated[
        list[str] | None, typer.Argument(help="Tiers to bring there; all of them if none is named.")
    ] = None,
    replace: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Make this machine anew, without losing capacity.")
    ] = None,
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
    """Bring tiers, or the whole platform, to their declared state."""
    from thems_jobs.jobs import provision as job

    wish = running.wished(plan, yes, expect_plan, detailed_exitcode, as_json, report_dir, started_by)
    platform = running.platform_at(platform_file)
    wanted = job.Parameters(tuple(tiers or ()), tuple(replace or ()))
    running.mean(job.mistakes(platform, wanted))
    running.carry_out(platform, lambda clients: job.job(platform, wanted, clients), wish)


SCALE_EXAMPLES = """
\b
Examples:
  thems-jobs scale --tier web=6 --event gala \\
      --until 2026-12-01T23:00+01:00              more machines until the gala is over
  thems-jobs scale --extend gala \\
      --until 2026-12-02T01:00+01:00              it lasts longer
  thems-jobs scale --end gala                     it is over now
  thems-jobs scale --expire --yes                 for cron: back when claims are over
  thems-jobs scale --calendar events.yaml --yes   for cron: claim what the calendar says

Where claims overlap, the larger number counts. Nobody's claim is made less by somebody else's.
"""


@app.command(epilog=SCALE_EXAMPLES)
def scale(
    tier: Annotated[
        list[str] | None, typer.Option(metavar="TIER=NUMBER", help="How many machines; once for each tier.")
    ] = None,
    until: Annotated[
        str, typer.Option(metavar="TIME", help="When the claim ends, with its zone.", show_default=False)
    ] = "",
    event: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="What the claim is called. [default: who, until when, and a mark]", show_default=False
        ),
    ] = "",
    reason: Annotated[str, typer.Option(metavar="TEXT", help="What it is for.", show_default=False)] = "",
    extend: Annotated[
        str, typer.Option(metavar="NAME", help="Let this claim end at --until instead.", show_default=False)
    ] = "",
    end: Annotated[str, typer.Option(metavar="NAME", help="End this claim now.", show_default=False)] = "",
    expire: Annotated[bool, typer.Option("--expire", help="Return from claims that are over (for cron).")] = False,
    calendar: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Claim for the events of this calendar (for cron).", show_default=False),
    ] = None,
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
    """Scale for an event: claim capacity until a time, extend it, end it."""
    import time

    from thems_jobs.jobs import scale as job
    from thems_jobs.parameters import Asked, read_scale

    wish = running.wished(plan, yes, expect_plan, detailed_exitcode, as_json, report_dir, started_by)
    platform = running.platform_at(platform_file)
    asked = Asked(tuple(tier or ()), until, event, reason, extend, end, expire, calendar)
    wanted = read_scale(platform, asked, wish.started_by, time.time())
    running.carry_out(
        platform, lambda clients: job.job(platform, wanted, clients), wish, scheduled=expire or bool(calendar)
    )


@template.command("build", epilog="Example: thems-jobs template build web --plan")
def template_build(
    tier: Annotated[str, typer.Argument(help="The tier whose machines are cloned from it.", show_default=False)],
    anew: Annotated[bool, typer.Option("--anew", help="Build one even if there is a fresh one.")] = False,
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
    """Make a tier's template from its image; machines that exist keep the one they were cloned from."""
    import time

    from thems_jobs.jobs import template_build as job

    wish = running.wished(plan, yes, expect_plan, detailed_exitcode, as_json, report_dir, started_by)
    platform = running.platform_at(platform_file)
    wanted = job.Parameters(tier, time.time() if anew else None)
    running.mean(job.mistakes(platform, wanted))
    running.carry_out(platform, lambda clients: job.job(platform, wanted, clients), wish)
