"""The Proxmox VE API: the only place that knows proxmoxer and what Proxmox's error texts mean.

Reads are repeated and go to the next endpoint when one does not answer. A write is sent once: only when nothing
can have reached the cluster is it sent to the next endpoint, otherwise it ends in Transient and the caller looks.
"""

import re
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import requests
from proxmoxer import ProxmoxAPI, ResourceException
from requests.adapters import HTTPAdapter
from tenacity import (
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    stop_after_delay,
    wait_exponential_jitter,
    wait_random,
)

from thems_jobs.core import record as records
from thems_jobs.core.facts import Node, Storage, TemplateImage
from thems_jobs.core.platform import Proxmox as Settings
from thems_jobs.core.record import Record
from thems_jobs.errors import EffectFailed, Refused, ThemsError, Transient, Unreachable, UsageError

# The whole retry policy. A read is tried so often, on every endpoint, but not begun again once timeout_s is over.
READ_ATTEMPTS = 3
READ_PAUSE = wait_exponential_jitter(initial=0.3, max=3, jitter=0.3)
RECORD_ATTEMPTS = 5  # compare-and-swap rounds; of several writers one wins in each
RECORD_PAUSE = wait_random(0, 0.3)

CONNECT_S = 5.0  # to open a connection, TLS included; a cluster in the same house takes milliseconds
CONNECTIONS = 16  # per endpoint; pveproxy and pvedaemon have three workers each, more would only queue there
HISTORY = 20  # finished tasks of one kind to learn durations from

# Proxmox answers 500 and a text to nearly everything; these are the texts that mean something to us.
_TRANSIENT = re.compile(
    r"got timeout|got lock (request )?timeout|checksum mismatch|VM is locked|cluster not ready|can't lock file"
)
_TAKEN = re.compile(r"config file already exists|already exists on node|failed: File exists")
_GONE = re.compile(r"Configuration file '[^']*' does not exist|unable to find configuration file for VM")
_NO_AGENT = re.compile(r"guest agent|VM \d+ is not running")
_NO_FILE = re.compile(r"No such file or directory")


@dataclass(frozen=True)
class VmRow:
    """A VM or container as the list of the whole cluster shows it; name, size and status lag by up to 10 s."""

    vmid: int
    name: str
    node: str
    pool: str
    tags: tuple[str, ...]
    template: bool
    status: str
    lock: str
    memory_mib: int
    cores: int
    kind: str  # qemu or lxc


@dataclass(frozen=True)
class Resources:
    """What the cluster has, in one answer."""

    vms: tuple[VmRow, ...]
    nodes: dict[str, Node]
    storages: tuple[Storage, ...]


@dataclass(frozen=True)
class VmConfig:
    """A VM's configuration. `created_at` is 0 where Proxmox does not know it; `options` has every key as text."""

    name: str
    description: str
    digest: str
    tags: tuple[str, ...]
    lock: str
    protection: bool
    created_at: float
    options: dict[str, str]


@dataclass(frozen=True)
class Task:
    """A worker of Proxmox. `ended_at` is None and `error` "" while it runs; `error` is "" if it ended well."""

    upid: str
    node: str
    kind: str
    vmid: int | None
    user: str
    started_at: float
    ended_at: float | None
    error: str


class _NotSentError(Exception):
    """No connection could be made: the cluster knows nothing of the request."""


class _LostError(Exception):
    """The request was sent, the answer never came: it may have been carried out."""


