"""An address that changes hands: silence of whoever is gone is not taken for a free address."""

import json
import os
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from inside import network_of
from real_lab import NewMachine

from thems_jobs.clients.ssh import Ssh

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]


def test_who_took_the_address_of_a_machine_that_is_gone_is_found(new_machine: NewMachine, tmp_path: Path) -> None:
    gone, taker = new_machine("gone").boot(), new_machine("taker").boot()
    layout = taker.lab.layout
    ssh = Ssh("thems", layout.ssh_key, tmp_path)
    with network_of(layout.netns):
        assert ssh.finds(gone.address)
        known = _neighbour(gone.address)
    gone.do("stop")
    taker.says(f"sudo ip address add {gone.address}/16 dev eth0")
    with network_of(layout.netns):
        _remember(gone.address, known)
        assert not ssh.answers(gone.address), "this host does not look at the old hardware address: nothing is tested"
        assert _as_nobody(lambda: ssh.finds(gone.address)), "who may not change the neighbour table did not wait for it"
        _remember(gone.address, known)
        assert ssh.finds(gone.address)
        assert not ssh.finds("10.77.9.249")


def _as_nobody(question: Callable[[], bool]) -> bool:
    """Return what a process says that may do nothing but ask."""
    child = os.fork()
    if child == 0:
        code = 1
        with suppress(BaseException):
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            code = 0 if question() else 1
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _neighbour(address: str) -> dict[str, str]:
    """Return what this host knows of an address in its network."""
    shown = subprocess.run(["ip", "-json", "neighbour", "show", "to", address], capture_output=True, check=True)
    known: dict[str, str] = json.loads(shown.stdout)[0]
    return known


def _remember(address: str, known: dict[str, str]) -> None:
    """Let this host's neighbour table hold what it knew, as it does where no bridge of its own loses a port."""
    change = ["lladdr", known["lladdr"], "dev", known["dev"], "nud", "stale"]
    subprocess.run(["ip", "neighbour", "replace", address, *change], check=True)
