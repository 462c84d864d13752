"""Folders in the temporary one: they go with their process, however it ends, and nobody takes one that is in use."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from thems_jobs.clients.ssh import Ssh
from thems_jobs.private_folder import PREFIX, PrivateFolder, remove_left

pytestmark = pytest.mark.timeout(60)
LIVING = """
import sys
from thems_jobs.private_folder import PrivateFolder
folder = PrivateFolder()
(folder.path / "inventory").write_text("of a run")
print(folder.path, flush=True)
sys.stdin.read()
"""
BUSY = """
from thems_jobs.private_folder import PrivateFolder, remove_left
for number in range(300):
    with PrivateFolder() as folder:
        (folder.path / "mine").write_text("")
        remove_left()
        assert (folder.path / "mine").exists(), number
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@contextmanager
def living() -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [sys.executable, "-c", LIVING], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def folder_of(process: "subprocess.Popen[str]") -> Path:
    assert process.stdout
    return Path(process.stdout.readline().strip())


def test_it_is_private_and_gone_afterwards() -> None:
    with PrivateFolder() as folder:
        assert folder.path.stat().st_mode & 0o777 == 0o700
        (folder.path / "a" / "b").mkdir(parents=True)
    assert not folder.path.exists()
    folder.remove()


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_has_is_not() -> None:
    with living() as killed, living() as lives, PrivateFolder() as mine:
        left, used = folder_of(killed), folder_of(lives)
        remove_left()
        assert left.exists()
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert left.exists()
        remove_left()
        assert not left.exists()
        assert (used / "inventory").exists()
        assert mine.path.exists()


def test_nothing_else_is_touched(temporary: Path) -> None:
    precious = temporary / "precious"
    precious.mkdir()
    (precious / "data").write_text("kept")
    link, file = temporary / f"{PREFIX}link", temporary / f"{PREFIX}file"
    link.symlink_to(precious)
    file.write_text("kept")
    left = temporary / f"{PREFIX}left"
    left.mkdir()
    (left / "link").symlink_to(precious)
    remove_left()
    assert not left.exists()
    assert link.is_symlink()
    assert (precious / "data").read_text() == file.read_text() == "kept"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a folder of another user")
def test_another_users_folder_is_not_touched(temporary: Path) -> None:
    foreign = temporary / f"{PREFIX}foreign"
    foreign.mkdir()
    os.chown(foreign, 65534, 65534)
    remove_left()
    assert foreign.exists()


def test_runs_that_begin_and_clean_at_the_same_time_never_take_each_others_folder(temporary: Path) -> None:
    runs = [subprocess.Popen([sys.executable, "-c", BUSY], stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for run in runs:
        error = run.communicate()[1]
        assert run.returncode == 0, error
    assert list(temporary.glob(f"{PREFIX}*")) == []


def test_closed_connections_leave_no_folder_even_if_one_begins_meanwhile(temporary: Path) -> None:
    ssh = Ssh("nobody", temporary / "key", temporary)
    folder = next(temporary.glob(f"{PREFIX}*"))
    (folder / "late").mkdir()  # what the loop over sockets has not seen or cannot remove
    ssh.close()
    assert not folder.exists()


def test_a_socket_of_ssh_fits_into_its_address(temporary: Path) -> None:
    """%C is 40 characters, and while it connects ssh appends a dot and 16 more; unix(7) allows 107."""
    ssh = Ssh("nobody", temporary / "key", temporary)
    path = next(word.partition("=")[2] for word in ssh.options if word.startswith("ControlPath="))
    ssh.close()
    within = path.removeprefix(str(temporary)).replace("%C", "c" * 40)
    assert within.startswith(f"/{PREFIX}")
    assert len("/temporary/folder/of/agent") + len(within) + 17 <= 107
