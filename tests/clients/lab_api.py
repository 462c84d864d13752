"""An API server of the lab in this process, with pretended guests, and real clients for it."""

import json
import socket
import subprocess
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from proxmoxer import ProxmoxAPI

from thems_jobs.lab.api import Image, Latencies, Settings, create_api_server
from thems_jobs.lab.faults import ask
from thems_jobs.lab.hypervisor import PretendHypervisor
from waiting import eventually

TOKEN_USER = "thems@pve"
TEMPLATE = 9000
PRIVILEGES = (
    "VM.Allocate VM.Audit VM.Clone VM.Config.CPU VM.Config.Cloudinit VM.Config.Disk VM.Config.Memory VM.Config.Network "
    "VM.Config.Options VM.GuestAgent.Audit VM.GuestAgent.FileRead VM.GuestAgent.FileWrite VM.GuestAgent.Unrestricted "
    "VM.PowerMgmt VM.Migrate Pool.Audit"
)
KEYS = "ssh-ed25519 AAAAC3Nza key of an operator\nssh-ed25519 AAAAC3Nzb another"


@dataclass
class Lab:
    """A running API and everything a client needs for it."""

    directory: Path
    port: int
    hypervisor: PretendHypervisor
    root: Any  # proxmoxer as root@pam with a ticket
    user: Any  # proxmoxer with a token that may do what our jobs need, in pool shop
    token: str

    @property
    def ca(self) -> str:
        return str(self.directory / "ca.pem")

    def fault(self, do: str, **keys: Any) -> dict[str, Any]:
        return ask(self.directory / "control", {"do": do, **keys})

    def raw(self, method: str, path: str, *, token: str | None = None, **options: Any) -> requests.Response:
        """One request as the token (or as `user!id=secret`, or as nobody with an empty text)."""
        header = f"PVEAPIToken={TOKEN_USER}!jobs={self.token}" if token is None else token
        headers = {"Authorization": header, **options.pop("headers", {})}
        url = f"https://127.0.0.1:{self.port}/api2/json{path}"
        return requests.request(method, url, headers=headers, verify=self.ca, timeout=30, **options)

    def ended(self, upid: str, api: Any = None) -> str:
        """Wait for a task and return its exit status."""
        status = (api or self.root).nodes(upid.split(":")[1]).tasks(upid).status

        def exit_status() -> str | None:
            now = status.get()
            return str(now["exitstatus"]) if now["status"] == "stopped" else None

        return str(eventually(exit_status, f"{upid} does not end", 20))

    def template(self, vmid: int = TEMPLATE, storage: str = "shared") -> int:
        """Make a template with a cloud-init drive, as root; it may be there already."""
        qemu = self.root.nodes("pve1").qemu
        if vmid in [vm["vmid"] for vm in qemu.get()]:
            return vmid
        upid = qemu.post(
            vmid=vmid, name="debian-12", memory=2048, cores=2, agent=1, scsihw="virtio-scsi-single", tags="B,a A;b c",
            scsi0=f"{storage}:0,import-from=local:import/debian-12.qcow2", ide2=f"{storage}:cloudinit",
            net0="virtio,bridge=vmbr0", ciuser="thems", description="the template", boot="order=scsi0",
        )  # fmt: skip
        assert self.ended(upid) == "OK"
        assert self.ended(qemu(vmid).template.post()) == "OK"
        return vmid

    def clone(self, newid: int, name: str, source: int = TEMPLATE, **options: Any) -> str:
        """Clone the template as the token user and return the exit status."""
        upid = self.user.nodes("pve1").qemu(source).clone.post(newid=newid, name=name, pool="shop", **options)
        return self.ended(upid, self.user)

    def begun(self, vmid: int) -> dict[str, Any]:
        """Wait until a clone is in the lists, and return its entry."""

        def entry() -> dict[str, Any] | None:
            return {vm["vmid"]: vm for vm in self.root.cluster.resources.get(type="vm")}.get(vmid)

        return eventually(entry, f"VM {vmid} does not appear", 5) or {}

    def start(self, vmid: int, address: str = "10.77.1.11/16") -> str:
        """Give a clone an address and keys, and start it."""
        vm = self.user.nodes("pve1").qemu(vmid)
        vm.config.put(ipconfig0=f"ip={address},gw=10.77.0.1", sshkeys=urllib.parse.quote(KEYS, safe=""))
        return self.ended(vm.status.start.post(), self.user)


