"""A platform with a database cluster and no machines: run below `unshare --net` with an empty folder and a proxy.

The API is the lab's, with pretended guests. Three database machines answer over MySQL's protocol; a replacement of the
`ssh` command, found first on PATH, answers as `thems-balancer` on two proxies does. If the proxy is proxysql, their
admin interfaces answer, and ssh tells only the machines' addresses. On standard input come changes,
a line of JSON each ({"member": 2, "status": {...}}, {"proxy": 1, "writer": ...}); each is confirmed by a line.
"""

import json
import shutil
import socket
import socketserver
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import yaml
from galera_stand_in import Galera
from mysql_wire import open_wires
from proxysql_stand_in import ProxySqlServer

from thems_jobs import resources
from thems_jobs.core.facts import Phase, Stamp
from thems_jobs.core.identity import tags_of, write_stamp
from thems_jobs.lab.api import Latencies, NodeSpec, Settings, create_api_server
from thems_jobs.lab.client import RootClient
from thems_jobs.lab.hypervisor import PretendHypervisor
from thems_jobs.lab.layout import API_PORT, ROUTER_ADDRESS, LabLayout
from thems_jobs.lab.operator_setup import POOL, prepare_cluster
from thems_jobs.lab.secrets import make_certificates, make_ssh_key

NODES = ("pve1", "pve2", "pve3")
HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ5M6k0r3C8O1FmM7J7c7l7yJYk3m0a0b0c0d0e0f0g0"
VIP = "10.77.0.20"

SSH = """#!{python} -ISE
import json, pathlib, sys
words = " ".join(sys.argv)
for path in pathlib.Path({answers!r}).iterdir():
    if "@" + path.name in words and "-O" not in sys.argv:
        answer = json.loads(path.read_text())
        sys.stdout.write(answer["stdout"])
        sys.exit(answer["code"])
sys.exit(255)
"""


class World:
    """What answers for the machines."""

    def __init__(self, layout: LabLayout, proxy: str) -> None:
        self.proxy = proxy
        self.members = {f"shop-db-{n}": Galera(index=n - 1) for n in (1, 2, 3)}
        self.proxies = {name: self._picture(name) for name in ("shop-proxy-1", "shop-proxy-2")}
        self.answers = layout.directory / "answers"
        self.answers.mkdir()
        behind = {f"10.77.3.{10 + n}:3306": member for n, member in enumerate(self.members.values(), 1)}
        self.admins = [ProxySqlServer(behind), ProxySqlServer(behind)]
        for admin in self.admins:
            admin.fill(dict(zip(behind, self.members, strict=True)))
        for name in self.proxies:
            self.tell(name)

    def _picture(self, name: str) -> dict[str, Any]:
        listed = {f"shop-db-{n}": {"address": f"10.77.3.{10 + n}:3306", "weight": 100} for n in (1, 2, 3)}
        servers = {key: {**entry, "state": "up", "connections": 2} for key, entry in listed.items()}
        return {
            "servers": servers, "list": listed, "frontend": {"requests": 0, "5xx": 0, "cut": 0, "connections": 2},
            "generation": "1", "holds": [VIP] if name == "shop-proxy-1" else [], "haproxy": "running",
            "keepalived": "running", "order": list(listed), "writer": "shop-db-1", "pending": [],
        }  # fmt: skip

    def tell(self, name: str, code: int = 0) -> None:
        """Let a proxy answer what its picture says now."""
        picture = self.proxies[name]
        if self.proxy == "proxysql":
            picture = [
                {"ifname": "eth0", "addr_info": [{"local": address} for address in ["10.1.1.1", *picture["holds"]]]}
            ]
        text = json.dumps({"code": code, "stdout": json.dumps(picture)})
        (self.answers / f"10.77.4.{10 + int(name[-1])}").write_text(text)

    def change(self, order: dict[str, Any]) -> None:
        """Do one change."""
        if name := order.pop("member", None):
            for field, value in order.items():
                seen = getattr(self.members[name], field)
                setattr(self.members[name], field, {**seen, **value} if isinstance(seen, dict) else value)
        elif name := order.pop("proxy", None):
            code = int(order.pop("code", 0))
            self.proxies[name] |= order
            self.tell(name, code)


