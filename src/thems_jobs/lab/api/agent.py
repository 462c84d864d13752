"""The guest agent: results wrapped twice, errors as 500, and three seconds of silence when nobody is there."""

import base64
import binascii
import itertools
import threading
from dataclasses import dataclass, field
from typing import Any

from thems_jobs.lab.api.cluster import Call
from thems_jobs.lab.api.errors import failed
from thems_jobs.lab.api.power import agent_answers_in_time, agent_enabled
from thems_jobs.lab.hypervisor import GuestError

EXEC_ERROR_WAIT_S = 1.0  # how long a missing program may take to be noticed
OUTPUT_BYTES = 16 * 1024 * 1024


@dataclass
class Execution:
    """One program started in a guest."""

    ended: threading.Event = field(default_factory=threading.Event)
    result: tuple[int, bytes, bytes] | None = None
    error: str | None = None


# By VMID and pid. Pids are never used twice in this process, so nobody meets another's execution.
_executions: dict[tuple[int, int], Execution] = {}
_pids = itertools.count(1000)


def _check_agent(call: Call) -> None:
    vm = call.vm
    if "agent" not in vm.values:
        raise failed("No QEMU guest agent configured")
    if not call.cluster.guests.running(vm.vmid):
        raise failed(f"VM {vm.vmid} is not running")
    if not agent_enabled(vm.values) or not agent_answers_in_time(call.cluster, vm):
        raise failed("QEMU guest agent is not running")


def ping(call: Call) -> dict[str, Any]:
    """POST agent/ping."""
    _check_agent(call)
    return {"result": {}}


def network_interfaces(call: Call) -> dict[str, Any]:
    """GET agent/network-get-interfaces."""
    _check_agent(call)
    return {"result": _asked(lambda: call.cluster.hypervisor.agent_interfaces(call.vmid))}


def host_name(call: Call) -> dict[str, Any]:
    """GET agent/get-host-name."""
    return {"result": {"host-name": _output(call, ["hostname"]).strip()}}


def time_of_guest(call: Call) -> dict[str, Any]:
    """GET agent/get-time: nanoseconds."""
    return {"result": int(_output(call, ["date", "+%s%N"]))}


def os_info(call: Call) -> dict[str, Any]:
    """GET agent/get-osinfo."""
    _check_agent(call)
    content = _asked(lambda: call.cluster.hypervisor.agent_read(call.vmid, "/etc/os-release")).decode()
    known = dict(line.split("=", 1) for line in content.splitlines() if "=" in line)
    names = {"id": "ID", "name": "NAME", "pretty-name": "PRETTY_NAME", "version": "VERSION", "version-id": "VERSION_ID"}
    return {"result": {key: known[name].strip('"') for key, name in names.items() if name in known}}


def command(call: Call) -> dict[str, Any]:
    """POST agent: the same by name."""
    known = {
        "ping": ping,
        "network-get-interfaces": network_interfaces,
        "get-host-name": host_name,
        "get-time": time_of_guest,
        "get-osinfo": os_info,
        "shutdown": shutdown,
    }
    name = call.params["command"]
    if name not in known:
        _check_agent(call)
        raise failed(f"Agent error: Command {name} has been disabled")
    return known[name](call)


def shutdown(call: Call) -> dict[str, Any]:
    """POST agent command=shutdown."""
    _check_agent(call)
    call.cluster.guests.ask_to_shut_down(call.vmid)
    return {"result": {}}


def execute(call: Call) -> dict[str, Any]:
    """POST agent/exec: start a program, return its pid. A missing program is an error at once."""
    _check_agent(call)
    argv, given = call.params["command"], call.params.get("input-data", "").encode()
    execution = Execution()

    def run() -> None:
        try:
            execution.result = call.cluster.hypervisor.agent_exec(call.vmid, argv, given)
        except GuestError as error:
            execution.error = str(error)
        execution.ended.set()

    threading.Thread(target=run, name=f"exec-{call.vmid}", daemon=True).start()
    execution.ended.wait(EXEC_ERROR_WAIT_S)
    if execution.error is not None:
        raise failed(f"Agent error: {execution.error}")
    pid = next(_pids)
    _executions[call.vmid, pid] = execution
    return {"pid": pid}


def execution_status(call: Call) -> dict[str, Any]:
    """GET agent/exec-status: the result can be fetched once."""
    _check_agent(call)
    key = (call.vmid, call.params["pid"])
    execution = _executions.get(key)
    if execution is None:
        raise failed("Agent error: Invalid parameter 'pid'")
    if not execution.ended.is_set():
        return {"exited": 0}
    del _executions[key]
    if execution.result is None:
        return {"exited": 1, "signal": 9}
    code, out, err = execution.result
    status: dict[str, Any] = {"exited": 1, "exitcode": code}
    for name, data in (("out", out), ("err", err)):
        if data:
            status[f"{name}-data"] = data[:OUTPUT_BYTES].decode(errors="replace")
        if len(data) > OUTPUT_BYTES:
            status[f"{name}-truncated"] = 1
    return status


def read_file(call: Call) -> dict[str, Any]:
    """GET agent/file-read."""
    _check_agent(call)
    content = _asked(lambda: call.cluster.hypervisor.agent_read(call.vmid, call.params["file"]))
    offset, count = call.params.get("offset", 0), call.params.get("count", OUTPUT_BYTES)
    part = content[offset : offset + count]
    text = part.decode(errors="replace") if call.params.get("decode", 1) else base64.b64encode(part).decode()
    truncated = {"truncated": 1} if offset + count < len(content) else {}
    return {"content": text, "bytes-read": len(part), **truncated}


def write_file(call: Call) -> None:
    """POST agent/file-write."""
    _check_agent(call)
    content = call.params["content"].encode()
    if not call.params.get("encode", 1):
        try:
            content = base64.b64decode(content, validate=True)
        except binascii.Error as error:
            raise failed("Agent error: failed to write file: invalid base64") from error
    _asked(lambda: call.cluster.hypervisor.agent_write(call.vmid, call.params["file"], content))


def _output(call: Call, argv: list[str]) -> str:
    _check_agent(call)
    code, out, err = _asked(lambda: call.cluster.hypervisor.agent_exec(call.vmid, argv, b""))
    if code != 0:
        raise failed(f"Agent error: {err.decode(errors='replace')}")
    return str(out.decode())


def _asked(question: Any) -> Any:
    try:
        return question()
    except GuestError as error:
        raise failed(f"Agent error: {error}") from error
