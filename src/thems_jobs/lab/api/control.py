"""The control socket: faults, latencies and counters, changed from outside while the API runs.

One JSON object per line in, one out. `{"do": "clone", "kind": "fail", "times": 2, "text": "..."}` and so on;
the functions below are the commands, their keyword arguments the keys. A mistake is answered with `error`.
"""

import contextlib
import inspect
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from thems_jobs.lab.api.cluster import Cluster
from thems_jobs.lab.api.configs import Vm
from thems_jobs.lab.api.dispatch import RequestCounts
from thems_jobs.lab.api.errors import ApiError
from thems_jobs.lab.faults import AnswerFault, CloneFault
from thems_jobs.lab.hypervisor import GuestError

Reply = dict[str, Any]
LOCK_READY_S = 15  # longer than anybody waits for a lock


class Control:
    """The commands."""

    def __init__(self, cluster: Cluster, counts: RequestCounts, read_certificate: Callable[[], None]) -> None:
        self._cluster = cluster
        self._counts = counts
        self._read_certificate = read_certificate

    def show(self) -> Reply:
        """Return what is armed and how slow the cluster is."""
        cluster = self._cluster
        return {
            "latencies": asdict(cluster.latencies),
            "faults": cluster.faults.armed(),
            "full_storages": sorted(cluster.volumes.full),
            "refused_tokens": sorted(cluster.access.refused_tokens),
        }

    def clear(self) -> Reply:
        """Disarm all faults; latencies stay."""
        self._cluster.faults.clear()
        self._cluster.volumes.full.clear()
        self._cluster.access.refused_tokens.clear()
        return {}

    def latencies(self, **seconds: float) -> Reply:
        """Change any of clone_s, boot_s, clone_slots_per_storage, api_s; return all."""
        known = asdict(self._cluster.latencies)
        for name, value in seconds.items():
            if name not in known or not isinstance(value, int | float) or value < 0:
                raise ValueError(f"{name}={value!r}: expected one of {', '.join(known)} and a number from 0 up")
            setattr(self._cluster.latencies, name, int(value) if name == "clone_slots_per_storage" else float(value))
        return {"latencies": asdict(self._cluster.latencies)}

    def requests(self, *, reset: bool = False) -> Reply:
        """Return how often each call was made."""
        counts = self._counts.read(reset=reset)
        return {"total": sum(counts.values()), "requests": counts}

    def clone(
        self,
        kind: Literal["fail", "slow", "hang", "lost"],
        times: int = 1,
        text: str = CloneFault.text,
        seconds: float = 0.0,
    ) -> Reply:
        """Let the next clones fail with a text, be slow, hang, or lose their worker (unexpected status)."""
        if kind not in ("fail", "slow", "hang", "lost"):
            raise ValueError(f"kind={kind!r}: expected fail, slow, hang or lost")
        self._cluster.faults.arm_clones(CloneFault(kind, text, seconds), times)
        return {}

    def answer(
        self,
        path: str,
        method: str = ".*",
        status: int = 596,
        text: str = "Broken pipe",
        times: int = 1,
        executed: bool = True,
        delay_s: float = 0.0,
    ) -> Reply:
        """Lose the answers to the next requests whose path matches, after (or before) their effect; status 0: only
        delay them."""
        self._cluster.faults.arm_answers(AnswerFault(method, path, status, text, executed, delay_s), times)
        return {}

    def storage(self, storage: str, *, full: bool) -> Reply:
        """Fill a storage, or empty it again."""
        self._cluster.volumes.spec(storage)
        _put(self._cluster.volumes.full, storage, full)
        return {}

    def node(self, node: str, *, offline: bool) -> Reply:
        """Take a node's power away: its guests are off, its tasks lost. Or give it back."""
        if self._cluster.settings.node(node) is None:
            raise ValueError(f"no node {node!r}")
        _put(self._cluster.faults.offline_nodes, node, offline)
        if offline:
            for task in self._cluster.tasks.active():
                if task.node == node:
                    task.stop(died=True)
            for vm in self._cluster.configs.all():
                if vm.node == node:
                    self._cluster.guests.power_off(vm.vmid)
        return {}

    def agent(self, vm: int | str, *, silent: bool) -> Reply:
        """Let the agent of a VM (id or name) never answer, or answer again."""
        _put(self._cluster.faults.silent_agents, str(vm), silent)
        return {}

    def boot(self, vm: int | str | None = None, *, never: bool = True, times: int = 0) -> Reply:
        """Let a VM (id or name), or the next started ones, never boot."""
        if vm is not None:
            _put(self._cluster.faults.dead_boots, str(vm), never)
        self._cluster.faults.arm_boots(times)
        return {}

    def quorum(self, *, lost: bool) -> Reply:
        """Make the cluster's file system read-only, or writable again."""
        self._cluster.faults.quorum_lost = lost
        return {}

    def token(self, token: str, *, refused: bool) -> Reply:
        """Refuse a token, or accept it again."""
        _put(self._cluster.access.refused_tokens, token, refused)
        return {}

    def certificate(self) -> Reply:
        """Read the files of certificate and key again; an expired one may have been put there."""
        self._read_certificate()
        return {}

    def lock(self, vm: int | str, lock: str | None) -> Reply:
        """Write or remove the config lock of a VM, such as backup."""
        found = self._vm(vm)
        self._cluster.configs.change(found, lock=lock)
        return {}

    def flock(self, vm: int | str, seconds: float) -> Reply:
        """Hold the lock of a VM's config file for so long."""
        return self._hold(self._cluster.vm_locked(self._vm(vm).vmid), seconds)

    def storage_lock(self, storage: str, seconds: float) -> Reply:
        """Hold the lock under which a storage allocates for so long."""
        return self._hold(self._cluster.storage_locked(storage), seconds)

    def _hold(self, lock: AbstractContextManager[None], seconds: float) -> Reply:
        ready = threading.Event()

        def hold() -> None:
            with contextlib.suppress(ApiError), lock:
                ready.set()
                time.sleep(seconds)

        threading.Thread(target=hold, daemon=True).start()
        return {"held": ready.wait(LOCK_READY_S)}

    def foreign_vm(
        self,
        vmid: int,
        name: str = "foreign",
        pool: str | None = None,
        node: str | None = None,
        tags: str | None = None,
        description: str | None = None,
    ) -> Reply:
        """Make a VM of somebody else, as if by hand."""
        values = {"name": name, "cores": 1, "memory": "512", "tags": tags, "description": description}
        given = {key: value for key, value in values.items() if value is not None}
        self._cluster.configs.create(vmid, node or self._cluster.local_node, given)
        if pool:
            with self._cluster.access.changed() as entries:
                entries["pools"].setdefault(pool, {"comment": None, "vms": [], "storage": []})["vms"].append(vmid)
        return {}

    def cut(self, vm: int | str, *, cut: bool) -> Reply:
        """Unplug the network cable of a guest, or plug it in."""
        self._cluster.hypervisor.cut_network(self._vm(vm).vmid, cut)
        return {}

    def freeze(self, vm: int | str, *, frozen: bool) -> Reply:
        """Freeze a guest, or let it go on."""
        self._cluster.hypervisor.freeze(self._vm(vm).vmid, frozen)
        return {}

    def kill(self, vm: int | str) -> Reply:
        """Take the power of a guest away, as a crash of its QEMU would."""
        self._cluster.guests.power_off(self._vm(vm).vmid)
        return {}

    def _vm(self, vm: int | str) -> Vm:
        found = [
            other for other in self._cluster.configs.all() if str(vm) in (str(other.vmid), other.values.get("name"))
        ]
        if len(found) != 1:
            raise ValueError(f"vm={vm!r}: {len(found)} VMs have that id or name")
        return found[0]


