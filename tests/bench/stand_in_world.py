"""A platform without machines, to measure thems-jobs alone: run below `unshare --net` with an empty folder.

The API is the lab's, with pretended guests. At the edge of the network stand programs that answer as machines
would: a greeting on port 22, pages over HTTP, and a replacement of the `ssh` command that comes here. So our own
process, and the real ansible-playbook it starts, do all that they do on a real platform; what is configured is
nothing.
"""

import http.server
import json
import re
import shutil
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from thems_jobs import resources
from thems_jobs.jobs.connect import role_digest
from thems_jobs.lab.api import Image, Latencies, NodeSpec, Settings, create_api_server
from thems_jobs.lab.client import RootClient
from thems_jobs.lab.hypervisor import PretendHypervisor
from thems_jobs.lab.layout import API_PORT, ROUTER_ADDRESS, LabLayout
from thems_jobs.lab.operator_setup import POOL, prepare_cluster
from thems_jobs.lab.secrets import make_certificates, make_ssh_key
from thems_jobs.platform_file import read_platform

WEB_LIMIT = 60
ADDRESS = re.compile(r"^(?:\w+@)?(10\.77\.\d+\.\d+)$")
FOLDER = re.compile(r'echo (ansible-tmp-[\w.-]+)="')

# What `ssh` becomes: it hands its arguments and its input over and gives back what comes.
SSH = """#!{python} -ISE
import json, re, socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect({door!r})
if mark := re.search(r"BECOME-SUCCESS-[a-z0-9]+", " ".join(sys.argv)):  # Ansible sends a module only after it
    print(mark.group(), flush=True)
text = "" if "-n" in sys.argv or sys.stdin.isatty() else sys.stdin.buffer.read().decode("utf-8", "replace")
connection.sendall(json.dumps({{"argv": sys.argv[1:], "stdin": text}}).encode())
connection.shutdown(socket.SHUT_WR)
answer = json.load(connection.makefile())
sys.stdout.write(answer["stdout"])
sys.exit(answer["code"])
"""


class Machines:
    """What answers for the machines: which of them are on, and what the balancers were told."""

    def __init__(self, platform_file: Path, vip: str) -> None:
        self.guests = PretendHypervisor()
        platform = read_platform(platform_file)
        self._baked = {name: f"{tier.role} {role_digest(platform, name)}" for name, tier in platform.tiers.items()}
        self._vip = vip
        self._lists: dict[str, dict[str, Any]] = {}  # by balancer's address: what it was told
        self._lock = threading.Lock()

    def is_on(self, address: str) -> bool:
        guests = list(self.guests._guests.values())
        return any(address == cidr.partition("/")[0] for guest in guests for cidr in guest.spec.addresses)

    def page(self, address: str, port: int) -> int:  # noqa: ARG002
        """Given an address and a port of pages, return the status of what is asked for there."""
        return 200

    def answer(self, argv: list[str], stdin: str) -> tuple[int, str]:
        """Given the arguments of ssh, return exit code and output of the command on that machine."""
        found = [(at, match.group(1)) for at, word in enumerate(argv) if (match := ADDRESS.match(word))]
        if not found or "-O" in argv:
            return 0, ""
        at, address = found[0]
        if not self.is_on(address):
            return 255, ""
        command = " ".join(word for word in argv[at + 1 :] if word != "--")
        if "thems-balancer" in command:
            return self._balancer(address, command, stdin)
        if folder := FOLDER.search(command):
            return 0, f"{folder.group(1)}=/home/thems/.ansible/tmp/{folder.group(1)}\n"
        return 0, json.dumps(self._module(address, stdin)) + "\n"

    def _module(self, address: str, stdin: str) -> dict[str, Any]:  # noqa: ARG002
        """What any Ansible module answers: nothing to do; and to `cat /etc/thems-baked` what the role wants to hear."""
        tier = "balancer" if address.startswith("10.77.2.") else "web"
        text = self._baked[tier]
        return {"changed": False, "rc": 0, "stdout": text, "stdout_lines": [text], "stat": {"exists": False},
                "status": {"ActiveState": "active"}}  # fmt: skip

    def _balancer(self, address: str, command: str, stdin: str) -> tuple[int, str]:
        with self._lock:
            told = self._lists.setdefault(address, {"generation": 0, "servers": {}})
            if "apply" in command:
                if not command.endswith(f"--expect {told['generation']}"):
                    return 9, ""
                told["servers"] = json.loads(stdin)["servers"]
                told["generation"] += 1
            first = min(other for other in (f"10.77.2.{n}" for n in range(11, 15)) if self.is_on(other))
            servers = {name: {**entry, "state": "up", "connections": 0} for name, entry in told["servers"].items()}
            front = {"requests": 0, "5xx": 0, "cut": 0, "connections": 0}
            view = {
                "servers": servers, "list": told["servers"], "frontend": front, "generation": str(told["generation"]),
                "holds": [self._vip] if address == first else [], "haproxy": "running", "keepalived": "running",
            }  # fmt: skip
            return 0, json.dumps(view) + "\n"


