"""The commands that look at the whole platform, and change nothing: status, doctor."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import typer

from thems_jobs.cli import endings, running
from thems_jobs.cli.options import AsJson, PlatformFile

app = typer.Typer(rich_markup_mode=None)


@app.command()
def status(platform_file: PlatformFile = None, as_json: AsJson = False) -> None:
    """Show the platform as it is, and who started what."""
    from thems_jobs import runner
    from thems_jobs import status as shown
    from thems_jobs.jobs import provision as job

    platform = running.platform_at(platform_file)
    with running.opened_clients(platform) as (clients, _):
        plan, facts = runner.preview(job.job(platform, job.Parameters(), clients))
    if as_json:
        print(json.dumps(shown.status_json(platform, facts, plan), indent=2))
    else:
        endings.console_on(sys.stdout).print(shown.status_view(platform, facts, plan))


@app.command()
def doctor(platform_file: PlatformFile = None, as_json: AsJson = False) -> None:
    """Check everything that a first run needs; change nothing."""
    from thems_jobs import display
    from thems_jobs.jobs.doctor import examine

    platform = running.platform_at(platform_file)
    with running.opened_clients(platform) as (clients, _):
        checks = examine(platform, Path(), clients.proxmox)
    if as_json:
        print(json.dumps([asdict(check) for check in checks], indent=2))
    else:
        endings.console_on(sys.stdout).print(display.checks_view(checks))
    raise typer.Exit(endings.OK if all(check.ok for check in checks) else endings.REFUSED)
