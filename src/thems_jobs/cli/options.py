"""The options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer


def _take_parameters(ctx: typer.Context, path: Path | None) -> Path | None:
    """Given a file of parameters, let it stand in for options that are not on the command line."""
    if path is None or ctx.resilient_parsing:
        return path
    from thems_jobs.parameters import read_parameters

    known = {}
    for parameter in ctx.command.params:
        if parameter.name and parameter.name not in ("parameters", "help"):
            long = [option.removeprefix("--") for option in parameter.opts if option.startswith("--")]
            known[(long or [parameter.name])[0]] = parameter.name
    ctx.default_map = read_parameters(path, known)
    return path


PlatformFile = Annotated[
    Path | None,
    typer.Option("--platform", envvar="THEMS_PLATFORM", metavar="FILE", help="The platform file.", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
PlanOnly = Annotated[bool, typer.Option("--plan", help="Show what would be done; change nothing.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do it without asking.")]
ExpectPlan = Annotated[
    str, typer.Option(metavar="DIGEST", help="Do it if it is this plan, or what remains of it.", show_default=False)
]
DetailedExit = Annotated[bool, typer.Option("--detailed-exitcode", help="With --plan: exit 3 if there is work.")]
ReportDir = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Write report.json, gates.xml and report.html there.", show_default=False),
]
StartedBy = Annotated[
    str,
    typer.Option(metavar="WHO", help="Who asks for it. [default: you, as far as this host knows]", show_default=False),
]
Parameters = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="JSON file with options by their long names; the command line wins.",
        is_eager=True, callback=_take_parameters, show_default=False,
    ),
]  # fmt: skip
JenkinsUrl = Annotated[
    str,
    typer.Option(
        envvar=["THEMS_JENKINS_URL", "JENKINS_URL"], metavar="URL", help="Where Jenkins is.", show_default=False
    ),
]
JenkinsCaFile = Annotated[
    Path | None,
    typer.Option(
        "--ca-file", envvar="THEMS_JENKINS_CA_FILE", metavar="FILE", help="The authority that signed its certificate.",
        show_default=False,
    ),
]  # fmt: skip
JobsFolder = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="The definitions. [default: those that come with this]", show_default=False),
]
DisableLeft = Annotated[bool, typer.Option("--disable-left", help="Disable jobs that left the code; never delete.")]
