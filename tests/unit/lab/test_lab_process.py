"""The record of the lab's process: a pid alone is never enough to be killed."""

import dataclasses
import subprocess
from pathlib import Path

from thems_jobs.lab.process import read_process, record_process


def test_a_recorded_process_is_known_and_killed(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        record = record_process(process.pid, tmp_path / "process.json")
        assert read_process(tmp_path / "process.json") == record
        assert record.is_alive()
        record.kill()
        assert not record.is_alive()
        assert process.wait() == -9


def test_another_process_with_the_same_pid_is_left_alone(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        record = record_process(process.pid, tmp_path / "process.json")
        for stranger in (
            dataclasses.replace(record, started_ticks=record.started_ticks - 1),
            dataclasses.replace(record, boot_id="another boot"),
        ):
            assert not stranger.is_alive()
            stranger.kill()
            assert process.poll() is None
        process.kill()


def test_no_record_and_half_a_record_are_no_process(tmp_path: Path) -> None:
    assert read_process(tmp_path / "process.json") is None
    (tmp_path / "process.json").write_text('{"pid": 1')
    assert read_process(tmp_path / "process.json") is None
