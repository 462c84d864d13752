"""One Proxmox cluster: what is asked of it and what is done to it, each in one request where Proxmox allows it."""

import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random

from thems_jobs.clients.proxmox import answers
from thems_jobs.clients.proxmox.answers import Resources, Task, VmConfig
from thems_jobs.clients.proxmox.connection import Connection
from thems_jobs.core import record as records
from thems_jobs.core.facts import TemplateImage
from thems_jobs.core.platform import Proxmox as Settings
from thems_jobs.core.record import Record
from thems_jobs.errors import EffectFailed, Refused, Transient

RECORD_ATTEMPTS = 5  # compare-and-swap rounds; of several writers one wins in each
RECORD_PAUSE = wait_random(0, 0.3)

_GONE = re.compile(r"Configuration file '[^']*' does not exist|unable to find configuration file for VM")
_NO_AGENT = re.compile(r"guest agent|VM \d+ is not running")
_NO_FILE = re.compile(r"No such file or directory")


class Proxmox:
    """One cluster, by its endpoints and one API token. Every method may be called from several threads at once."""

    def __init__(self, settings: Settings, platform: str, base: Path, timeout_s: float) -> None:
        """Given whose record is read and written, and the folder that relative paths start from.

        Raise UsageError if token or CA file cannot be used.
        """
        self._settings = settings
        self._platform = platform
        self._connection = Connection(settings, base, timeout_s)
        self._read, self._write = self._connection.read, self._connection.write
        self._record_lock = threading.Lock()
        self._record_node = ""

    @property
    def requests(self) -> int:
        """How many requests were sent so far."""
        return self._connection.requests

    # Reading

    def version(self) -> str:
        """Return the version of Proxmox VE, for example 9.1.3."""
        return str(self._read("version")["version"])

    def permissions(self, path: str) -> frozenset[str]:
        """Given a path of the access control such as /pool/shop, return the privileges the token has there."""
        return frozenset(self._read("access/permissions", path=path).get(path, {}))

    def pools(self) -> frozenset[str]:
        """Return the pools the token may see."""
        return frozenset(row["poolid"] for row in self._read("pools"))

    def quorate(self) -> bool:
        """True if the cluster has quorum; a node that is in no cluster always has."""
        clusters = [row for row in self._read("cluster/status") if row["type"] == "cluster"]
        return all(bool(row["quorate"]) for row in clusters)

    def resources(self) -> Resources:
        """Return every VM, node and storage the token may see, from one request."""
        rows = self._read("cluster/resources")
        vms = tuple(answers.vm_row(row) for row in rows if row["type"] in ("qemu", "lxc"))
        record = [vm for vm in vms if vm.vmid == self._settings.record_vmid]
        self._record_node = record[0].node if record and record[0].pool == self._settings.pool else ""
        counted = [vm for vm in vms if not vm.template and vm.vmid != self._settings.record_vmid]
        nodes = {row["node"]: answers.node(row, counted) for row in rows if row["type"] == "node"}
        return Resources(vms, nodes, tuple(answers.storage(row) for row in rows if row["type"] == "storage"))

    def tasks(self) -> tuple[Task, ...]:
        """Return the latest tasks of every node, about 25 of each, from one request."""
        return tuple(answers.task(row) for row in self._read("cluster/tasks"))

    def task(self, upid: str) -> Task:
        """Given a UPID, return its task; one that its node has forgotten counts as ended with an error."""
        row = answers.parse_upid(upid)
        try:
            status = self._task_status(row["node"], upid)
            if status.get("exitstatus") == "unexpected status":  # also seen for an instant at the end of a good task
                time.sleep(1)
                status = self._task_status(row["node"], upid)
        except EffectFailed as error:
            if "no such task" not in error.detail:
                raise
            status = {"status": "stopped", "exitstatus": "its node has no record of this task any more"}
        if status["status"] == "running":
            return answers.task(row)
        # The answer does not say when it ended; it is asked for at its end.
        return answers.task({**row, "endtime": time.time(), "status": status.get("exitstatus", "unexpected status")})

    def _task_status(self, node: str, upid: str) -> Mapping[str, Any]:
        return dict(self._read(f"nodes/{node}/tasks/{upid}/status"))

    def config(self, node: str, vmid: int) -> VmConfig | None:
        """Given where a VM is, return its configuration with pending changes, or None if it is not there."""
        row = self._read_of_vm(node, vmid, "config")
        return None if row is None else answers.vm_config(row)

    def running(self, node: str, vmid: int) -> bool:
        """Given where a VM is, return whether it runs now; one that does not exist does not."""
        row = self._read_of_vm(node, vmid, "status/current")
        return row is not None and row["status"] == "running"

    def _read_of_vm(self, node: str, vmid: int, what: str) -> Mapping[str, Any] | None:
        try:
            return dict(self._read(f"nodes/{node}/qemu/{vmid}/{what}"))
        except EffectFailed as error:
            if _GONE.search(error.detail):
                return None
            raise

    def agent_read(self, node: str, vmid: int, path: str) -> str | None:
        """Given a path in a VM, return the file's text, or None while no agent runs or the file is not there."""
        try:
            return str(self._read(f"nodes/{node}/qemu/{vmid}/agent/file-read", file=path)["content"])
        except EffectFailed as error:
            if any(known.search(error.detail) for known in (_NO_AGENT, _NO_FILE, _GONE)):
                return None
            raise

    def volume_exists(self, node: str, volume: str) -> bool:
        """Given a volume such as local:import/debian-12.qcow2, return whether the node sees it."""
        storage = volume.partition(":")[0]
        return any(row["volid"] == volume for row in self._read(f"nodes/{node}/storage/{storage}/content"))

    # The record

    def read_record(self) -> tuple[Record, str]:
        """Return the platform's record and the digest it was read at. Raise Refused if it is absent or not ours."""
        config = self._record_vm()
        try:
            return records.read(config.description, self._platform), config.digest
        except ValueError as error:
            raise self._unreadable(f"{error}.") from error

    def change_record(self, change: Callable[[Record], Record]) -> Record:
        """Given a change, make it by compare-and-swap and return the record that was written.

        The change is asked again on the newest record when somebody else was quicker; nothing is written if it
        raises or changes nothing. Raise Transient if others were quicker RECORD_ATTEMPTS times.
        """
        rounds = Retrying(
            retry=retry_if_exception_type(Transient),
            stop=stop_after_attempt(RECORD_ATTEMPTS),
            wait=RECORD_PAUSE,
            reraise=True,
        )
        with self._record_lock:
            return rounds(self._swap_record, change)

    def _swap_record(self, change: Callable[[Record], Record]) -> Record:
        old, digest = self.read_record()
        new = change(old)
        try:
            text = records.write(new, self._platform)
        except ValueError as error:
            raise Refused(
                "record-full", f"record VM {self._settings.record_vmid}", f"{error}.", "See: thems-jobs status."
            ) from error
        if text != records.write(old, self._platform):
            self.configure(self._record_node, self._settings.record_vmid, digest, {"description": text})
        return new

    def _record_vm(self) -> VmConfig:
        """Return the VM that the record is in. Raise Refused if there is none, or it is not this platform's."""
        vmid, config = self._settings.record_vmid, None
        if self._record_node:
            config = self.config(self._record_node, vmid)
        if config is None:  # not looked for yet, or moved to another node
            self.resources()
            config = self.config(self._record_node, vmid) if self._record_node else None
        if config is None:
            raise self._unreadable(f"there is no such VM in pool {self._settings.pool}.")
        if config.name != (name := f"{self._platform}-record"):
            raise self._unreadable(f"it is named {config.name}, not {name}: it is not the record of this platform.")
        return config

    def _unreadable(self, detail: str) -> Refused:
        remedy = "Run: thems-jobs doctor. It says how to make or mend it."
        return Refused("record-unreadable", f"record VM {self._settings.record_vmid}", detail, remedy)

    # Changing

    def clone(
        self, template: TemplateImage, *, vmid: int, name: str, pool: str, description: str, target_node: str
    ) -> str:
        """Given a template and what the new VM shall be, begin a linked clone and return its UPID.

        Raise EffectFailed with reference vmid-taken if the id is in use; the task may find that out, too.
        """
        options: dict[str, object] = {
            "newid": vmid, "name": name, "pool": pool, "description": description, "full": False,
        }  # fmt: skip
        if target_node != template.node:
            options["target"] = target_node
        return str(self._write("POST", f"nodes/{template.node}/qemu/{template.vmid}/clone", options))

    def create(
        self, node: str, vmid: int, *, name: str, pool: str, description: str, options: Mapping[str, str | int]
    ) -> str:
        """Given a node and hardware options, begin to create a VM and return its UPID; raises as clone does."""
        new = {"vmid": vmid, "name": name, "pool": pool, "description": description, **options}
        return str(self._write("POST", f"nodes/{node}/qemu", new))

    def convert_to_template(self, node: str, vmid: int) -> str:
        """Given a VM that is switched off, begin to make a template of it and return the UPID."""
        return str(self._write("POST", f"nodes/{node}/qemu/{vmid}/template", {}))

    def configure(
        self, node: str, vmid: int, digest: str, options: Mapping[str, str | int], delete: Sequence[str] = ()
    ) -> None:
        """Given the digest of the configuration this rests on, change options. Raise Transient if it has moved."""
        changes: dict[str, object] = {**options, "digest": digest}
        if delete:
            changes["delete"] = ",".join(delete)
        self._write("PUT", f"nodes/{node}/qemu/{vmid}/config", changes)

    def resize(self, node: str, vmid: int, disk: str, size_gib: int) -> str:
        """Given a disk such as scsi0, begin to enlarge it to a size and return the UPID."""
        return str(self._write("PUT", f"nodes/{node}/qemu/{vmid}/resize", {"disk": disk, "size": f"{size_gib}G"}))

    def start(self, node: str, vmid: int) -> str:
        """Begin to switch a VM on and return the UPID; the task fails if it runs already."""
        return str(self._write("POST", f"nodes/{node}/qemu/{vmid}/status/start", {}))

    def shutdown(self, node: str, vmid: int, timeout_s: float) -> str:
        """Ask a VM to power off, which is enforced after timeout_s, and return the UPID."""
        options = {"timeout": int(timeout_s), "forceStop": True}
        return str(self._write("POST", f"nodes/{node}/qemu/{vmid}/status/shutdown", options))

    def destroy(self, node: str, vmid: int) -> str:
        """Begin to remove a VM and its own disks and return the UPID, or "" if it is not there any more."""
        options = {"purge": True, "destroy-unreferenced-disks": False}
        try:
            return str(self._write("DELETE", f"nodes/{node}/qemu/{vmid}", options))
        except Refused:  # what is gone has left the pool, and with it goes our right to ask for it
            if self.config(node, vmid) is None:
                return ""
            raise
        except EffectFailed as error:
            if _GONE.search(error.detail):
                return ""
            raise
