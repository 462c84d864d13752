"""Bringing a lab up and taking it down again, from any state an earlier attempt was cut off in."""

import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from thems_jobs.lab import cgroups, disks
from thems_jobs.lab.client import RootClient
from thems_jobs.lab.errors import LabError
from thems_jobs.lab.layout import API_PORT, LabLayout
from thems_jobs.lab.limits import raise_limits, restore_limits
from thems_jobs.lab.operator_setup import prepare_cluster
from thems_jobs.lab.process import ProcessRecord, read_process, record_process
from thems_jobs.lab.secrets import make_certificates, make_database_secrets, make_ssh_key
from thems_jobs.lab.template import template_root

NODES = ("pve1", "pve2")
TOOLS = {
    "mmdebstrap": "mmdebstrap", "systemd-nspawn": "systemd-container", "ip": "iproute2", "openssl": "openssl",
    "ssh-keygen": "openssh-client", "nsenter": "util-linux", "unshare": "util-linux", "mount": "mount",
}  # fmt: skip
SOCKET_PATH_LIMIT = 107  # bytes of a unix socket's address

Report = Callable[[str], None]


@dataclass(frozen=True)
class Wishes:
    """How the lab shall be."""

    cache: Path
    node_memory_gib: int
    platform: Path | None  # platform file to copy into the lab's folder
    database_platform: Path | None = None  # the one with a database cluster of its own


def bring_up(layout: LabLayout, wishes: Wishes, report: Report) -> bool:
    """Bring the lab up. Return False when it was up already. Raise LabError, with everything removed, if it fails."""
    _check_host(layout, wishes.cache)
    layout.directory.mkdir(parents=True, exist_ok=True)
    strangers = sorted({path.name for path in layout.directory.iterdir()} - {"cache"})
    if strangers and not layout.lock.exists():
        raise LabError(f"--dir {layout.directory}: this folder holds other things ({strangers[0]}); name an empty one")
    with _locked(layout):
        if endpoint_of(layout) is not None:
            return False
        if any(path.exists() or path.is_symlink() for path in layout.made_by_up):
            report("remains of a lab that was killed: removing them")
            _remove(layout)
        try:
            raise_limits(layout, report)
            root = template_root(wishes.cache, report)
            _build(layout, wishes, root, report)
        except BaseException:
            _remove(layout)
            raise
    return True


def take_down(layout: LabLayout, *, purge: bool) -> bool:
    """Take the lab down; purge removes the cache in its folder too. Return False when there was nothing of a lab."""
    if not layout.lock.exists():
        return False
    with _locked(layout):
        existed = any(path.exists() or path.is_symlink() for path in layout.made_by_up)
        existed |= purge and layout.cache.is_dir()
        _remove(layout)
        if purge and layout.cache.is_dir():
            shutil.rmtree(layout.cache)
        layout.lock.unlink(missing_ok=True)
        if not any(layout.directory.iterdir()):
            layout.directory.rmdir()
    return existed


def endpoint_of(layout: LabLayout) -> str | None:
    """Return the API's address on the host when the lab is up, else None."""
    process = read_process(layout.process)
    if process is None or not process.is_alive() or not layout.endpoint.exists():
        return None
    return layout.endpoint.read_text().strip()


def _check_host(layout: LabLayout, cache: Path) -> None:
    limit = SOCKET_PATH_LIMIT - len("/control")
    for option, path in (("--dir", layout.directory), ("--cache", cache)):
        if any(character in str(path) for character in ":,\\\n \t") or len(str(path)) > limit:
            raise LabError(
                f"{option} {path}: expected a path of at most {limit} characters without blanks, colons, commas and "
                "backslashes (it becomes part of mount options and of a socket's address)"
            )
    if layout.directory.is_relative_to("/run"):
        raise LabError(f"--dir {layout.directory}: /run does not keep files; choose another folder")
    missing = sorted({package for tool, package in TOOLS.items() if shutil.which(tool) is None})
    if missing:
        raise LabError(
            f"missing on this machine: {', '.join(missing)}; install with "
            f"`apt-get install {' '.join(missing)}` (or `make demo`, which does it without starting any service)"
        )
    cgroups.find_trees()