@contextmanager
def running_lab(
    directory: Path, certificates: Path, hypervisor: PretendHypervisor | None = None, **settings: Any
) -> Iterator[Lab]:
    """Run a lab API with quick waiting times."""
    source = directory / "image"
    source.mkdir(exist_ok=True)
    if not (directory / "ca.pem").exists():
        (directory / "ca.pem").symlink_to(certificates / "ca.pem")
    quick: dict[str, Any] = {
        "images": {"debian-12.qcow2": Image(source)}, "stats_period_s": 0.2, "auth_delay_s": 0.1, "lock_wait_s": 0.5,
        "new_id_wait_s": 0.2, "agent_wait_s": 0.1, "proxy_wait_s": 1, "unreachable_s": 0.1, "cleanup_delay_s": 0.1,
        "cleanup_hold_s": 0.3,
    }  # fmt: skip
    listening = socket.create_server(("127.0.0.1", 0))
    pretended = hypervisor or PretendHypervisor()
    server = create_api_server(
        directory / "state", pretended, [listening], certificates / "api.pem", certificates / "api.key",
        Latencies(), Settings(**{**quick, **settings}),
    )  # fmt: skip
    server.start()
    try:
        yield _lab(directory, listening.getsockname()[1], pretended)
    finally:
        server.close()


def _lab(directory: Path, port: int, hypervisor: PretendHypervisor) -> Lab:
    ca = str(directory / "ca.pem")
    password = (directory / "root-password").read_text().strip()
    root = ProxmoxAPI("127.0.0.1", port=port, user="root@pam", password=password, verify_ssl=ca)
    if not (directory / "token").exists():
        root.access.roles.post(roleid="Shop", privs=PRIVILEGES.replace(" ", ","))
        root.access.users.post(userid=TOKEN_USER)
        root.pools.post(poolid="shop", comment="the shop")
        secret = root.access.users(TOKEN_USER).token("jobs").post(privsep=1)["value"]
        who = {"users": TOKEN_USER, "tokens": f"{TOKEN_USER}!jobs"}
        root.access.acl.put(path="/pool/shop", roles="Shop", **who)
        root.access.acl.put(path=f"/vms/{TEMPLATE}", roles="PVETemplateUser", **who)
        root.access.acl.put(path="/storage/shared", roles="PVEDatastoreUser", **who)
        root.access.acl.put(path="/sdn/zones/localnetwork", roles="PVESDNUser", **who)
        (directory / "token").write_text(secret)
    secret = (directory / "token").read_text()
    user = ProxmoxAPI("127.0.0.1", port=port, user=TOKEN_USER, token_name="jobs", token_value=secret, verify_ssl=ca)
    return Lab(directory, port, hypervisor, root, user, secret)


def make_certificates(directory: Path) -> Path:
    """Make a CA and a certificate for 127.0.0.1."""
    config = "subjectAltName=IP:127.0.0.1,DNS:localhost"
    ca = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    commands = [
        ["openssl", "req", *ca, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=lab CA"],
        ["openssl", "req", *ca, "-keyout", "api.key", "-out", "api.pem", "-subj", "/CN=pve1", "-addext", config,
         "-addext", "basicConstraints=critical,CA:FALSE", "-CA", "ca.pem", "-CAkey", "ca.key"],
    ]  # fmt: skip
    for command in commands:
        subprocess.run(command, cwd=directory, check=True, capture_output=True)
    return directory


def text_of(response: requests.Response) -> tuple[int, str, dict[str, str]]:
    """Return status, reason phrase and errors of an answer."""
    content = json.loads(response.content) if response.content else {}
    return response.status_code, response.reason, content.get("errors", {})
