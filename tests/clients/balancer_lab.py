"""A real haproxy on loopback with the roles' own configuration, and web or database machines behind it."""

import http.server
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jinja2
import yaml

from waiting import eventually

ROLES = Path(__file__).parents[2] / "resources" / "ansible" / "roles"
PROGRAM = ROLES / "haproxy" / "files" / "thems-balancer"


class WebMachine:
    """An HTTP server that says its name; /slow?seconds=S takes S seconds. Counts what it was asked, without checks."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.asked = 0
        machine = self

        class Answer(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                url = urlsplit(self.path)
                if url.path != "/healthz":
                    machine.asked += 1
                if url.path == "/slow":
                    time.sleep(float(parse_qs(url.query)["seconds"][0]))
                body = machine.name.encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

        self._server = Server(("127.0.0.1", 0), Answer)
        self.address = f"127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class BalancerLab:
    """haproxy as master and worker, and `thems-balancer` with settings for it, by the role balancer or proxy."""

    def __init__(self, folder: Path, server_options: str | None = None, role: str = "balancer") -> None:
        self.folder = folder
        self.port, self.health_port = free_port(), free_port()
        variables = {
            **role_defaults("haproxy"), **role_defaults(role),
            f"{role}_port": self.port, f"{role}_health_port": self.health_port,
        }  # fmt: skip
        variables["haproxy_server_options"] = variables[f"{role}_check"] if server_options is None else server_options
        if role == "proxy":
            variables |= {"haproxy_mode": "tcp", "haproxy_frontend": "database", "haproxy_backend": "members"}
        self.config = folder / "haproxy.cfg"
        self.config.write_text(unprivileged(render(role, "haproxy.cfg.j2", variables)))
        self.servers = folder / "servers.cfg"
        self.master_socket = folder / "master"
        settings = json.loads(render("haproxy", "settings.json.j2", variables))
        settings |= {
            "config": str(self.config), "servers": str(self.servers),
            "master_socket": str(self.master_socket), "lock": str(folder / "lock"),
        }  # fmt: skip
        self.settings = folder / "settings.json"
        self.settings.write_text(json.dumps(settings))
        assert self.run("create").returncode == 0
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            ["haproxy", "-W", "-f", self.config, "-f", self.servers, "-S", self.master_socket],
            stdout=(self.folder / "haproxy.log").open("ab"), stderr=subprocess.STDOUT,
        )  # fmt: skip
        eventually(lambda: self.show()["haproxy"] == "running", "haproxy did not start", within_s=10)

    def stop(self) -> None:
        if self.process:
            self.process.terminate()
            self.process.wait(10)
            self.process = None

    def reload(self) -> None:
        assert self.process
        self.process.send_signal(signal.SIGUSR2)

    def start_program(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, PROGRAM, "--settings", self.settings, *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        process = self.start_program(*arguments)
        output, error = process.communicate(stdin, timeout=60)
        return subprocess.CompletedProcess(arguments, process.returncode, output, error)

    def show(self) -> dict[str, Any]:
        done = self.run("show")
        assert done.returncode == 0, done.stderr
        shown: dict[str, Any] = json.loads(done.stdout)
        return shown

    def apply(self, servers: Mapping[str, tuple[str, int]], expect: str | None = None) -> dict[str, Any]:
        done = self.run("apply", "--expect", expect or self.show()["generation"], stdin=as_list(servers))
        assert done.returncode == 0, done.stderr
        shown: dict[str, Any] = json.loads(done.stdout)
        return shown

    def put_up(self, servers: Mapping[str, tuple[str, int]]) -> dict[str, Any]:
        """Apply a list, and wait until the checks have found its servers well."""
        self.apply(servers)
        return eventually(self._all_up, "servers are not up", within_s=15)

    def _all_up(self) -> dict[str, Any] | None:
        shown = self.show()
        return shown if all(server["state"] == "up" for server in shown["servers"].values()) else None


def as_list(servers: Mapping[str, tuple[str, int]]) -> str:
    return json.dumps({"servers": {name: {"address": a, "weight": w} for name, (a, w) in servers.items()}})


def role_defaults(role: str) -> dict[str, Any]:
    defaults: dict[str, Any] = yaml.safe_load((ROLES / role / "defaults" / "main.yml").read_text())
    return defaults


def render(role: str, template: str, variables: Mapping[str, Any]) -> str:
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, keep_trailing_newline=True)  # noqa: S701 - no HTML
    environment.filters["to_json"] = json.dumps
    source = (ROLES / role / "templates" / template).read_text()
    return environment.from_string(source).render({**variables, "ansible_managed": "a test"})


def unprivileged(config: str) -> str:
    """Given the role's haproxy.cfg, return it without what needs root, on loopback alone."""
    config = re.sub(r"^    (log /dev/log|chroot|user|group|stats socket) .*\n", "", config, flags=re.MULTILINE)
    config = re.sub(r"^    log global\n", "", config, flags=re.MULTILINE)
    return config.replace("bind :", "bind 127.0.0.1:")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
