"""A platform with Percona's cluster behind ProxySQL and no machines: run below `unshare --net` with an empty folder.

Proxmox is the lab's API with pretended guests. What a machine that is on would answer is answered here: a greeting on
port 22, commands by a replacement of `ssh`, a health page, the database, and ProxySQL's admin interface, both by
MySQL's protocol over TLS. On standard input come orders, a line of JSON each; each is answered by the world as it is:
{} looks, {"kill": ADDRESS} takes the power of a machine away.
"""

import json
import socket
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))
from galera_stand_in import UUID, Galera
from mysql_wire import Answer, Served, open_wires
from proxysql_stand_in import ProxySqlServer
from stand_in_world import ADDRESS, Machines, make_template, put_ssh, stand_at_the_edge

from thems_jobs import resources
from thems_jobs.core.databases import NEW
from thems_jobs.lab.api import Image, Latencies, NodeSpec, Settings, create_api_server
from thems_jobs.lab.client import RootClient
from thems_jobs.lab.layout import API_PORT, ROUTER_ADDRESS, LabLayout
from thems_jobs.lab.operator_setup import prepare_cluster
from thems_jobs.lab.secrets import make_certificates, make_ssh_key
from thems_jobs.platform_file import read_platform

NODES = ("pve1", "pve2", "pve3")
VIP = "10.77.0.20"
DATABASES = tuple(f"10.77.3.{number}" for number in range(11, 20))
PROXIES = tuple(f"10.77.4.{number}" for number in range(11, 15))
COPY_S, SETTLE_S = 0.5, 0.05
MONITOR_S, STAY_S, VISITORS = 0.3, 0.8, 5
OURS = {"thems": "correct horse"}


class Cluster:
    """The databases that run. One that joins copies for a while and does not answer then."""

    def __init__(self) -> None:
        self.running: dict[str, Galera] = {}
        self.ready_at: dict[str, float] = {}
        self.stopped: set[str] = set()  # have data of the cluster
        self.behind: dict[str, Galera] = {}  # those that answer, by ip:port, as the proxies' monitors find them
        self.lock = threading.RLock()
        self._view = 7

    def program(self, address: str, words: list[str]) -> tuple[int, str]:
        """Do as `thems-galera` does on a machine."""
        with self.lock:
            if words[0] in ("join", "bootstrap") and address not in self.running:
                self.running[address] = Galera(flavour="percona", sessions=[(1, "system user", "Sleep", "", None)])
                self.ready_at[address] = time.monotonic() + (COPY_S if words[0] == "join" else 0)
                self._change_view()
            if words[0] == "leave":
                self.end(address)
            there = address in self.running
            known = there or address in self.stopped
            told = {"running": there, "uuid": UUID if known else NEW, "seqno": 90000 if known else -1,
                    "view": "member" if there else "none"}  # fmt: skip
            return 0, json.dumps(told)

    def end(self, address: str) -> None:
        with self.lock:
            if self.running.pop(address, None):
                self.stopped.add(address)
                self._change_view()

    def _change_view(self) -> None:
        self._view += 1
        for index, member in enumerate(self.running.values()):
            member.status |= {
                "wsrep_cluster_size": str(len(self.running)), "wsrep_local_index": str(index),
                "wsrep_cluster_conf_id": str(self._view),
            }  # fmt: skip

    def settle(self) -> None:
        with self.lock:
            now = time.monotonic()
            ready = {at: member for at, member in self.running.items() if self.ready_at[at] <= now}
            for address in [*self.behind]:
                if address.partition(":")[0] not in ready:
                    del self.behind[address]
            self.behind.update({f"{at}:3306": member for at, member in ready.items()})


