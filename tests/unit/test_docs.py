"""Every command that the documentation shows exists, with the options it shows, and is understood."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from thems_jobs.cli import app
from thems_jobs.lab.cli import app as lab

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
SCRIPTS = [ROOT / "resources" / "demo.sh"]
COMMAND = re.compile(r"(?:^|`|\$ |: )(thems-jobs [a-z][^`\n]*|make [a-z-]+)(?:`|$)", re.MULTILINE)
PLACEHOLDER = {"TIER": "web", "NAME": "shop-web-2", "TIME": "2030-12-01T20:00Z", "NUMBER": "6", "DIGEST": "f" * 12}


def commands() -> Iterator[tuple[str, str]]:
    """Yield page and command for every command line in the documentation."""
    for page in PAGES:
        for match in COMMAND.finditer(page.read_text()):
            yield page.name, match.group(1).strip().rstrip(".")
    for script in SCRIPTS:
        for line in script.read_text().splitlines():
            if match := re.match(r"\s*(?:run )?(thems-jobs (?!lab visitors).*)$", line):
                yield script.name, re.sub(r'"\$\{event\[@\]\}"|"\$tier"', "", match.group(1))


FOUND = list(commands())


def test_there_are_commands_to_look_at() -> None:
    assert len(FOUND) > 30


@pytest.mark.parametrize(("page", "text"), sorted({f for f in FOUND if f[1].startswith("make ")}))
def test_make_targets_exist(page: str, text: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    wanted = set(text.split()[1:2])
    assert wanted <= targets, f"{page} says {text!r}"


@pytest.mark.parametrize(("page", "text"), sorted({f for f in FOUND if f[1].startswith("thems-jobs ")}))
def test_commands_and_options_exist(page: str, text: str) -> None:
    words = [PLACEHOLDER.get(word, word) for word in shlex.split(text.replace("[TIER…]", "").replace("…", ""))]
    command: Any = typer.main.get_command(app)
    rest = words[1:]
    while hasattr(command, "commands") and rest:
        if rest[0] == "lab":
            command, rest = typer.main.get_command(lab), rest[1:]
            continue
        found = command.commands.get(rest[0])
        assert found is not None, f"{page} says {text!r}: there is no {rest[0]!r}"
        command, rest = found, rest[1:]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    known |= {"--help"}
    used = {word.split("=")[0] for word in rest if word.startswith("--")}
    assert used <= known, f"{page} says {text!r}: unknown {sorted(used - known)}"
