"""Database machines and their proxies on the tests' lab, made by hand and configured by their roles."""

import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pymysql
from orders import ADDRESS, Orders, connect, writing
from real_lab import Lab, Machine
from shop import Shop

from thems_jobs.clients.ansible import Ansible
from thems_jobs.clients.ssh import Ssh
from thems_jobs.jobs.connect import role_digest
from thems_jobs.jobs.perform import converge_variables, secret_files
from thems_jobs.lab.hypervisor import HOST_KEY_PATH
from thems_jobs.platform_file import read_platform
from waiting import eventually

NOBODY = "00000000-0000-0000-0000-000000000000"
JOIN_S = 60


@dataclass
class DatabaseCluster:
    """Database machines and proxies, made and configured; nothing runs as a cluster before `begin`."""

    lab: Lab
    members: list[Machine]
    proxies: list[Machine]
    keys: dict[str, str]
    ssh: Ssh
    ansible: Ansible
    logs: Path

    def __post_init__(self) -> None:
        self.platform = read_platform(self.lab.layout.database_platform, {})

    # Making it

    @classmethod
    def make(cls, lab: Lab, logs: Path, members: int, proxies: int) -> "DatabaseCluster":
        """Return a cluster of new machines that are up, not configured yet."""
        ssh = Ssh("thems", lab.layout.ssh_key, logs)
        cluster = cls(lab, [], [], {}, ssh, Ansible(ssh, logs, 280), logs)
        cluster.members = cluster.new("db", [f"shop-db-{number + 1}" for number in range(members)])
        cluster.proxies = cluster.new("proxy", [f"shop-proxy-{number + 1}" for number in range(proxies)])
        return cluster

    def new(self, tier: str, names: Sequence[str]) -> list[Machine]:
        """Return new machines of a tier's template, up."""
        wanted = self.platform.tiers[tier].template.name
        vms = Shop(self.lab.layout, self.lab.client, self.logs).vms()
        template = next(vm for vm in vms if vm.template and vm.name == wanted)
        machines = [self.lab.clone(template.vmid, name, node=template.node) for name in names]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(Machine.boot, machines))
        self.keys |= {machine.name: " ".join(machine.read(HOST_KEY_PATH).split()[:2]) for machine in machines}
        return machines

    def converge(self, tier: str, machines: Sequence[Machine]) -> None:
        """Configure machines of a tier."""
        variables = {
            **converge_variables(self.platform, tier), **secret_files(self.platform, tier),
            "thems_roles_digest": role_digest(self.platform, tier),
        }  # fmt: skip
        variables["thems_database"] |= {"addresses": [machine.address for machine in self.members]}
        if tier == "proxy":
            variables["thems_vrrp_machines"] = [machine.address for machine in self.proxies]
        hosts = {machine.name: (machine.address, self.keys[machine.name]) for machine in machines}
        errors = self.ansible.converge(hosts, variables)
        assert errors == {}, errors

    def converge_all(self) -> None:
        """Configure all machines."""
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(self.converge, ("db", "proxy"), (self.members, self.proxies)))

    def begin(self) -> None:
        """Make a cluster of the first machine, let the others join one at a time, and put all behind the proxies."""
        first, *others = self.members
        self.galera(first, "bootstrap", "--uuid", NOBODY, "--seqno", "-1", "--absent", self.addresses(self.members))
        for number, machine in enumerate(others, 1):
            self.join(machine, self.members[:number], donor=self.members[number - 1])
        self.serve(self.members)

    def remove(self) -> None:
        """Remove all machines."""
        self.ssh.close()
        for machine in (*self.members, *self.proxies):
            self.lab.remove(machine)

    # Its machines

    def does(self, machine: Machine, command: str, code: int = 0) -> str:
        """Run a shell command as root on a machine; it must end with this code."""
        answer = self.ssh.run(machine.address, ["sudo", "sh", "-c", command], timeout_s=120)
        assert answer.code == code, f"{machine.name}: {command}: {answer.code} {answer.error}{answer.output}"
        return answer.output

    def galera(self, machine: Machine, *arguments: str, code: int = 0) -> dict[str, Any]:
        """Run `thems-galera …` on a machine; return what it tells."""
        answer = self.ssh.run(machine.address, ["sudo", "/usr/local/sbin/thems-galera", *arguments], timeout_s=120)
        assert answer.code == code, f"{machine.name}: {arguments}: {answer.code} {answer.error}{answer.output}"
        told: dict[str, Any] = json.loads(answer.output)
        return told

    @staticmethod
    def addresses(machines: Sequence[Machine]) -> str:
        """Return the machines' addresses as thems-galera takes them."""
        return ",".join(machine.address for machine in machines)

    def join(self, machine: Machine, members: Sequence[Machine], donor: Machine) -> float:
        """Let a machine join these members; return after how many seconds it was synced."""
        began = time.monotonic()
        self.galera(machine, "join", "--donor", donor.name, "--members", self.addresses(members))
        eventually(lambda: self.synced(machine), f"{machine.name} does not join", JOIN_S)
        return time.monotonic() - began

    def synced(self, machine: Machine) -> bool:
        """Return whether a machine says that it may serve."""
        return self.check(machine) == "well"

    def check(self, machine: Machine) -> str:
        """Return what clustercheck says on a machine."""
        command = ["curl", "--silent", "--max-time", "3", "http://127.0.0.1:9200/"]
        return self.ssh.run(machine.address, command).output.strip()

    def size(self, machine: Machine) -> int:
        """Return how many members a machine sees."""
        return int(self.status(machine, "wsrep_cluster_size"))

    def status(self, machine: Machine, name: str) -> str:
        """Return one value of SHOW GLOBAL STATUS."""
        return self.does(machine, f"mariadb -BNe \"SHOW GLOBAL STATUS LIKE '{name}'\"").split()[1]

    def journal(self, machine: Machine) -> str:
        """Return what its database logged since it was last started."""
        return self.does(machine, "journalctl --unit mariadb --output cat _SYSTEMD_INVOCATION_ID="
                         "$(systemctl show --value --property InvocationID mariadb)")  # fmt: skip

    # Its proxies

    def view(self, proxy: Machine) -> dict[str, Any]:
        """Return what a proxy tells."""
        view: dict[str, Any] = json.loads(self.does(proxy, "thems-balancer show"))
        return view

    def views(self) -> list[dict[str, Any]]:
        """Return what all proxies tell."""
        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(self.view, self.proxies))

    def apply(
        self, order: Sequence[Machine], drained: Sequence[Machine] = (), at: Sequence[Machine] | None = None
    ) -> None:
        """Give every proxy, or these, this order of machines; the drained ones get no session."""
        servers = {
            machine.name: {"address": f"{machine.address}:3306", "weight": 0 if machine in drained else 100}
            for machine in order
        }
        text = json.dumps({"servers": servers, "order": [machine.name for machine in order]})

        def change(proxy: Machine) -> None:
            command = ["sudo", "thems-balancer", "apply", "--expect", self.view(proxy)["generation"]]
            answer = self.ssh.run(proxy.address, command, text, timeout_s=60)
            assert answer.code == 0, answer

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(change, self.proxies if at is None else at))

    def serve(self, order: Sequence[Machine]) -> None:
        """Give the proxies this order and wait until all are up and the first one is the writer, at both."""
        self.apply(order)
        self.expect_writer(order[0], [machine.name for machine in order])

    def expect_writer(self, writer: Machine, up: Sequence[str] = ()) -> None:
        """Wait until both proxies have this writer, and these machines up."""

        def agreed() -> bool:
            views = self.views()
            seen = [(view["writer"], *(view["servers"][name]["state"] for name in up)) for view in views]
            assert set(seen) == {(writer.name, *("up" for _ in up))}, seen
            return True

        eventually(agreed, f"{writer.name} is not the writer of both proxies", 20)

    def holders(self) -> list[str]:
        """Return the proxies that hold the address."""
        views = dict(zip([proxy.name for proxy in self.proxies], self.views(), strict=True))
        return [name for name, view in views.items() if ADDRESS in view["holds"]]

    # The shop

    def connect(self, address: str = ADDRESS, user: str = "shop") -> "pymysql.Connection[Any]":
        """Log in to the database as the shop, or as the jobs."""
        return connect(self.lab.layout, address, user)

    def orders(self, sessions: int = 4) -> AbstractContextManager[Orders]:
        """Have so many sessions write orders through the address until the block ends."""
        return writing(self.lab.layout, sessions)