class Proxmox:
    """One cluster, by its endpoints and one API token. Every method may be called from several threads at once."""

    def __init__(self, settings: Settings, base: Path, timeout_s: float) -> None:
        """Given the folder that relative paths start from. Raise UsageError if token or CA file cannot be used."""
        self._settings = settings
        self._timeout_s = timeout_s
        self._token_file = base / settings.token_file
        token = _read_token(self._token_file)
        authority = _checked_authority(base / settings.ca_file) if settings.ca_file else None
        self._apis = [_connect(url, settings.token_id, token, authority, timeout_s) for url in settings.endpoints]
        self._preferred = 0  # the endpoint that answered last
        self._count = 0
        self._count_lock = threading.Lock()
        self._record_lock = threading.Lock()
        self._record_node = ""

    @property
    def requests(self) -> int:
        """How many requests were sent so far."""
        return self._count

    # Reading

    def version(self) -> str:
        """Return the version of Proxmox VE, for example 9.1.3."""
        return str(self._read("version")["version"])

    def permissions(self) -> dict[str, dict[str, bool]]:
        """Return the token's privileges by path; the value says whether one holds below that path, too."""
        found = self._read("access/permissions")
        return {path: {name: bool(below) for name, below in held.items()} for path, held in found.items()}

    def quorate(self) -> bool:
        """True if the cluster has quorum; a node that is in no cluster always has."""
        clusters = [row for row in self._read("cluster/status") if row["type"] == "cluster"]
        return all(bool(row["quorate"]) for row in clusters)

    def resources(self) -> Resources:
        """Return every VM, node and storage the token may see, from one request."""
        rows = self._read("cluster/resources")
        vms = tuple(_vm_row(row) for row in rows if row["type"] in ("qemu", "lxc"))
        record = [vm for vm in vms if vm.vmid == self._settings.record_vmid]
        self._record_node = record[0].node if record and record[0].pool == self._settings.pool else ""
        counted = [vm for vm in vms if not vm.template and vm.vmid != self._settings.record_vmid]
        nodes = {row["node"]: _node(row, counted) for row in rows if row["type"] == "node"}
        return Resources(vms, nodes, tuple(_storage(row) for row in rows if row["type"] == "storage"))

    def tasks(self) -> tuple[Task, ...]:
        """Return the latest tasks of every node, about 25 of each, from one request."""
        return tuple(_task(row) for row in self._read("cluster/tasks"))

    def task(self, upid: str) -> Task:
        """Given a UPID, return its task; one that its node has forgotten counts as ended with an error."""
        row = _parse_upid(upid)
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
            return _task(row)
        # The answer does not say when it ended; it is asked for at its end.
        return _task({**row, "endtime": time.time(), "status": status.get("exitstatus", "unexpected status")})

    def _task_status(self, node: str, upid: str) -> Mapping[str, Any]:
        return dict(self._read(f"nodes/{node}/tasks/{upid}/status"))

    def durations(self, node: str, kind: str) -> list[float]:
        """Given a node and a task kind such as qmclone, return the seconds of its latest successful tasks."""
        rows = self._read(f"nodes/{node}/tasks", typefilter=kind, statusfilter="ok", limit=HISTORY)
        return [float(row["endtime"]) - float(row["starttime"]) for row in rows if "endtime" in row]

    def config(self, node: str, vmid: int) -> VmConfig | None:
        """Given where a VM is, return its configuration with pending changes, or None if it is not there."""
        row = self._read_of_vm(node, vmid, "config")
        return None if row is None else _vm_config(row)

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

    def agent_ready(self, node: str, vmid: int) -> bool:
        """True if the VM's guest agent answers. Proxmox itself waits up to 3 s for it."""
        try:
            self._retried("POST", f"nodes/{node}/qemu/{vmid}/agent/ping", {})
        except EffectFailed as error:
            if _NO_AGENT.search(error.detail) or _GONE.search(error.detail):
                return False
            raise
        return True

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
        record, digest, _ = self._look_at_record()
        return record, digest

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
        old, digest, platform = self._look_at_record()
        new = change(old)
        try:
            text = records.write(new, platform)
        except ValueError as error:
            raise Refused(
                "record-full", f"record VM {self._settings.record_vmid}", f"{error}.", "See: thems-jobs status."
            ) from error
        if text != records.write(old, platform):
            self.configure(self._record_node, self._settings.record_vmid, digest, {"description": text})
        return new

    def _look_at_record(self) -> tuple[Record, str, str]:
        """Return the record, its digest and the platform's name, which the record VM's own name tells."""
        vmid, config = self._settings.record_vmid, None
        if self._record_node:
            config = self.config(self._record_node, vmid)
        if config is None:  # not looked for yet, or moved to another node
            self.resources()
            config = self.config(self._record_node, vmid) if self._record_node else None
        remedy = "Run: thems-jobs doctor. It says how to make or mend it."
        subject = f"record VM {vmid}"
        if config is None:
            raise Refused("record-unreadable", subject, f"there is no such VM in pool {self._settings.pool}.", remedy)
        if not config.name.endswith("-record"):
            raise Refused("record-unreadable", subject, f"it is named {config.name}, not …-record.", remedy)
        try:
            return records.read(config.description), config.digest, config.name.removesuffix("-record")
        except ValueError as error:
            raise Refused("record-unreadable", subject, f"{error}.", remedy) from error

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
        except EffectFailed as error:
            if _GONE.search(error.detail):
                return ""
            raise

    # Asking

    def _read(self, path: str, **parameters: object) -> Any:
        return self._retried("GET", path, parameters)

    def _retried(self, method: str, path: str, parameters: Mapping[str, object]) -> Any:
        """Ask something that changes nothing, again and elsewhere if there is no answer."""
        tries = Retrying(
            retry=retry_if_exception_type((_NotSentError, _LostError, Transient)),
            stop=stop_after_attempt(READ_ATTEMPTS) | stop_after_delay(self._timeout_s),
            wait=READ_PAUSE,
            reraise=True,
        )
        try:
            return tries(self._ask, method, path, parameters, repeatable=True)
        except (_NotSentError, _LostError) as error:
            raise _unanswered(error) from error
        except Transient as error:
            raise Unreachable(error.subject, error.detail, error.remedy) from error

    def _write(self, method: str, path: str, parameters: Mapping[str, object]) -> Any:
        """Ask for a change, once."""
        try:
            return self._ask(method, path, parameters, repeatable=False)
        except _NotSentError as error:
            raise _unanswered(error) from error
        except _LostError as error:
            raise Transient(path, f"{error} It may have been carried out all the same.") from error

    def _ask(self, method: str, path: str, parameters: Mapping[str, object], *, repeatable: bool) -> Any:
        """Send one request to the first endpoint that takes it, beginning with the one that answered last."""
        passed_on = (_NotSentError, _LostError) if repeatable else _NotSentError
        count, first, failures = len(self._apis), self._preferred, list[Exception]()
        for index in [(first + offset) % count for offset in range(count)]:
            try:
                answer = self._send(self._apis[index], method, path, parameters)
            except passed_on as error:
                failures.append(error)
                continue
            self._preferred = index
            return answer
        kind = _LostError if any(isinstance(failure, _LostError) for failure in failures) else _NotSentError
        raise kind(" ".join(str(failure) for failure in failures))

    def _send(self, api: ProxmoxAPI, method: str, path: str, parameters: Mapping[str, object]) -> Any:
        """Send one request to one endpoint and return its data. Every exception of proxmoxer and requests ends here."""
        with self._count_lock:
            self._count += 1
        endpoint = urlsplit(api._store["base_url"]).netloc
        sent = {name: _as_sent(name, value) for name, value in parameters.items()}
        try:
            answer = getattr(api(path), method.lower())(**sent)
        except ResourceException as error:
            raise self._translated(error, endpoint, path) from error
        except requests.exceptions.RequestException as error:
            raise _translated_failure(error, endpoint) from error
        except (KeyError, TypeError, AttributeError) as error:  # JSON, but not as Proxmox writes it
            raise _NotSentError(f"{endpoint} answers, but not as Proxmox VE does.") from error
        if isinstance(answer, dict) and isinstance(answer.get("errors"), bytes):  # proxmoxer's way to say: no JSON
            raise _LostError(f"{endpoint} broke its answer off.")
        return answer

    def _translated(self, error: ResourceException, endpoint: str, path: str) -> Exception:
        """Given an error that Proxmox answered, return what it means."""
        code, text = error.status_code, _text_of(error)
        if code == 401:
            return Unreachable(
                endpoint,
                f"it refuses the token {self._settings.token_id}.",
                f"Check the secret in {self._token_file} and that token and user are enabled and not expired; "
                "then run: thems-jobs doctor.",
                "token-refused",
            )
        if code == 403:
            return Refused(
                "privilege-missing", path, f"{text} (token {self._settings.token_id}).",
                "Grant it as docs/proxmox-role.md says; then run: thems-jobs doctor.",
            )  # fmt: skip
        if code in range(595, 600):  # the endpoint could not pass it on to the node, or lost the answer
            return _LostError(f"{endpoint} gets no answer for {path}: {text or code}.")
        if _TAKEN.search(text):
            return EffectFailed(path, f"{text}.", "Another id is chosen when it is tried again.", "vmid-taken")
        if _TRANSIENT.search(text):
            return Transient(path, f"{text}.")
        return EffectFailed(path, f"{text}.")


