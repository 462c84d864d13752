"""An address that changes hands: silence of whoever is gone is not taken for a free address."""

import json
import subprocess
from pathlib import Path

import pytest
from inside import network_of
from real_lab import NewMachine

from thems_jobs.clients.ssh import Ssh

pytestmark = pytest.mark.lab


def test_who_took_the_address_of_a_machine_that_is_gone_is_found(new_machine: NewMachine, tmp_path: Path) -> None:
    gone, taker = new_machine("gone").boot(), new_machine("taker").boot()
    layout = taker.lab.layout
    ssh = Ssh("thems", layout.ssh_key, tmp_path)
    with network_of(layout.netns):
        assert ssh.finds(gone.address)
    gone.do("stop")
    taker.says(f"sudo ip address add {gone.address}/16 dev eth0")
    with network_of(layout.netns):
        _as_a_minute_later(gone.address)
        assert not ssh.answers(gone.address), "this host does not look at the old hardware address: nothing is tested"
        assert ssh.finds(gone.address)
        assert not ssh.finds("10.77.9.249")


def _as_a_minute_later(address: str) -> None:
    """Let the neighbour table trust what it knows of an address no more than it would after a minute."""
    shown = subprocess.run(["ip", "-json", "neighbour", "show", "to", address], capture_output=True, check=True)
    known = json.loads(shown.stdout)[0]
    change = ["lladdr", known["lladdr"], "dev", known["dev"], "nud", "stale"]
    subprocess.run(["ip", "neighbour", "change", address, *change], check=True)
