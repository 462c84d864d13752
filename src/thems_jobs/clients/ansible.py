"""Playbooks on machines, by ansible-runner, over the same connections as our own commands."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from thems_jobs import resources
from thems_jobs.private_folder import PrivateFolder

if TYPE_CHECKING:
    from thems_jobs.clients.ssh import Ssh

FORKS = 16
POLL_S = 0.5  # how often ansible-runner asks whether to go on
KILL_AFTER_S = 3.0  # from SIGTERM to SIGKILL; jobs must be over 5 s after they were told so
CONNECT_TIMEOUT_S = 10

# Standard strategy on purpose. Mitogen (0.3.54, with ansible-core 2.19) bakes a role in a third of the time, but the
# late part has two or three tasks, where it is no faster, and ansible-core 2.19 announces the end of foreign
# strategy plugins.


class Ansible:
    """The playbooks that come with this package. Nothing of the user's or the system's configuration counts."""

    def __init__(self, ssh: Ssh, run_dir: Path, limit_s: float) -> None:
        """Given the connections, a folder for logs and the seconds that one playbook may take, start nothing yet."""
        self._ssh = ssh
        self._logs = run_dir
        self._limit_s = limit_s
        self._cancelled = threading.Event()
        self._numbers = itertools.count(1)

    def converge(self, hosts: Mapping[str, tuple[str, str]], variables: Mapping[str, Any]) -> dict[str, str]:
        """Configure machines ((address, host key) by name); return what went wrong, by name: {} if nothing did."""
        return self.play("converge.yml", hosts, variables)

    def bake(self, hosts: Mapping[str, tuple[str, str]], variables: Mapping[str, Any]) -> dict[str, str]:
        """Put into machines what a template of their role holds; return what went wrong, by name."""
        return self.play("bake.yml", hosts, variables)

    def seal(self, hosts: Mapping[str, tuple[str, str]]) -> dict[str, str]:
        """Make machines forget who they are, just before they become templates; return what went wrong, by name."""
        return self.play("seal.yml", hosts, {})

    def cancel(self) -> None:
        """End every playbook that runs or is started from now on, with all its processes, within 5 s."""
        self._cancelled.set()

    def play(self, playbook: str, hosts: Mapping[str, tuple[str, str]], variables: Mapping[str, Any]) -> dict[str, str]:
        """Run a playbook on machines; return what went wrong, by name. Its output is in a log file of its own."""
        if not hosts or self._cancelled.is_set():
            return dict.fromkeys(hosts, "cancelled")
        self._ssh.know(dict(hosts.values()))
        log = self._logs / f"ansible-{Path(playbook).stem}-{next(self._numbers)}.log"
        # ansible-runner writes the whole environment into its folder: it is private, and gone afterwards.
        with PrivateFolder() as folder, log.open("a", encoding="utf-8") as out:
            return self._run(folder.path, playbook, hosts, variables, out)

    def _run(
        self,
        folder: Path,
        playbook: str,
        hosts: Mapping[str, tuple[str, str]],
        variables: Mapping[str, Any],
        log: TextIO,
    ) -> dict[str, str]:
        import ansible_runner  # takes 0.2 s, which `--help` should not cost

        inventory = folder / "inventory.json"
        inventory.write_text(json.dumps(self._inventory(hosts, variables)))
        results = _Results(log)
        _write_wrapper(folder)
        watch = _Watch(folder / "pid", self._cancelled, time.monotonic() + self._limit_s)
        ansible_runner.run(
            private_data_dir=str(folder),
            playbook=str(resources.path("ansible", playbook)),
            inventory=str(inventory),
            envvars=self._environment(folder, len(hosts)),
            settings={"pexpect_timeout": POLL_S},
            event_handler=results.take,
            cancel_callback=watch.should_kill,
            quiet=True,
            suppress_env_files=True,
        )
        return results.errors(hosts, watch.verdict)

    def _inventory(self, hosts: Mapping[str, tuple[str, str]], variables: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "all": {
                "hosts": {name: {"ansible_host": address} for name, (address, _) in hosts.items()},
                "vars": {
                    **variables,
                    "ansible_user": self._ssh.user,
                    "ansible_ssh_args": shlex.join(self._ssh.options),
                },
            }
        }

    def _environment(self, folder: Path, host_count: int) -> dict[str, str]:
        return {
            "ANSIBLE_CONFIG": str(resources.path("ansible", "ansible.cfg")),
            "ANSIBLE_FORKS": str(min(FORKS, host_count)),
            "ANSIBLE_HOME": str(folder / "home"),
            "ANSIBLE_HOST_KEY_CHECKING": "True",  # ansible-runner would switch it off
            "ANSIBLE_LOCAL_TEMP": str(folder / "tmp"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_PIPELINING": "1",
            "ANSIBLE_SSH_RETRIES": "2",
            "ANSIBLE_TIMEOUT": str(CONNECT_TIMEOUT_S),
            "LC_ALL": "C.UTF-8",  # ansible does not start with another encoding, or a language that is not installed
            "PYTHONDONTWRITEBYTECODE": "",  # compiling ansible anew costs more than one late part
            "PATH": f"{folder}:{os.environ['PATH']}",  # where the wrapper is found first
        }


class _Results:
    """Collects what a playbook tells: its output into the log, and the last complaint about every host."""

    def __init__(self, log: TextIO) -> None:
        self._log = log
        self._complaints: dict[str, str] = {}
        self._unwell: set[str] | None = None  # None: the playbook did not come to its end
        self._error = ""  # the last line in which ansible itself complains

    def take(self, event: Mapping[str, Any]) -> bool:
        """Given an event, keep what matters; False tells ansible-runner not to write it to a file."""
        if output := event.get("stdout"):
            self._log.write(output.rstrip() + "\n")
            self._log.flush()
            self._error = next((line for line in output.splitlines() if "ERROR" in line), self._error)
        data = event.get("event_data", {})
        kind = event.get("event")
        if kind in ("runner_on_failed", "runner_on_unreachable") and not data.get("ignore_errors"):
            what = "cannot be reached" if kind == "runner_on_unreachable" else f"task {data.get('task')!r} failed"
            self._complaints[data["host"]] = f"{what}: {_message(data.get('res', {}))}"
        elif kind == "playbook_on_stats":
            self._unwell = {*data.get("failures", {}), *data.get("dark", {})}
        return False

    def errors(self, hosts: Mapping[str, object], verdict: str) -> dict[str, str]:
        """Return what went wrong by host. Without a proper end, every host without a complaint shares the verdict."""
        if self._unwell is None:
            shared = verdict or f"ansible ended early: {self._error[-500:] or 'without a word'}"
            return {name: self._complaints.get(name, shared) for name in hosts}
        return {name: self._complaints.get(name, "failed, see the log") for name in hosts if name in self._unwell}


class _Watch:
    """Ends ansible in time. Its workers have process groups of their own, which only its own SIGTERM reaches.

    ansible-runner would send SIGKILL to ansible's group alone, and leave the workers and their ssh behind.
    """

    def __init__(self, pid_file: Path, cancelled: threading.Event, deadline: float) -> None:
        self._pid_file = pid_file
        self._cancelled = cancelled
        self._deadline = deadline
        self._told_at: float | None = None
        self.verdict = ""

    def should_kill(self) -> bool:
        """Asked every moment: tell ansible to end when it must; True once it had its time to do so."""
        now = time.monotonic()
        if self._told_at is None:
            if not self._cancelled.is_set() and now < self._deadline:
                return False
            self.verdict = "cancelled" if self._cancelled.is_set() else "it took too long and was ended"
            with suppress(OSError, ValueError):  # not started yet, or over already
                os.kill(int(self._pid_file.read_text()), signal.SIGTERM)
            self._told_at = now
        return now - self._told_at > KILL_AFTER_S


def _write_wrapper(folder: Path) -> None:
    """Write the program that ansible-runner finds as ansible: it notes its id, and ends by itself if we are killed."""
    wrapper = folder / "ansible-playbook"
    ansible = shlex.quote(str(Path(sys.executable).parent / "ansible-playbook"))
    pid_file = shlex.quote(str(folder / "pid"))
    wrapper.write_text(f'#!/bin/sh\necho $$ > {pid_file}\nexec setpriv --pdeathsig TERM {ansible} "$@"\n')
    wrapper.chmod(0o700)


def _message(result: Mapping[str, Any]) -> str:
    """Given a task's result, return the shortest text that says why it failed."""
    for key in ("stderr", "msg", "module_stderr", "stdout"):
        if text := str(result.get(key, "")).strip():
            return text[-500:]
    return "no message"
