"""Playbooks run by our client, on this machine itself: results by host, logs, and a quick end."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from thems_jobs.clients.ansible import Ansible
from thems_jobs.clients.ssh import Ssh
from waiting import eventually

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFakeFakeFakeFakeFakeFakeFakeFakeFakeFakeFake"
HERE = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
HOSTS = {"first": ("127.0.0.1", KEY), "second": ("127.0.0.2", KEY)}


def write_play(folder: Path, name: str, tasks: str) -> str:
    path = folder / f"{name}.yml"
    path.write_text(f"- hosts: all\n  gather_facts: false\n  tasks:\n{tasks}")
    return str(path)


@pytest.fixture
def ansible(tmp_path: Path) -> Ansible:
    return Ansible(Ssh("nobody", tmp_path / "no-key", tmp_path), tmp_path, 60)


def test_each_host_has_its_own_result(ansible: Ansible, tmp_path: Path) -> None:
    play = write_play(
        tmp_path,
        "mixed",
        "    - name: Complain\n"
        "      ansible.builtin.command: sh -c 'echo out of {{ what }} >&2; exit 3'\n"
        "      when: inventory_hostname == 'second'\n"
        "    - name: Ignored\n"
        "      ansible.builtin.command: 'false'\n"
        "      ignore_errors: true\n",
    )
    errors = ansible.play(play, HOSTS, {**HERE, "what": "paper"})
    assert errors == {"second": "task 'Complain' failed: out of paper"}
    log = (tmp_path / "ansible-mixed-1.log").read_text()
    assert "TASK [Complain]" in log
    assert "PLAY RECAP" in log


def test_a_playbook_that_cannot_run_is_everybodys_trouble(ansible: Ansible, tmp_path: Path) -> None:
    errors = ansible.play(write_play(tmp_path, "wrong", "    - no.such.module: {}\n"), HOSTS, HERE)
    assert set(errors) == set(HOSTS)
    assert "no.such.module" in errors["first"]


def test_no_secret_of_the_environment_is_written_down(
    ansible: Ansible, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_SECRET", "tulip-4711")
    assert ansible.play(write_play(tmp_path, "quiet", "    - ansible.builtin.ping:\n"), HOSTS, HERE) == {}
    assert [path for path in tmp_path.rglob("*") if path.is_file() and "tulip-4711" in path.read_text()] == []


@pytest.mark.parametrize("locale", ["C", "de_XX.UTF-8"])
def test_it_runs_whatever_language_the_caller_speaks(
    ansible: Ansible, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locale: str
) -> None:
    monkeypatch.setenv("LC_ALL", locale)
    assert ansible.play(write_play(tmp_path, "any", "    - ansible.builtin.ping:\n"), HOSTS, HERE) == {}


def test_nothing_starts_after_it_was_cancelled(ansible: Ansible, tmp_path: Path) -> None:
    ansible.cancel()
    play = write_play(tmp_path, "late", f"    - ansible.builtin.command: touch {tmp_path}/done\n")
    assert ansible.play(play, HOSTS, HERE) == {"first": "cancelled", "second": "cancelled"}
    assert not (tmp_path / "done").exists()


def processes_with(mark: str) -> list[str]:
    """Return the command lines of all processes that have the mark in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            environment = (process / "environ").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if f"THEMS_TEST_MARK={mark}\0" in environment and command:
            found.append(command)
    return found


@pytest.mark.parametrize("end", ["cancel", "limit", "kill"])
def test_it_ends_soon_and_leaves_no_process(tmp_path: Path, end: str) -> None:
    play = write_play(tmp_path, "sleep", "    - ansible.builtin.command: sleep 100\n")
    script = f"""
import sys, threading
from pathlib import Path
from thems_jobs.clients.ansible import Ansible
from thems_jobs.clients.ssh import Ssh
folder = Path({str(tmp_path)!r})
ansible = Ansible(Ssh("nobody", folder / "no-key", folder), folder, {12 if end == "limit" else 200})
if {end == "cancel"}:
    threading.Thread(target=lambda: (sys.stdin.readline(), ansible.cancel())).start()
print(ansible.play({play!r}, {HOSTS!r}, {HERE!r}), flush=True)
"""
    mark = f"{tmp_path.name}-{end}"
    process = subprocess.Popen(
        [sys.executable, "-c", script], env={**os.environ, "THEMS_TEST_MARK": mark},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin
    assert process.stdout
    eventually(
        lambda: sum(line.startswith("sleep 100") for line in processes_with(mark)) == 2, "nobody sleeps", within_s=60
    )
    if end == "cancel":
        process.stdin.write("now\n")
        process.stdin.flush()
    elif end == "kill":
        process.send_signal(signal.SIGKILL)
    eventually(lambda: process.poll() is not None and processes_with(mark) == [], "processes are left", within_s=30)
    assert {"cancel": "cancelled", "limit": "took too long", "kill": ""}[end] in process.stdout.read()
