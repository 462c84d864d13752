"""The command line: the only place that prints and exits. What it runs is imported when it is run."""

import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from thems_jobs.errors import ThemsError, UsageError
from thems_jobs.options import (
    AsJson,
    DetailedExit,
    DisableLeft,
    ExpectPlan,
    JenkinsCaFile,
    JenkinsUrl,
    JobsFolder,
    Parameters,
    PlanOnly,
    PlatformFile,
    ReportDir,
    StartedBy,
    Yes,
)

if TYPE_CHECKING:
    from rich.console import Console

    from thems_jobs.clock import SystemClock
    from thems_jobs.core.job import Job
    from thems_jobs.core.outcome import Outcome
    from thems_jobs.core.platform import Platform
    from thems_jobs.jobs.clients import Clients
    from thems_jobs.wish import Wish

OK, CRASHED, USAGE, REFUSED, ABORTED = 0, 1, 2, 4, 143  # as core.outcome.Exit, without importing it for --help

WATCH_PAUSE_S = 3.0  # between two looks, each of which takes a window of its own

ASKED = SimpleNamespace(report_dir=None)  # what main has to know of the command that it runs

EXAMPLES = """
\b
Examples:
  thems-jobs lab up                                   a platform to try it on
  thems-jobs doctor                                   is all there for a first run?
  thems-jobs template build web                       what machines are cloned from
  thems-jobs provision --plan                         what would be done, and for how long
  thems-jobs provision                                ... and do it
  thems-jobs scale --tier web=6 --event gala \\
      --until 2026-12-01T23:00+01:00                  more machines until the gala is over
  thems-jobs galera-health --for restart shop-db-2    would the database cluster bear it?
  thems-jobs galera-recover                           after a full crash: whose data is the newest?
  thems-jobs status                                   the platform as it is
\b
Exit codes: 0 done or nothing to do, 2 usage, 3 the plan has changes, 4 refused (nothing was changed),
5 done with items skipped, 6 halted (run it again), 143 aborted (run it again), 1 a bug.
"""