def _put(names: set[str], name: str, present: bool) -> None:
    if present:
        names.add(name)
    else:
        names.discard(name)


class ControlSocket:
    """Answers commands on a unix socket that only root may use."""

    def __init__(self, path: Path, control: Control) -> None:
        self._path = path
        self._commands: dict[str, Callable[..., Reply]] = {
            name.replace("_", "-"): method
            for name, method in inspect.getmembers(control, inspect.ismethod)
            if not name.startswith("_")
        }
        path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX)
        before = os.umask(0o077)
        try:
            self._socket.bind(str(path))
        finally:
            os.umask(before)
        self._socket.listen()
        self._thread = threading.Thread(target=self._accept, name="control", daemon=True)

    def start(self) -> None:
        """Answer from now on."""
        self._thread.start()

    def close(self) -> None:
        """Answer no more and remove the socket."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._path.unlink(missing_ok=True)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rw") as lines, contextlib.suppress(OSError):
            for line in lines:
                lines.write(json.dumps(self._reply(line)) + "\n")
                lines.flush()

    def _reply(self, line: str) -> Reply:
        try:
            command = json.loads(line)
            name = command.pop("do")
            known = ", ".join(sorted(self._commands))
            return (
                self._commands[name](**command) if name in self._commands else {"error": f"do: expected one of {known}"}
            )
        except (ValueError, KeyError, TypeError, AttributeError, OSError, ApiError, GuestError) as error:
            return {"error": f"{type(error).__name__}: {error}"}