# Connecting


def _read_token(path: Path) -> str:
    """Given a token file, return the secret in it. Raise UsageError if it is not there, empty or open to everybody."""
    remedy = "Write the token's secret there and: chmod 600 it."
    try:
        if path.stat().st_mode & 0o007:
            raise UsageError("token-file", str(path), ["every user of this host can use it."], f"chmod 600 {path}")
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError("token-file", str(path), [f"it cannot be read: {_reason(error)}."], remedy) from error
    if not token or token.split() != [token]:
        raise UsageError("token-file", str(path), ["it holds no secret: one line is expected."], remedy)
    return token


def _checked_authority(path: Path) -> Path:
    """Given a CA file, return it. Raise UsageError if no certificate can be read from it."""
    try:
        ssl.create_default_context(cafile=str(path))
    except OSError as error:  # ssl.SSLError is one
        raise UsageError(
            "ca-file", str(path), [f"no CA certificate can be read from it: {_reason(error)}."],
            "Copy /etc/pve/pve-root-ca.pem of a node there.",
        ) from error  # fmt: skip
    return path


def _reason(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)


def _connect(url: str, token_id: str, token: str, authority: Path | None, timeout_s: float) -> ProxmoxAPI:
    """Given an endpoint and a token, return the API there; nothing is sent yet."""
    user, _, token_name = token_id.partition("!")
    api = ProxmoxAPI(
        urlsplit(url).hostname,
        port=urlsplit(url).port or 8006,
        user=user,
        token_name=token_name,
        token_value=token,
        verify_ssl=str(authority) if authority else True,
        timeout=(min(CONNECT_S, timeout_s), timeout_s),
    )
    # One session serves all threads: its pool of connections is thread-safe and nothing else of it changes.
    session = api._store["session"]
    session.trust_env = False  # no proxy and no other CA than the platform file's
    session.mount("https://", HTTPAdapter(pool_connections=1, pool_maxsize=CONNECTIONS, pool_block=True))
    return api


