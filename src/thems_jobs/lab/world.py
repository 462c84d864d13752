"""The lab's own world: the first process of its private namespaces, with the API and the machines in it.

`lab up` starts it below unshare(1). Killing that process, by whatever signal, ends everything in here: processes,
mounts, network. Only empty control groups and the lab's folder are left, which `lab down` removes.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from thems_jobs.lab import network
from thems_jobs.lab.cgroups import LabGroups, find_trees, show_unified
from thems_jobs.lab.layout import API_PORT, ROUTER_ADDRESS, LabLayout

NODE_CORES = 16
IMAGE = "debian-12.qcow2"
IMAGE_MIB = 2048  # what its root filesystem pretends to need


@dataclass(frozen=True)
class WorldOrder:
    """What `lab up` tells the world on its standard input."""

    directory: str
    nodes: tuple[str, ...]
    node_memory_gib: int
    host_socket: int  # file descriptor of the listening socket on the host's loopback
    ready: int  # file descriptor: a line is written when everything listens


def main() -> None:
    """Read the order, set the namespaces up and run until killed."""
    line = sys.stdin.readline()
    if not line:
        sys.exit("`lab up` ended before it gave its order")
    fields = json.loads(line)
    order = WorldOrder(**{**fields, "nodes": tuple(fields["nodes"])})
    layout = LabLayout(Path(order.directory))
    trees = find_trees()
    # Peers among each other, private to the host: an unmounted disk disappears from every machine's view too.
    subprocess.run(["mount", "--make-rshared", "/"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "lab-run", "/run"], check=True)
    Path("/run/lab").mkdir()
    show_unified(trees)
    groups = LabGroups(layout.group)
    network.make_bridge()
    child = os.fork()
    if child == 0:
        _serve(order, layout, groups)
    else:
        _reap_until_end_of(child)


def _reap_until_end_of(child: int) -> None:
    """As pid 1: collect every process whose parent has died; end when the server ends."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    while True:
        ended, status = os.wait()
        if ended == child:
            sys.exit(os.waitstatus_to_exitcode(status))


def _serve(order: WorldOrder, layout: LabLayout, groups: LabGroups) -> None:
    # Imported here: pid 1 only reaps, and shall stay small.
    from thems_jobs.lab.api import Image, Latencies, NodeSpec, Settings, create_api_server
    from thems_jobs.lab.machines import NspawnHypervisor

    inner = socket.create_server((ROUTER_ADDRESS, API_PORT))
    outer = socket.socket(fileno=order.host_socket)
    server = create_api_server(
        layout.state,
        NspawnHypervisor(layout.log, groups),
        [inner, outer],
        layout.certificate,
        layout.certificate_key,
        Latencies(),
        settings=Settings(
            nodes=tuple(NodeSpec(name, order.node_memory_gib, NODE_CORES) for name in order.nodes),
            images={IMAGE: Image(layout.image, IMAGE_MIB)},
        ),
    )
    with os.fdopen(order.ready, "w") as ready:
        ready.write("ready\n")
    server.serve_forever()


if __name__ == "__main__":
    main()