class Commands(typer.core.TyperGroup):
    """The commands; those of the lab are imported only when one of them is asked for."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] == "lab":
            from thems_jobs.lab.cli import app as lab

            return "lab", typer.main.get_command(lab), args[1:]
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=Commands,
    name="thems-jobs",
    help="Runs WooCommerce shops on a Proxmox cluster: shows what will happen, does it, and can be run again.",
    epilog=EXAMPLES,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
template = typer.Typer(help="What a tier's machines are cloned from.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(template, name="template")
jobs_sync = typer.Typer(
    help="Bring Jenkins' jobs to their definitions in git; nothing is ever deleted. Who asks is in THEMS_JENKINS_USER, "
    "the API token in the file THEMS_JENKINS_TOKEN_FILE.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(jobs_sync, name="jobs-sync")


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

    wish = _wish(plan, yes, expect_plan, detailed_exitcode, as_json, report_dir, started_by)
    platform = _platform(platform_file)
    wanted = job.Parameters(tuple(tiers or ()), tuple(replace or ()))
    _mean(job.mistakes(platform, wanted))
    _carry_out(platform, lambda clients: job.job(platform, wanted, clients), wish)


@app.command(
    epilog="Example: thems-jobs scale --tier web=6 --event gala --until 2026-12-01T23:00+01:00 --reason 'Autumn gala'"
)
def scale(
    tier: Annotated[
        list[str] | None, typer.Option(metavar="TIER=NUMBER", help="How many machines; once for each tier.")
    ] = None,
    until: Annotated[
        str, typer.Option(metavar="TIME", help="When the claim ends, with its zone.", show_default=False)
    ] = "",
    event: Annotated[str, typer.Option(metavar="NAME", help="What the claim is called.", show_default=False)] = "",
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

    wish = _wish(plan, yes, expect_plan, detailed_exitcode, as_json, report_dir, started_by)
    platform = _platform(platform_file)
    asked = Asked(tuple(tier or ()), until, event, reason, extend, end, expire, calendar)
    wanted = read_scale(platform, asked, wish.started_by, time.time())
    _carry_out(platform, lambda clients: job.job(platform, wanted, clients), wish, scheduled=expire or bool(calendar))


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

    wish = _wish(False, False, "", False, as_json, report_dir, started_by)
    platform = _platform(platform_file)
    action, name = asked or ("", "")
    wanted = job.Parameters(action, name, outage, target, accept_sst, tuple(accept_donor or ()))
    _mean(job.mistakes(platform, wanted))

    def make_job(clients: "Clients") -> "Job":
        return job.job(platform, wanted, clients)

    if watch:
        _follow(platform, make_job, as_json)
    else:
        _carry_out(platform, make_job, wish)


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

    wish = _wish(plan or not bootstrap, yes, expect_plan, detailed_exitcode, as_json, report_dir, started_by)
    platform = _platform(platform_file)
    wanted = job.Parameters(bootstrap)
    _mean(job.mistakes(platform, wanted))
    _carry_out(platform, lambda clients: job.job(platform, wanted, clients), wish)


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

    wish = _wish(plan, yes, expect_plan, detailed_exitcode, as_json, report_dir, started_by)
    platform = _platform(platform_file)
    wanted = job.Parameters(tier, time.time() if anew else None)
    _mean(job.mistakes(platform, wanted))
    _carry_out(platform, lambda clients: job.job(platform, wanted, clients), wish)


@jobs_sync.command("plan", epilog="Example: thems-jobs jobs-sync plan --jenkins-url https://jenkins.example.com/")
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
    wish = _wish(True, False, "", detailed_exitcode, as_json, report_dir, started_by)
    _sync_jobs(wish, jenkins_url, ca_file, definitions, disable_left)


@jobs_sync.command("apply", epilog="Example: thems-jobs jobs-sync apply --yes")
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
    wish = _wish(False, yes, expect_plan, False, as_json, report_dir, started_by)
    _sync_jobs(wish, jenkins_url, ca_file, definitions, disable_left)


@app.command()
def status(platform_file: PlatformFile = None, as_json: AsJson = False) -> None:
    """Show the platform as it is, and who started what."""
    from thems_jobs import runner
    from thems_jobs import status as shown
    from thems_jobs.jobs import provision as job

    platform = _platform(platform_file)
    with _clients(platform) as (clients, _):
        plan, facts = runner.preview(job.job(platform, job.Parameters(), clients))
    if as_json:
        print(json.dumps(shown.status_json(platform, facts, plan), indent=2))
    else:
        _console(sys.stdout).print(shown.status_view(platform, facts, plan))


@app.command()
def doctor(platform_file: PlatformFile = None, as_json: AsJson = False) -> None:
    """Check everything that a first run needs; change nothing."""
    from thems_jobs import display
    from thems_jobs.jobs.doctor import examine

    platform = _platform(platform_file)
    with _clients(platform) as (clients, _):
        checks = examine(platform, Path(), clients.proxmox)
    if as_json:
        print(json.dumps([asdict(check) for check in checks], indent=2))
    else:
        _console(sys.stdout).print(display.checks_view(checks))
    raise typer.Exit(OK if all(check.ok for check in checks) else REFUSED)


@app.command()
def version() -> None:
    """Print the version."""
    from thems_jobs import __version__

    print(f"thems-jobs {__version__}")


@app.command("lab", add_help_option=False)
def lab_stands_in() -> None:
    """A whole platform on this machine, to try things on: see thems-jobs lab --help."""


# What the commands have in common


def _wish(
    plan: bool, yes: bool, expect_plan: str, detailed: bool, as_json: bool, report_dir: Path | None, started_by: str
) -> "Wish":
    from thems_jobs.host import NAME_LIMIT, who
    from thems_jobs.wish import Wish

    who_asks = (started_by or who())[:NAME_LIMIT]
    ASKED.report_dir = report_dir
    return Wish(tuple(sys.argv[1:]), plan, yes, expect_plan, detailed, as_json, report_dir, who_asks)


def _platform(path: Path | None) -> "Platform":
    from thems_jobs.platform_file import read_platform

    if path is None:
        raise UsageError("usage", "--platform", ["no platform file is named: use --platform FILE or THEMS_PLATFORM."])
    return read_platform(path)


def _mean(mistakes: list[str]) -> None:
    """Given what cannot be meant, one sentence each. Raise UsageError if there is any."""
    if mistakes:
        raise UsageError("usage", "thems-jobs", mistakes, "Nothing was changed.")


@contextmanager
def _clients(platform: "Platform") -> "Iterator[tuple[Clients, SystemClock]]":
    """Given a platform, open its clients, in its machines' network, for one run."""
    from thems_jobs.clock import SystemClock
    from thems_jobs.host import enter_network
    from thems_jobs.jobs.connect import open_clients
    from thems_jobs.platform_file import check_files

    check_files(platform)
    if platform.reach.netns:
        enter_network(platform.reach.netns)
    clock = SystemClock()

    with tempfile.TemporaryDirectory(prefix="thems-", ignore_cleanup_errors=True) as folder:
        clients = open_clients(platform, Path(), Path(folder), clock)
        try:
            yield clients, clock
        finally:
            clients.ssh.close()


@contextmanager
def _on_signals(handler: Callable[[int, object], None]) -> Iterator[None]:
    """Let this handle being asked to stop, for a while."""
    before = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