def make_machine(client: RootClient, name: str, tier: str, vmid: int, node: str) -> None:
    stamp = Stamp("shop", name, vmid, tier, Phase.SERVING, converged="as it should be", host_key=HOST_KEY)
    config: dict[str, str | int] = {
        "vmid": vmid, "name": name, "pool": POOL, "memory": 256, "cores": 1, "tags": ";".join(tags_of(stamp)),
        "description": write_stamp(stamp), "scsi0": "shared:4", "net0": "virtio,bridge=vmbr0", "agent": 1,
    }  # fmt: skip
    client.finish(client.call("POST", f"/nodes/{node}/qemu", **config))
    client.finish(client.call("POST", f"/nodes/{node}/qemu/{vmid}/status/start"))


def greet(address: str) -> None:
    """Answer on port 22 of an address as an SSH server begins."""

    class Greeting(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(b"SSH-2.0-stand-in\r\n")

    server = socketserver.ThreadingTCPServer((address, 22), Greeting)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()


def write_files(layout: LabLayout, proxy: str) -> None:
    """Write the platform file, its secrets, and the replacement of ssh."""
    platform = yaml.safe_load(resources.path("platforms", "lab-database.yaml").read_text())
    platform["proxmox"]["nodes"] = list(NODES)
    platform["database"]["cluster"] |= {"sample_s": 0.3, "proxy": proxy, "proxysql_password_file": "database-password"}
    layout.platform.write_text(yaml.safe_dump(platform))
    for name in ("database-password", "shop-database-password", "database-ca.key"):
        (layout.directory / name).write_text("correct horse\n")
        (layout.directory / name).chmod(0o600)
    ssh = layout.directory / "bin" / "ssh"
    ssh.parent.mkdir()
    python = shutil.which("python3", path="/usr/bin") or sys.executable
    ssh.write_text(SSH.format(python=python, answers=str(layout.directory / "answers")))
    ssh.chmod(0o755)


def main() -> None:
    layout, proxy = LabLayout(Path(sys.argv[1])), sys.argv[2]
    for command in ("link set lo up", f"address add {ROUTER_ADDRESS}/32 dev lo", "route add local 10.77.0.0/16 dev lo"):
        subprocess.run(["ip", *command.split()], check=True)
    layout.state.mkdir(mode=0o700)
    make_certificates(layout, NODES)
    make_ssh_key(layout)
    write_files(layout, proxy)
    world = World(layout, proxy)
    server = create_api_server(
        layout.state, PretendHypervisor(), [socket.create_server((ROUTER_ADDRESS, API_PORT))], layout.certificate,
        layout.certificate_key, Latencies(),
        Settings(nodes=tuple(NodeSpec(node, memory_gib=64, cores=64) for node in NODES), images={}),
    )  # fmt: skip
    server.start()
    client = RootClient(layout, f"https://{ROUTER_ADDRESS}:{API_PORT}")
    prepare_cluster(client, layout, "pve1")
    for number in (1, 2, 3):
        make_machine(client, f"shop-db-{number}", "db", 1199 + number, f"pve{number}")
        greet(f"10.77.3.{10 + number}")
    for number in (1, 2):
        make_machine(client, f"shop-proxy-{number}", "proxy", 1299 + number, f"pve{number}")
        greet(f"10.77.4.{10 + number}")
    with open_wires(layout.directory) as wires:
        for number, member in enumerate(world.members.values(), 11):
            wires.serve(member.answer, {"thems": "correct horse"}, at=f"10.77.3.{number}:3306")
        for number, admin in enumerate(world.admins if proxy == "proxysql" else [], 11):
            wires.serve(admin.answer, {"thems": "correct horse"}, at=f"10.77.4.{number}:6032")
        print("ready", flush=True)
        for line in sys.stdin:
            world.change(json.loads(line))
            print("done", flush=True)


if __name__ == "__main__":
    main()
