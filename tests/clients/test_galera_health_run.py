"""galera-health as it is run: the command, a Proxmox API, three database machines and two proxies that answer it."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

import pytest
from worlds import World, running

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace needs root"),
    pytest.mark.timeout(180),
]


class Running(World):
    """The world, and the command in it."""

    def change(self, **order: Any) -> None:
        assert self.tell(**order) == "done\n"

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        return super().start("galera-health", *arguments)

    def health(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        process = self.start(*arguments)
        output, error = process.communicate()
        return subprocess.CompletedProcess(arguments, process.returncode, output, error)

    def closed(self, *arguments: str) -> list[str]:
        """Return the references of the conditions that do not hold; the exit code agrees."""
        done = self.health("--json", *arguments)
        assert done.returncode in (0, 4), done.stdout[-2000:] + done.stderr[-2000:]
        refusals = json.loads(done.stdout)["refusals"]
        assert done.returncode == (4 if refusals else 0)
        return sorted({refusal["reference"] for refusal in refusals})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(Running, "galera_world.py", tmp_path_factory.mktemp("world"), "haproxy") as world:
        yield world


def gates(folder: Path) -> dict[str, Xml.Element]:
    suite = Xml.parse(folder / "gates.xml").getroot()  # noqa: S314 - our own
    return {str(case.get("name")): case for case in suite}


def test_a_cluster_that_is_well_ends_0_with_every_condition(world: Running, tmp_path: Path) -> None:
    done = world.health("--report-dir", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    last = " ".join(done.stdout.split()).rpartition("The database cluster")[2]
    assert last.startswith(" is well: 3 members, every condition holds. But its gcache keeps only"), last
    assert any(line.startswith("synced") and line.count("✓ Synced (4)") == 3 for line in done.stdout.splitlines())
    cases = gates(tmp_path)
    assert cases["galera-views-differ"].find("failure") is None
    assert cases["galera-views-differ"].find("skipped") is None
    assert "correct horse" not in done.stdout + done.stderr + (tmp_path / "report.json").read_text()


def test_what_is_wrong_ends_4_and_is_all_told(world: Running, tmp_path: Path) -> None:
    world.change(member="shop-db-2", variables={"wsrep_desync": "ON"})
    world.change(proxy="shop-proxy-2", writer="shop-db-3", holds=["10.77.0.20"])
    try:
        assert world.closed() == ["galera-maintenance", "proxies-disagree", "vrrp-holder"]
        done = world.health("--report-dir", str(tmp_path))
        assert "✗ wsrep_desync ON" in done.stdout
        assert sum(case.find("failure") is not None for case in gates(tmp_path).values()) == 3
    finally:
        world.change(member="shop-db-2", variables={"wsrep_desync": "OFF"})
        world.change(proxy="shop-proxy-2", writer="shop-db-1", holds=[])
    assert world.closed() == []


def test_a_split_that_looks_well_from_each_side_is_refused(world: Running) -> None:
    world.change(member="shop-db-3", status={"wsrep_cluster_conf_id": "9", "wsrep_cluster_size": "1"})
    try:
        assert world.closed() == ["galera-size", "galera-views-differ"]
    finally:
        world.change(member="shop-db-3", status={"wsrep_cluster_conf_id": "7", "wsrep_cluster_size": "3"})


def test_a_proxy_that_cannot_be_asked_closes_the_gate(world: Running) -> None:
    world.change(proxy="shop-proxy-2", code=1)
    try:
        assert world.closed() == ["proxy-unreachable"]
    finally:
        world.change(proxy="shop-proxy-2", code=0)


def test_what_is_asked_for_is_answered_with_its_forecast(world: Running) -> None:
    done = world.health("--for", "restart", "shop-db-3", "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["plan"]["rejoin"]["by"]) == (0, "IST")
    assert world.closed("--for", "restart", "shop-db-1") == ["galera-writer"]
    assert world.closed("--for", "remove", "shop-db-3") == ["galera-majority"]
    assert world.closed("--for", "add", "shop-db-4", "--target", "5") == []
    assert world.closed("--for", "upgrade", "shop-db-3", "--outage", "36000") == ["galera-outage-needs-sst"]
    assert world.closed("--for", "upgrade", "shop-db-3", "--outage", "36000", "--accept-sst") == []
    assert world.health("--for", "remove", "shop-web-1").returncode == 2


def test_parameters_can_come_in_a_file(world: Running, tmp_path: Path) -> None:
    path = tmp_path / "parameters.json"
    path.write_text(json.dumps({"for": ["restart", "shop-db-3"], "outage": 36000}))
    assert world.closed("--parameters", str(path)) == ["galera-outage-needs-sst"]


def test_a_watch_tells_of_each_look_until_it_is_ended_with_the_last_verdict(world: Running) -> None:
    watch = world.start("--watch", "--json")
    assert watch.stdout is not None
    try:
        assert json.loads(watch.stdout.readline())["safe"] is True
        world.change(member="shop-db-2", status={"wsrep_ready": "OFF"})
        seen = next(told for line in watch.stdout if not (told := json.loads(line))["safe"])
        assert [refusal["reference"] for refusal in seen["refusals"]] == ["galera-not-ready"]
        watch.send_signal(signal.SIGINT)
        assert watch.wait(30) == 4
    finally:
        world.change(member="shop-db-2", status={"wsrep_ready": "ON"})
        watch.kill()
        watch.communicate()


def test_behind_proxysql_the_admin_interfaces_and_the_machines_addresses_are_asked(tmp_path: Path) -> None:
    with running(Running, "galera_world.py", tmp_path, "proxysql") as world:
        assert world.closed() == []
        assert world.closed("--for", "restart", "shop-db-1") == ["galera-writer"]
        world.change(proxy="shop-proxy-2", holds=["10.77.0.20"])
        world.change(member="shop-db-3", variables={"wsrep_desync": "ON"})
        assert world.closed() == ["galera-maintenance", "proxies-disagree", "vrrp-holder"]
        world.change(member="shop-db-3", variables={"wsrep_desync": "OFF"})
        world.change(proxy="shop-proxy-2", code=1, holds=[])
        assert world.closed() == ["proxy-unreachable"], "who holds the address is not known"