# Translating


def _as_sent(name: str, value: object) -> object:
    """Given an option, return it as Proxmox wants it: booleans as 1 and 0, SSH keys percent-encoded once."""
    if isinstance(value, bool):
        return int(value)
    return quote(unquote(str(value)), safe="") if name == "sshkeys" else value


def _text_of(error: ResourceException) -> str:
    """Given an error answer, return Proxmox's own words, with what it says of each parameter."""
    reason = str(error.content or "").partition(" - ")[0].strip()
    if isinstance(error.errors, dict):
        said = [f"{name}: {str(text).strip()}" for name, text in error.errors.items() if not isinstance(text, bytes)]
        reason = " ".join([reason, *said]).strip()
    return reason.rstrip(".")


def _translated_failure(error: requests.exceptions.RequestException, endpoint: str) -> Exception:
    """Given why no answer came, return whether the request can have been carried out."""
    text = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        why = re.search(r"certificate verify failed: ([^()]*)", text)
        return _CertificateError(endpoint, why.group(1).strip() if why else "it cannot be verified")
    cause = getattr(error.args[0] if error.args else None, "reason", None)
    never_sent = isinstance(error, (requests.exceptions.ConnectTimeout, requests.exceptions.SSLError))
    if never_sent or type(cause).__name__ in ("NewConnectionError", "NameResolutionError"):
        return _NotSentError(f"{endpoint} cannot be reached ({_cause_text(cause) or type(error).__name__}).")
    if isinstance(error, requests.exceptions.Timeout):
        return _LostError(f"{endpoint} did not answer in time.")
    return _LostError(f"{endpoint} broke the connection off.")


class _CertificateError(_NotSentError):
    """The endpoint's certificate is not one we may trust."""

    def __init__(self, endpoint: str, why: str) -> None:
        super().__init__(f"{endpoint} shows a certificate that is not valid: {why}.")


