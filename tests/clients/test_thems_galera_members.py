"""`thems-galera join` itself: whom a member finds when it starts, now and when it comes back by itself much later."""

import json
import os
from pathlib import Path

import pytest
from test_thems_galera_copies import Machine
from test_thems_galera_start import machine as stopped_member

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the program runs as root")


@pytest.fixture(params=["mariadb", "percona"])
def machine(tmp_path: Path, request: pytest.FixtureRequest) -> Machine:
    return stopped_member(tmp_path, request.param)


def written(machine: Machine, file: str) -> Path:
    """Return the path of a file that the program writes for the server."""
    return Path(json.loads((machine.folder / "etc" / "galera.json").read_text())[file])


def setting(machine: Machine, file: str, name: str) -> str:
    """Return one setting of a file that the server reads, "" where it is not set."""
    path = written(machine, file)
    lines = path.read_text().splitlines() if path.exists() else []
    assert not lines or "[mysqld]" in lines
    return next((line.partition("=")[2].strip() for line in lines if line.startswith(f"{name} =")), "")


def test_a_member_looks_for_others_at_every_address_of_the_tier(machine: Machine) -> None:
    machine.run("join", "--donor", "shop-db-2", "--members", "10.77.3.12,10.77.3.13,10.77.3.11")
    present, others = "10.77.3.12,10.77.3.11", "10.77.3.14,10.77.3.15,10.77.3.16"
    assert setting(machine, "peers_file", "wsrep_cluster_address") == f"gcomm://{present},{others}"
    machine.run("join", "--members", "10.77.9.1")  # it is of no tier
    assert setting(machine, "peers_file", "wsrep_cluster_address").startswith("gcomm://10.77.9.1,10.77.3.11,")


def test_one_start_takes_its_data_from_the_donors_alone_and_later_ones_rather_from_them(machine: Machine) -> None:
    machine.run("join", "--donor", "shop-db-2,shop-db-4", "--members", "10.77.3.11,10.77.3.12,10.77.3.14")
    assert setting(machine, "donors_file", "wsrep_sst_donor") == '"shop-db-2,shop-db-4"'
    assert setting(machine, "peers_file", "wsrep_sst_donor") == '"shop-db-2,shop-db-4,"'
    machine.run("join", "--members", "10.77.3.11")
    assert not written(machine, "donors_file").exists(), "donors of an earlier start are left"
    assert setting(machine, "peers_file", "wsrep_sst_donor") == ""


def test_the_donors_of_one_start_count_more_than_those_of_later_ones(machine: Machine) -> None:
    peers, donors = (written(machine, file).name for file in ("peers_file", "donors_file"))
    assert sorted([donors, peers]) == [peers, donors], "the server reads them by name, and the last one counts"


def test_nobody_to_join_changes_nothing(machine: Machine) -> None:
    assert "no other member" in str(machine.run("join", "--members", "10.77.3.13", code=9)[1]["error"])
    assert not written(machine, "peers_file").exists()