@contextmanager
def _locked(layout: LabLayout) -> Iterator[None]:
    """Let one `lab up` or `lab down` at a time work on the folder."""
    with layout.lock.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LabError(
                f"another `lab up` or `lab down` is at work in {layout.directory}; try again later"
            ) from None
        yield


def _build(layout: LabLayout, wishes: Wishes, root: Path, report: Report) -> None:
    report("keys and certificates")
    layout.log.mkdir(mode=0o700)
    layout.state.mkdir(mode=0o700)
    make_certificates(layout, NODES)
    make_ssh_key(layout)
    make_database_secrets(layout)
    disks.make_base_image(layout.image, root)
    report("network, API")
    endpoint = _start_world(layout, wishes)
    report("pool, role, token, record VM")
    prepare_cluster(RootClient(layout, endpoint), layout, NODES[0])
    if wishes.platform is not None:
        shutil.copyfile(wishes.platform, layout.platform)
    if wishes.database_platform is not None:
        shutil.copyfile(wishes.database_platform, layout.database_platform)
    layout.endpoint.write_text(endpoint + "\n")  # written last: only now the lab is up


def _start_world(layout: LabLayout, wishes: Wishes) -> str:
    """Start the lab's first process; return the API's address on the host once it listens. Raise LabError if not."""
    host_socket = _loopback_socket()
    endpoint = f"https://127.0.0.1:{host_socket.getsockname()[1]}"
    ready, ready_writer = os.pipe()
    # unshare dies of nothing but SIGKILL, and its child, pid 1 of the lab, with it.
    command = [
        "unshare", "--mount", "--pid", "--uts", "--ipc", "--net", "--fork", "--kill-child", "--mount-proc",
        "--propagation", "private", sys.executable, "-m", "thems_jobs.lab.world",
    ]  # fmt: skip
    order = {
        "directory": str(layout.directory), "nodes": NODES, "node_memory_gib": wishes.node_memory_gib,
        "host_socket": host_socket.fileno(), "ready": ready_writer,
    }  # fmt: skip
    with layout.world_log.open("ab") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=log, stderr=log, cwd="/", start_new_session=True,
            pass_fds=[host_socket.fileno(), ready_writer],
        )  # fmt: skip
    os.close(ready_writer)
    host_socket.close()
    record_process(process.pid, layout.process)
    layout.netns.symlink_to(f"/proc/{process.pid}/ns/net")
    assert process.stdin is not None  # noqa: S101 (for the type checker: PIPE was asked for)
    # The world waits for its order, so it never runs without having been written down.
    with process.stdin:
        process.stdin.write(json.dumps(order).encode() + b"\n")
    with os.fdopen(ready) as listening:
        if listening.readline() != "ready\n":
            tail = layout.world_log.read_text(errors="replace").strip().splitlines()[-8:]
            raise LabError("the lab's API did not start; its last lines were:\n  " + "\n  ".join(tail))
    return endpoint


def _loopback_socket() -> socket.socket:
    """Return a listening socket on the host's loopback: port 8006 if it is free, else any free one."""
    try:
        return socket.create_server(("127.0.0.1", API_PORT))
    except OSError:
        return socket.create_server(("127.0.0.1", 0))


def _remove(layout: LabLayout) -> None:
    """Kill what runs, and remove what `lab up` made: the lab's groups, files in its folder, a raised limit."""
    process: ProcessRecord | None = read_process(layout.process)
    if process is not None:
        process.kill()
    cgroups.kill_lab_groups(layout.group)
    cgroups.remove_lab_groups(layout.group)
    for path in layout.made_by_up:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    restore_limits(layout)
