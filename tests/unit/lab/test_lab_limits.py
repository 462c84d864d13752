"""The kernel's limit that a lab raises is what it was before, once the last lab is gone."""

import fcntl
from pathlib import Path

import pytest

from thems_jobs.lab.layout import LabLayout
from thems_jobs.lab.limits import INOTIFY, INOTIFY_INSTANCES, raise_limits, restore_limits


class Host:
    """A host's limit, and where the labs note what it was."""

    def __init__(self, folder: Path, allowed: int) -> None:
        self.folder, self.limit, self.record = folder, folder / "max_user_instances", folder / "record.json"
        self.said: list[str] = []
        self.limit.write_text(f"{allowed}\n")

    @property
    def allowed(self) -> int:
        return int(self.limit.read_text())

    def lab(self, name: str) -> LabLayout:
        layout = LabLayout(self.folder / name)
        layout.directory.mkdir(exist_ok=True)
        layout.lock.touch()
        return layout

    def up(self, layout: LabLayout) -> None:
        raise_limits(layout, self.said.append, self.limit, self.record)

    def down(self, layout: LabLayout) -> None:
        restore_limits(layout, self.limit, self.record)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path, 128)


def test_the_last_lab_puts_back_what_the_first_one_found(host: Host) -> None:
    first, second = host.lab("first"), host.lab("second")
    host.up(first)
    host.up(second)
    assert host.allowed == INOTIFY_INSTANCES
    assert len(host.said) == 1
    assert "from 128" in host.said[0]
    host.down(first)
    assert host.allowed == INOTIFY_INSTANCES
    host.down(second)
    assert host.allowed == 128
    assert not host.record.exists()
    host.down(second)
    assert host.allowed == 128


def test_a_lab_whose_folder_was_taken_away_counts_no_more(host: Host) -> None:
    lost, last = host.lab("lost"), host.lab("last")
    host.up(lost)
    host.up(last)
    lost.lock.unlink()
    host.down(last)
    assert host.allowed == 128


def test_a_lab_that_was_killed_and_comes_again_keeps_what_was_found(host: Host) -> None:
    lab = host.lab("killed")
    host.up(lab)
    host.up(lab)
    host.down(lab)
    assert host.allowed == 128


@pytest.mark.parametrize("allowed", [INOTIFY_INSTANCES, 8192])
def test_a_limit_that_is_enough_is_not_ours(tmp_path: Path, allowed: int) -> None:
    host = Host(tmp_path, allowed)
    lab = host.lab("lab")
    host.up(lab)
    host.down(lab)
    assert (host.allowed, host.said, host.record.exists()) == (allowed, [], False)


def test_what_somebody_set_meanwhile_stays(host: Host) -> None:
    lab = host.lab("lab")
    host.up(lab)
    host.limit.write_text("4096\n")
    host.down(lab)
    assert host.allowed == 4096
    assert not host.record.exists()


def test_the_limit_itself_can_be_locked() -> None:
    with INOTIFY.open() as one, INOTIFY.open() as other:
        fcntl.flock(one, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
