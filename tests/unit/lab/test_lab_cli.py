"""The lab's command line without a lab."""

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from thems_jobs.lab.cli import app

COMMANDS = (["up"], ["down"], ["status"], ["ssh", "web"], ["enter"], ["latencies"], ["visitors"], ["fault", "list"])


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_without_root_one_sentence_and_exit_code_2(
    command: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    monkeypatch.setenv("THEMS_LAB_DIR", str(tmp_path))
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    assert result.stderr == (
        "thems-jobs lab: the lab needs root (mounts, network namespaces, control groups): run it with sudo\n"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", COMMANDS[2:], ids=" ".join)
def test_without_a_lab_one_sentence_and_exit_code_4(
    command: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("THEMS_LAB_DIR", str(tmp_path))
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 4
    assert result.stderr == f"thems-jobs lab: no lab is up in {tmp_path}; start one with `thems-jobs lab up`\n"


@pytest.mark.parametrize(
    "command", [*(c[:1] for c in COMMANDS), ["fault", "cut"], ["fault", "fail-clone"]], ids=" ".join
)
def test_every_command_explains_itself_with_an_example(command: list[str]) -> None:
    result = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert "thems-jobs lab" in result.stdout or command == ["fault"]
