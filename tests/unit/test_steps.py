"""The Jenkins steps and the command line fit together: commands, options, versions. tests/groovy runs the steps."""

import re
from pathlib import Path
from typing import Any

import click
import pytest
import typer

from thems_jobs import __version__, resources
from thems_jobs.cli import app

CHECKOUT = Path(__file__).parent.parent.parent
STEPS = sorted(path for path in (CHECKOUT / "vars").glob("*.groovy") if path.stem != "themsJob")
COMMAND = re.compile(r"'((?:scale|provision|galera-health|jobs-sync)(?: \w+)?)'")
KEYS = re.compile(r"(?:\[|, )\s*'?([a-z][\w-]*)'?:")


def options(command: str) -> set[str]:
    """Return what a file of parameters may hold for a command."""
    found: Any = typer.main.get_command(app)
    for word in command.split():
        found = found.get_command(click.Context(found), word)
        assert found, command
    names = {option.removeprefix("--") for each in found.params for option in each.opts if option.startswith("--")}
    return names | {each.name for each in found.params if each.param_type_name == "argument"}


@pytest.mark.parametrize("step", STEPS, ids=lambda path: path.stem)
def test_what_a_step_passes_on_is_known_to_its_command(step: Path) -> None:
    text = step.read_text()
    commands = COMMAND.findall(text)
    assert commands, step
    passed = set(KEYS.findall(text.split("parameters:")[1])) - {"web", "db"}
    for command in commands:
        assert {"report-dir", "started-by", "parameters"} <= options(command)
    assert passed <= set.union(*map(options, commands)), step
    if "approval: true" in text:
        assert {"plan", "detailed-exitcode", "expect-plan"} <= options(commands[0])


@pytest.mark.parametrize("step", STEPS, ids=lambda path: path.stem)
def test_every_step_has_its_job(step: Path) -> None:
    job = re.sub(r"([A-Z])", lambda match: "-" + match[0].lower(), step.stem)
    assert (CHECKOUT / "jobs" / f"{job}.yaml").exists()
    assert f"{step.stem}(" in (CHECKOUT / "jobs" / f"{job}.Jenkinsfile").read_text()


def test_the_library_says_the_version_of_the_package() -> None:
    assert resources.path("version.txt").read_text() == __version__ + "\n"
    assert f'version = "{__version__}"' in (CHECKOUT / "pyproject.toml").read_text()
