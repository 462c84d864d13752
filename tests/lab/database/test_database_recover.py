"""All three members lose power while orders are written; the command line makes one cluster of them again."""

import json
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
from database_cluster import DatabaseCluster
from database_shop import DatabaseShop
from inside import network_of
from orders import Orders
from real_lab import Lab, Machine
from shop import Run, Shop

from thems_jobs.clients.ansible import Ansible
from thems_jobs.clients.ssh import Ssh
from thems_jobs.lab.hypervisor import HOST_KEY_PATH
from waiting import eventually

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.timeout(900)]

GIVES_UP_S = 120  # a database that boots waits half a minute for others, and then reads its log


@dataclass
class Crashing:
    """A provisioned database tier, and how to take its power away."""

    shop: Shop
    cluster: DatabaseCluster

    def vms(self) -> dict[str, str]:
        """Return by name the API's path of each database machine."""
        return {vm.name: f"/nodes/{vm.node}/qemu/{vm.vmid}" for vm in self.shop.tier("db")}

    def crash(self) -> Orders:
        """Cut all members' power while orders are written; return the orders."""
        with network_of(self.shop.layout.netns), self.cluster.orders() as orders, ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda machine: self.shop.fault(do="kill", vm=machine.vmid), self.cluster.members))
            orders.done.set()
        eventually(lambda: set(map(self.power, self.vms().values())) == {"stopped"}, "one still runs", 20)
        return orders

    def power(self, path: str) -> str:
        """Return running or stopped."""
        return str(self.shop.client.call("GET", f"{path}/status/current")["status"])

    def switch_on(self, *names: str) -> None:
        """Give machines their power back."""
        for name in names:
            self.shop.client.finish(self.shop.client.call("POST", f"{self.vms()[name]}/status/start"))

    def recover(self, *arguments: str, exit_code: int) -> Run:
        """Run galera-recover to its end, which must be of this code."""
        platform = self.shop.layout.database_platform
        return self.shop.run("galera-recover", *arguments, platform=platform, exit_code=exit_code)

    def refusals(self, *arguments: str) -> dict[str, Any]:
        """Return what galera-recover finds, which must refuse: its JSON."""
        told: dict[str, Any] = json.loads(self.recover(*arguments, "--json", exit_code=4).output)
        return told

    def newest(self) -> str:
        """Wait until all can be read; return who is the first of the order."""
        found: dict[str, Any] = {}

        def all_read() -> bool:
            found.update(self.refusals())
            return {refusal["reference"] for refusal in found["refusals"]} == {"recovery-not-confirmed"}

        eventually(all_read, "the databases cannot be read", GIVES_UP_S)
        return str(found["plan"]["changes"][0]["machine"])

    def expect_all(self, orders: Orders) -> None:
        """Hold every member against what was acknowledged, and all of them against the conditions of a sound one."""
        with network_of(self.shop.layout.netns):
            for machine in self.cluster.members:
                orders.expect_all_at(machine)
        self.shop.run("galera-health", platform=self.shop.layout.database_platform)


@pytest.fixture(scope="module")
def tier(database_shop: DatabaseShop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crashing]:
    """Three members and two proxies, provisioned."""
    folder, shop = tmp_path_factory.mktemp("recover"), database_shop
    lab = Lab(shop.layout, shop.client)
    ssh = Ssh("thems", lab.layout.ssh_key, folder)
    keys = dict[str, str]()
    members = list[Machine]()
    for vm in shop.tier("db"):
        key = lab.client.call("GET", f"/nodes/{vm.node}/qemu/{vm.vmid}/agent/file-read", file=HOST_KEY_PATH)
        keys[vm.address] = " ".join(key["content"].split()[:2])
        members.append(Machine(lab, vm.vmid, vm.name, vm.address))
    ssh.know(keys)
    yield Crashing(shop, DatabaseCluster(lab, members, [], keys, ssh, Ansible(ssh, folder, 280), folder))
    ssh.close()


def test_a_full_crash_is_recovered_by_name_and_without_losing_an_order(tier: Crashing) -> None:
    names = [machine.name for machine in tier.cluster.members]
    orders = tier.crash()
    dark = tier.refusals("--bootstrap", names[0], "--yes")["refusals"]
    assert {(r["reference"], r["subject"]) for r in dark} >= {("recovery-unreadable", name) for name in names}, dark
    tier.switch_on(*names[:2])
    left = {r["subject"] for r in tier.refusals("--bootstrap", names[0], "--yes")["refusals"]}
    assert names[2] in left, "a machine that is switched off was not named"
    tier.switch_on(names[2])
    newest = tier.newest()
    wrong = next(name for name in names if name != newest)
    refused = tier.refusals("--bootstrap", wrong, "--yes")
    assert [r["reference"] for r in refused["refusals"]] == ["recovery-not-confirmed"], refused
    assert newest in refused["refusals"][0]["measured"]
    began = time.monotonic()
    run = tier.recover("--bootstrap", newest, "--yes", exit_code=0)
    took = time.monotonic() - began
    print(f"full-crash recovery of three members: {took:.1f} s; {len(orders.acknowledged)} orders\n{run.said}")
    done = [key for key in run.steps if key[0] in ("forbid-bootstrap", "bootstrap", "join", "await-sync")]
    others = [name for name in names if name != newest]
    assert sorted(done[:2]) == [("forbid-bootstrap", name) for name in others], done
    assert done[2] == ("bootstrap", newest)
    assert [action for action, _ in done[3:]] == ["join", "await-sync", "join", "await-sync"], done
    tier.expect_all(orders)


@pytest.mark.parametrize("until", ["forbid-bootstrap", "bootstrap", "await-sync"])
def test_a_killed_recovery_is_finished_by_the_same_command(tier: Crashing, until: str) -> None:
    orders = tier.crash()
    tier.switch_on(*(machine.name for machine in tier.cluster.members))
    newest = tier.newest()

    def kill(run: Run) -> None:
        if run.steps[-1][0] == until:
            run.send(signal.SIGKILL)

    wish = ("galera-recover", "--bootstrap", newest, "--yes")
    killed = tier.shop.start(*wish, platform=tier.shop.layout.database_platform, on_step=kill)
    assert killed.wait().code == -signal.SIGKILL, killed

    def finished() -> bool:
        run = tier.shop.start(*wish, platform=tier.shop.layout.database_platform).wait()
        assert run.code == 0, run
        return True

    eventually(finished, "running it again does not finish it", 90)
    tier.expect_all(orders)
