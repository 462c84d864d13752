"""An HTTPS server that speaks the API of Proxmox VE 9.1 well enough for the clients people use with it."""

import socket
from pathlib import Path

from thems_jobs.lab.api.cluster import Cluster
from thems_jobs.lab.api.control import Control, ControlSocket
from thems_jobs.lab.api.dispatch import RequestCounts, answer
from thems_jobs.lab.api.http import HttpsListener
from thems_jobs.lab.api.settings import Image, Latencies, NodeSpec, Settings, StorageSpec
from thems_jobs.lab.hypervisor import Hypervisor

__all__ = ["ApiServer", "Image", "Latencies", "NodeSpec", "Settings", "StorageSpec", "create_api_server"]


class ApiServer:
    """The server with its cluster and its control socket."""

    def __init__(self, cluster: Cluster, listener: HttpsListener, control: ControlSocket) -> None:
        self._cluster = cluster
        self._listener = listener
        self._control = control

    def start(self) -> None:
        """Serve in the background."""
        self._cluster.stats.start()
        self._control.start()
        self._listener.start()

    def serve_forever(self) -> None:
        """Serve until close() is called."""
        self.start()
        self._listener.wait()

    def close(self) -> None:
        """Accept no more requests. Guests run on."""
        self._listener.close()
        self._control.close()
        self._cluster.stats.close()


def create_api_server(
    state_dir: Path,
    hypervisor: Hypervisor,
    sockets: list[socket.socket],
    certificate: Path,
    key: Path,
    latencies: Latencies,
    settings: Settings | None = None,
    control: Path | None = None,
    root_password: Path | None = None,
) -> ApiServer:
    """Given bound sockets, return a server on them. Control socket and the file with the password of root@pam are
    beside state_dir unless stated; a password is made if there is none."""
    root_password = root_password or state_dir.parent / "root-password"
    cluster = Cluster(state_dir, hypervisor, latencies, settings or Settings(), root_password)
    counts = RequestCounts()
    listener = HttpsListener(sockets, certificate, key, lambda request: answer(cluster, counts, request))
    control_socket = ControlSocket(
        control or state_dir.parent / "control", Control(cluster, counts, listener.read_certificate)
    )
    return ApiServer(cluster, listener, control_socket)