def _cause_text(cause: object) -> str:
    return str(cause).rpartition(": ")[2].strip() if cause else ""


def _unanswered(error: Exception) -> ThemsError:
    """Given that no endpoint answered, return it as an error for people."""
    if "certificate" in str(error):
        return Unreachable(
            "Proxmox API", str(error),
            "Renew it (pvecm updatecerts), or mend ca_file in the platform file; then run: thems-jobs doctor.",
            "certificate-invalid",
        )  # fmt: skip
    return Unreachable("Proxmox API", str(error), "Check the endpoints, then run: thems-jobs doctor.")


# Reading answers


def _vm_row(row: Mapping[str, Any]) -> VmRow:
    return VmRow(
        vmid=int(row["vmid"]),
        name=str(row.get("name", "")),
        node=row["node"],
        pool=row.get("pool", ""),
        tags=_tags(row.get("tags", "")),
        template=bool(row.get("template", 0)),
        status=row.get("status", "unknown"),
        lock=row.get("lock", ""),
        memory_mib=int(row.get("maxmem", 0)) >> 20,
        cores=int(row.get("maxcpu", 0)),
        kind=row["type"],
    )


def _tags(text: str) -> tuple[str, ...]:
    return tuple(tag for tag in re.split(r"[;, ]+", text) if tag)


def _node(row: Mapping[str, Any], vms: Iterable[VmRow]) -> Node:
    """Given a node's row and the VMs that count, return the node with what is promised on it."""
    mine = [vm for vm in vms if vm.node == row["node"]]
    return Node(
        name=row["node"],
        online=row.get("status") == "online",
        cores=int(row.get("maxcpu", 0)),
        cores_used=sum(vm.cores for vm in mine),
        memory_mib=int(row.get("maxmem", 0)) >> 20,
        memory_used_mib=sum(vm.memory_mib for vm in mine),
    )


def _storage(row: Mapping[str, Any]) -> Storage:
    free_bytes = int(row.get("maxdisk", 0)) - int(row.get("disk", 0))
    return Storage(
        name=row["storage"],
        node=row["node"],
        shared=bool(row.get("shared", 0)),
        active=row.get("status") == "available",
        free_mib=max(0, free_bytes) >> 20,
    )


def _vm_config(row: Mapping[str, Any]) -> VmConfig:
    created = re.search(r"\bctime=(\d+)", str(row.get("meta", "")))
    return VmConfig(
        name=str(row.get("name", "")),
        description=str(row.get("description", "")),
        digest=str(row.get("digest", "")),
        tags=_tags(str(row.get("tags", ""))),
        lock=str(row.get("lock", "")),
        protection=bool(int(row.get("protection", 0))),
        created_at=float(created.group(1)) if created else 0.0,
        options={name: str(value) for name, value in row.items()},
    )


def _parse_upid(upid: str) -> dict[str, Any]:
    """Given a UPID, return what is written in it. Raise EffectFailed if it is none."""
    match = re.fullmatch(r"UPID:([^:]+):[0-9A-F]{8}:[0-9A-F]{8,9}:([0-9A-F]{8}):([^:]+):([^:]*):([^:]+):", upid, re.I)
    if not match:
        raise EffectFailed("task", f"{upid!r} is no task of Proxmox.")
    node, started, kind, vmid, user = match.groups()
    return {"upid": upid, "node": node, "starttime": int(started, 16), "type": kind, "id": vmid, "user": user}


def _task(row: Mapping[str, Any]) -> Task:
    """Given a row of a task list, return the task. Success is OK or WARNINGS; any other text is the error itself."""
    ended, status = row.get("endtime"), str(row.get("status", ""))
    vmid, token = str(row.get("id", "")), row.get("tokenid")
    well = ended is None or status == "OK" or re.fullmatch(r"WARNINGS: \d+", status)
    return Task(
        upid=row["upid"],
        node=row["node"],
        kind=row["type"],
        vmid=int(vmid) if vmid.isdigit() else None,
        user=f"{row['user']}!{token}" if token else row["user"],
        started_at=float(row["starttime"]),
        ended_at=None if ended is None else float(ended),
        error="" if well else status or "unexpected status",
    )