@contextmanager
def _stopping_gently(clock: "SystemClock") -> Iterator[None]:
    """Let a signal ask the clock to stop, so that a run can end well; a second Ctrl-C ends us at once."""

    def stop(number: int, _frame: object) -> None:
        if clock.stopping() and number == signal.SIGINT:
            sys.exit(ABORTED)
        clock.stop()

    with _on_signals(stop):
        yield


def _carry_out(
    platform: "Platform", make_job: "Callable[[Clients], Job]", wish: "Wish", scheduled: bool = False
) -> None:
    """Given a job and how it was asked for, show its plan or do it; print and write down what became of it."""
    if wish.report_dir:
        _make_report_dir(wish.report_dir)
    with _clients(platform) as (clients, clock):
        job = make_job(clients)
        outcome = _preview(job, wish, clock) if wish.plan_only else _run(job, wish, clock, scheduled)
    raise typer.Exit(int(outcome.exit))


def _follow(platform: "Platform", make_job: "Callable[[Clients], Job]", as_json: bool) -> None:
    """Given a job whose plan has no steps, show what it finds again and again; end with the last verdict."""
    from rich.live import Live

    from thems_jobs import display, report
    from thems_jobs.core.job import Look

    facts, plan = None, None
    with _clients(platform) as (clients, clock), _stopping_gently(clock):
        job = make_job(clients)
        with Live(console=_console(sys.stderr if as_json else sys.stdout)) as live:
            while not clock.stopping():
                facts = job.observe(facts, Look(anew=True))
                plan = job.plan(facts)
                if as_json:
                    print(json.dumps(report.health_as_json(plan, facts.at)), flush=True)
                else:
                    live.update(display.health_view(plan, facts.at))
                clock.wait((), WATCH_PAUSE_S)
    raise typer.Exit(REFUSED if plan is None or plan.refusals else OK)


def _preview(job: "Job", wish: "Wish", clock: "SystemClock") -> "Outcome":
    """Given a job, show what it would do, and say how to let it."""
    from thems_jobs import display, phrases, process, runner
    from thems_jobs.core import approval, gates
    from thems_jobs.core.outcome import Exit, Outcome, machine_rows

    started_at = clock.now()
    plan, facts = runner.preview(job)
    refusals = (*plan.refusals, *approval.closed(plan, wish.expect_plan, facts.known_record.approved))
    lease = facts.known_record.lease
    if plan.steps and lease and lease.until > facts.at and not process.is_over(lease.token):
        refusals = (*refusals, gates.lease(lease, facts.at))
    if refusals:
        closed = phrases.count(len(refusals), "gate is", "gates are")
        ending = (Exit.REFUSED, f"It would be refused: {closed} closed. Nothing was changed.")
    elif plan.steps:
        ending = (Exit.CHANGES if wish.detailed else Exit.OK, f"Plan {plan.digest}; nothing was changed.")
    else:
        ending = (Exit.OK, "Nothing to do: all is as declared.")
    rows = machine_rows(facts)
    outcome = Outcome(
        command=wish.command, platform=job.platform.name, started_by=wish.started_by, started_at=started_at,
        ended_at=clock.now(), exit=ending[0], message=ending[1],
        next=wish.approved_command(plan.digest) if plan.steps and not refusals else "", plan=plan,
        measured=facts.seconds, refusals=refusals, warnings=plan.warnings, before=rows, after=rows,
    )  # fmt: skip
    if not wish.as_json:
        console = _console(sys.stdout)
        console.print(display.plan_view(plan, outcome.measured, refusals))
        console.print()
    _conclude(outcome, wish, plan_shown=True)
    return outcome


def _run(job: "Job", wish: "Wish", clock: "SystemClock", scheduled: bool) -> "Outcome":
    """Given a job, do it."""
    from thems_jobs import process, runner
    from thems_jobs.core.outcome import Exit
    from thems_jobs.watch import Watch

    watch = Watch(wish, clock, _console(sys.stderr))
    options = runner.Options(
        command=wish.command, started_by=wish.started_by, approve=watch.approve, token=process.identify(),
        is_over=process.is_over, expect_plan=wish.expect_plan, scheduled=scheduled,
    )  # fmt: skip
    with _stopping_gently(clock):
        try:
            outcome = runner.run(job, clock, options, watch.on_step)
        finally:
            watch.close()
        if watch.unapproved and clock.stopping():
            outcome = replace(outcome, exit=Exit.ABORTED, message="Aborted on request, nothing was changed.")
        elif watch.unapproved:
            outcome = replace(outcome, next=wish.approved_command(watch.unapproved))
        _conclude(outcome, wish)
    return outcome