class World(Machines):
    """What answers for the machines: those of the balancer and web tiers, too, as in benchmarks."""

    def __init__(self, platform_file: Path) -> None:
        platform = read_platform(platform_file)
        super().__init__(platform_file, platform.balancing.address)
        self.cluster = Cluster()
        self.admins = {address: self._admin() for address in PROXIES}
        self.configured: set[str] = set()  # Ansible was there
        self.holder = ""
        self.wires: dict[str, Served] = {}
        self._stamps = {f"{tier.network.addresses.rpartition('.')[0].rpartition('-')[2]}.": self._baked[name]
                        for name, tier in platform.tiers.items()}  # fmt: skip

    def _admin(self) -> ProxySqlServer:
        return ProxySqlServer(self.cluster.behind, interval_s=MONITOR_S, visitors=VISITORS, stay_s=STAY_S)

    def kill(self, address: str) -> None:
        for vmid, guest in list(self.guests._guests.items()):
            if any(address == cidr.partition("/")[0] for cidr in guest.spec.addresses):
                self.guests.kill(vmid)
        self.settle()

    def serves(self, address: str) -> bool:
        return address in self.configured and self.is_on(address)

    def ask(self, address: str, statement: str) -> Answer:
        """Given a statement for a database or an admin interface, return its answer."""
        answering = self.admins.get(address) or self.cluster.behind[f"{address}:3306"]
        return answering.answer(statement)

    def settle(self) -> None:
        """Let machines that are off lose what they had, and the address move."""
        for address in [address for address in self.configured if not self.is_on(address)]:
            self.configured.discard(address)
            self.cluster.end(address)
            self.cluster.stopped.discard(address)
            if address in self.admins:
                self.admins[address] = self._admin()
        self.cluster.settle()
        if not self.serves(self.holder):
            self.hand_over("")
        for address, served in self.wires.items():
            there = self.serves(address) if address in PROXIES else f"{address}:3306" in self.cluster.behind
            served.trouble.refuse = not there

    def settle_always(self) -> None:
        while True:
            self.settle()
            time.sleep(SETTLE_S)

    def hand_over(self, giver: str) -> None:
        able = [address for address in PROXIES if self.serves(address) and address != giver]
        self.holder = able[0] if able else giver if self.serves(giver) else ""

    def page(self, address: str, port: int) -> int:
        """A database machine's page says how it is; ProxySQL has none."""
        if address in DATABASES:
            return 200 if port == 9200 and f"{address}:3306" in self.cluster.behind else 503
        return 404 if address in PROXIES else 200

    def answer(self, argv: list[str], stdin: str) -> tuple[int, str]:
        """Given the arguments and the input of ssh, return exit code and output of the command on that machine."""
        address = next((match.group(1) for word in argv if (match := ADDRESS.match(word))), "")
        command = argv[-1]
        if address not in (*DATABASES, *PROXIES) or not self.is_on(address) or "-O" in argv:
            return super().answer(argv, stdin)
        if "thems-balancer" in command:
            return 127, ""  # ProxySQL's role does not have it
        if "thems-galera" in command:
            return self.cluster.program(address, command.partition("thems-galera ")[2].split())
        if command.startswith("ip -json"):
            held = ["10.1.1.1", address, *([VIP] if address == self.holder else [])]
            return 0, json.dumps([{"addr_info": [{"local": each} for each in held]}])
        if command == "sudo systemctl restart keepalived":
            if address == self.holder:
                self.hand_over(address)
            return 0, ""
        return super().answer(argv, stdin)

    def _module(self, address: str, stdin: str) -> dict[str, Any]:
        """What any of Ansible's modules answers: nothing to do; and what the roles read before they go on."""
        self.configured.add(address)
        text = ""
        if "thems-baked" in stdin:
            text = next(stamp for network, stamp in self._stamps.items() if address.startswith(network))
        elif "ip -o -4" in stdin:
            text = f"2: eth0 inet {address}/16"
        return super()._module(address, stdin) | {"stdout": text, "stdout_lines": [text]}

    def told(self) -> dict[str, Any]:
        """Return what there is, for the test to look at."""
        admins = {address: admin for address, admin in self.admins.items() if self.serves(address)}
        return {
            "members": sorted(self.cluster.running),
            "holder": self.holder,
            "tables": {address: {layer: sorted({name for _, name, _ in admin.servers(layer)})
                                 for layer in ("", "runtime_", "disk.")} for address, admin in admins.items()},
            "writers": {address: [name for group, name, status in admin.servers() if (group, status) == (10, "ONLINE")]
                        for address, admin in admins.items()},
            "cut": [cut for admin in self.admins.values() for cut in admin.cut],
            "switches": {address: member.variables["pxc_maint_mode"] for address, member in
                         self.cluster.running.items()},
        }  # fmt: skip


def write_files(layout: LabLayout) -> dict[str, Any]:
    """Write the platform file and its secrets, and return the former."""
    platform: dict[str, Any] = yaml.safe_load(resources.path("platforms", "lab-database.yaml").read_text())
    platform["proxmox"]["nodes"] = list(NODES)
    for tier in ("web", "balancer"):
        platform["tiers"][tier] |= {"minimum": 1, "baseline": 1}
    del platform["database"]["cluster"]["backup"]
    platform["database"]["cluster"] |= {
        "sample_s": 0.3, "flavour": "percona", "proxy": "proxysql", "proxysql_password_file": "database-password",
    }  # fmt: skip
    layout.platform.write_text(yaml.safe_dump(platform))
    for name in ("database-password", "shop-database-password", "database-ca.key"):
        (layout.directory / name).write_text("correct horse\n")
        (layout.directory / name).chmod(0o600)
    return platform


def main() -> None:
    layout = LabLayout(Path(sys.argv[1]))
    for command in ("link set lo up", f"address add {ROUTER_ADDRESS}/32 dev lo", "route add local 10.77.0.0/16 dev lo"):
        subprocess.run(["ip", *command.split()], check=True)
    layout.state.mkdir(mode=0o700)
    make_certificates(layout, NODES)
    make_ssh_key(layout)
    image = layout.state / "image"
    image.mkdir()
    with open_wires(layout.directory) as wires:
        platform = write_files(layout)
        world = World(layout.platform)
        server = create_api_server(
            layout.state, world.guests, [socket.create_server((ROUTER_ADDRESS, API_PORT))], layout.certificate,
            layout.certificate_key, Latencies(),
            Settings(nodes=tuple(NodeSpec(node, memory_gib=64, cores=64) for node in NODES),
                     images={"debian-12.qcow2": Image(image)}),
        )  # fmt: skip
        server.start()
        client = RootClient(layout, f"https://{ROUTER_ADDRESS}:{API_PORT}")
        prepare_cluster(client, layout, "pve1")
        for tier in platform["tiers"].values():
            template = tier["template"]
            make_template(client, template["name"], template["vmid"])
        put_ssh(layout)
        stand_at_the_edge(world, layout.directory / "door", (80, 8404, 9200))
        threading.Thread(target=world.settle_always, daemon=True).start()
        for address in (*DATABASES, *PROXIES):
            port = 6032 if address in PROXIES else 3306
            world.wires[address] = wires.serve(partial(world.ask, address), OURS, at=f"{address}:{port}")
        print("ready", flush=True)
        for line in sys.stdin:
            if killed := json.loads(line).get("kill"):
                world.kill(killed)
            print(json.dumps(world.told()), flush=True)


if __name__ == "__main__":
    main()