def serve(server: socketserver.BaseServer) -> None:
    threading.Thread(target=server.serve_forever, daemon=True).start()


class Door(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    request_queue_size = 128
    daemon_threads = True


class Front(socketserver.ThreadingTCPServer):
    request_queue_size = 256
    daemon_threads = True


def stand_at_the_edge(machines: Machines, door: Path, pages: Sequence[int] = (80, 8404)) -> None:
    """Answer on every address of the platform, and behind the replacement of ssh."""

    class Greeting(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            if machines.is_on(self.request.getsockname()[0]):
                self.request.sendall(b"SSH-2.0-stand-in\r\n")

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(machines.page(*self.connection.getsockname()))
            self.send_header("Content-Length", "3")
            self.end_headers()
            self.wfile.write(b"ok\n")

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    class Command(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            order = json.loads(self.rfile.read())
            code, text = machines.answer(order["argv"], order["stdin"])
            self.wfile.write(json.dumps({"code": code, "stdout": text}).encode())

    every = "0.0.0.0"  # noqa: S104 - all addresses of the platform, in a network of its own
    serve(Front((every, 22), Greeting))
    for port in pages:
        serve(Front((every, port), Page))
    serve(Door(str(door), Command))


def make_template(client: RootClient, name: str, vmid: int) -> None:
    config: dict[str, str | int] = {
        "vmid": vmid, "name": name, "pool": POOL, "memory": 256, "cores": 1, "agent": 1, "net0": "virtio,bridge=vmbr0",
        "scsi0": "shared:0,import-from=local:import/debian-12.qcow2", "ide2": "shared:cloudinit",
    }  # fmt: skip
    client.finish(client.call("POST", "/nodes/pve1/qemu", **config))
    client.finish(client.call("POST", f"/nodes/pve1/qemu/{vmid}/template"))


def put_ssh(layout: LabLayout) -> None:
    """Place the replacement of ssh, which hands its orders over at the folder's door."""
    ssh = layout.directory / "bin" / "ssh"
    ssh.parent.mkdir()
    python = shutil.which("python3", path="/usr/bin") or sys.executable
    ssh.write_text(SSH.format(python=python, door=str(layout.directory / "door")))
    ssh.chmod(0o755)


def write_platform(layout: LabLayout) -> dict[str, Any]:
    """Write the lab's platform file with room for many web machines, and return what it says."""
    shipped: dict[str, Any] = yaml.safe_load(resources.path("platforms", "lab.yaml").read_text())
    shipped["database"]["max_connections"] = 20 + WEB_LIMIT * shipped["tiers"]["web"]["php_workers"]
    web = shipped["tiers"]["web"]
    web["maximum"], web["network"]["addresses"] = WEB_LIMIT, f"10.77.1.11-10.77.1.{11 + WEB_LIMIT}"
    layout.platform.write_text(yaml.safe_dump(shipped))
    return shipped


def main() -> None:
    layout = LabLayout(Path(sys.argv[1]))
    for command in ("link set lo up", f"address add {ROUTER_ADDRESS}/32 dev lo", "route add local 10.77.0.0/16 dev lo"):
        subprocess.run(["ip", *command.split()], check=True)
    layout.state.mkdir(mode=0o700)
    make_certificates(layout, ("pve1", "pve2"))
    make_ssh_key(layout)
    image = layout.state / "image"
    image.mkdir()
    shipped = write_platform(layout)
    machines = Machines(layout.platform, shipped["balancing"]["address"])
    endpoint = socket.create_server((ROUTER_ADDRESS, API_PORT))
    server = create_api_server(
        layout.state, machines.guests, [endpoint], layout.certificate, layout.certificate_key, Latencies(),
        Settings(
            nodes=(NodeSpec("pve1", memory_gib=64, cores=64), NodeSpec("pve2", memory_gib=64, cores=64)),
            images={"debian-12.qcow2": Image(image)},
        ),
    )  # fmt: skip
    server.start()
    client = RootClient(layout, f"https://{ROUTER_ADDRESS}:{API_PORT}")
    prepare_cluster(client, layout, "pve1")
    for tier in shipped["tiers"].values():
        make_template(client, tier["template"]["name"], tier["template"]["vmid"])
    put_ssh(layout)
    stand_at_the_edge(machines, layout.directory / "door")
    print("ready", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