def _sync_jobs(wish: "Wish", url: str, ca_file: Path | None, definitions: Path | None, disable_left: bool) -> None:
    """Given how it was asked for, compare Jenkins' jobs with their definitions, or bring them there."""
    from thems_jobs import display, resources
    from thems_jobs.clients.job_builder import read_definitions
    from thems_jobs.clock import SystemClock
    from thems_jobs.core.outcome import Exit
    from thems_jobs.jobs import jobs_sync as job
    from thems_jobs.watch import Watch

    if wish.report_dir:
        _make_report_dir(wish.report_dir)
    jenkins = job.open_jenkins(url, ca_file, os.environ)
    wanted = job.Parameters(read_definitions(definitions or resources.jobs()), disable_left)
    _mean(job.mistakes(wanted.definitions))
    clock = SystemClock()
    watch = Watch(wish, clock, _console(sys.stderr))
    options = job.Options(
        wish.command,
        wish.started_by,
        watch.approve_jobs,
        watch.on_step,
        wish.plan_only,
        wish.detailed,
        wish.expect_plan,
    )
    with _stopping_gently(clock):
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
            _console(sys.stdout).print(display.jobs_view(outcome.plan, outcome.differences))
        _conclude(outcome, wish, plan_shown=wish.plan_only)
    raise typer.Exit(int(outcome.exit))


@contextmanager
def _interrupting(clock: "SystemClock") -> Iterator[None]:
    """Let a signal break off what is under way: for a job that waits for nothing but answers, and may be run again."""

    def stop(_number: int, _frame: object) -> None:
        clock.stop()
        raise KeyboardInterrupt

    with _on_signals(stop):
        yield


def _make_report_dir(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError("usage", f"--report-dir {folder}", [f"it cannot be made ({error.strerror})."]) from error


def _conclude(outcome: "Outcome", wish: "Wish", plan_shown: bool = False) -> None:
    """Given what became of a run, write it down and print it, the line that matters last."""
    from thems_jobs import display, report

    if wish.report_dir:
        try:
            report.write_report(outcome, wish.report_dir)
            _console(sys.stderr).print(display.words(f"Report: {wish.report_dir / 'report.html'}", "dim"))
        except OSError as error:
            _console(sys.stderr).print(display.words(f"The report could not be written: {error}", "bold red"))
    if wish.as_json:
        print(json.dumps(report.as_json(outcome), indent=2))
    else:
        _console(sys.stdout).print(display.outcome_view(outcome, plan_shown), crop=False)


def _console(stream: Any) -> "Console":
    from rich.console import Console

    return Console(file=stream, highlight=False)


def _show_warnings() -> None:
    """Let what the layers below warn of appear on stderr, cleaned."""
    import logging

    class ToStderr(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            from thems_jobs.display import words

            with suppress(OSError):
                _console(sys.stderr).print(words(record.getMessage(), "yellow"))

    logging.getLogger("thems_jobs").addHandler(ToStderr(logging.WARNING))


def _say(error: ThemsError) -> int:
    """Given a known error that ended a command, say it, and return the exit code that it means."""
    from thems_jobs import display

    mistakes = error.mistakes if isinstance(error, UsageError) else [f"{error.subject}: {error.detail}"]
    console = _console(sys.stderr)
    view = display.mistakes_view(error.subject, mistakes, error.remedy)
    console.print(view, soft_wrap=not console.is_terminal)  # a sentence stays one line in a log
    if ASKED.report_dir:
        from thems_jobs import report

        with suppress(OSError):
            report.write_message(" ".join([*mistakes, error.remedy]), ASKED.report_dir)
    return USAGE if isinstance(error, UsageError) else REFUSED


def _crash(error: Exception) -> int:
    """Given what nobody expected, write the traceback to a file, and say so in one line."""
    from thems_jobs.host import write_crash
    from thems_jobs.phrases import plain

    path = write_crash(error, None)
    text = " ".join(plain(f"{type(error).__name__}: {error}").split())[:300]
    where = f"its traceback is in {path}" if path else "its traceback could not be written anywhere"
    print(f"thems-jobs has a bug: {text}; {where}. Running the command again is safe.", file=sys.stderr)
    return CRASHED


def main() -> None:
    """Run the command line; every way in which it can end is here."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # an old terminal shows ? for a tick
    signal.signal(signal.SIGINT, lambda *_: sys.exit(ABORTED))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(ABORTED))
    try:
        _show_warnings()
        app(prog_name="thems-jobs")
    except ThemsError as error:
        sys.exit(_say(error))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever read us has gone, as `| head` does
        sys.exit(OK)
    except Exception as error:
        sys.exit(_crash(error))
