"""Reading and changing a VM's config. A PUT with `digest` is a true compare-and-swap: both happen under the lock."""

import base64
import hashlib
import secrets
from dataclasses import replace
from typing import Any

from thems_jobs.lab.api.access import ROOT
from thems_jobs.lab.api.cluster import Call
from thems_jobs.lab.api.configs import Values, Vm
from thems_jobs.lab.api.drives import attach, check_storages, detach
from thems_jobs.lab.api.errors import bad_parameters, failed
from thems_jobs.lab.api.facts import find
from thems_jobs.lab.api.formats import split_list
from thems_jobs.lab.api.options import NOT_OPTIONS, check_option_rights, taken_at_once
from thems_jobs.lab.api.tasks import Task
from thems_jobs.lab.api.values import DRIVE, normal_tags, parse_drive, with_mac


def get_config(call: Call) -> Values:
    """GET config: pending values merged in, unless current=1."""
    vm = call.vm
    if snapshot := call.params.get("snapshot"):
        raise failed(f"snapshot '{snapshot}' does not exist")
    values = dict(vm.values if call.params.get("current") else vm.merged)
    if "cipassword" in values:
        values["cipassword"] = "**********"
    return {**values, "digest": vm.digest}


def get_pending(call: Call) -> list[Values]:
    """GET pending: every option with its current and its pending value."""
    vm = call.vm
    entries = []
    for key in sorted({*vm.values, *vm.pending}):
        entry: Values = {"key": key}
        if key in vm.values:
            entry["value"] = vm.values[key]
        if key in vm.pending:
            entry["pending"] = vm.pending[key]
        if key in vm.pending_delete:
            entry["delete"] = 1
        if key == "cipassword":
            entry.update({part: "**********" for part in ("value", "pending") if part in entry})
        entries.append(entry)
    return [*entries, {"key": "digest", "value": vm.digest}]


def put_config(call: Call) -> None:
    """PUT config: change it now."""
    _check(call)
    _change(call)


def post_config(call: Call) -> str:
    """POST config: change it in a task."""
    _check(call)

    def work(task: Task) -> None:
        _change(call, task)

    return call.fork("qmconfig", call.vmid, work)


def options_of(params: dict[str, Any]) -> Values:
    """Return the config options among the parameters of a call."""
    return {key: value for key, value in params.items() if key not in NOT_OPTIONS}


def _check(call: Call) -> None:
    """What is looked at before the lock is taken."""
    options, deleted = options_of(call.params), split_list(call.params.get("delete", ""))
    reverted = split_list(call.params.get("revert", ""))
    skiplock = call.check_skiplock()
    if not (options or deleted or reverted):
        raise failed("no options specified")
    for name, listed in (("delete", deleted), ("revert", reverted)):
        for key in listed:
            if not _is_option(key):
                raise bad_parameters({name: f"unknown option '{key}'"})
            if key in options:
                raise bad_parameters({name: f"Cannot use '-{key}' and '-{name} {key}' at the same time"})
    if "lock" in [*options, *deleted] and call.who != ROOT:
        raise failed("only root can set 'lock' config")
    vm = call.vm
    check_option_rights(call, call.vmid, None, {**options, **dict.fromkeys([*deleted, *reverted])})
    check_storages(call, {key: value for key, value in options.items() if DRIVE.fullmatch(key)})
    if not skiplock:
        vm.check_lock()


def _is_option(key: str) -> bool:
    found = find("PUT", "/nodes/n/qemu/100/config")
    return key not in NOT_OPTIONS and found is not None and found[0].shape(key) is not None


def _change(call: Call, task: Task | None = None) -> None:
    with call.cluster.vm_locked(call.vmid, log=task.log if task else None):
        vm = call.vm
        if not call.params.get("skiplock"):
            vm.check_lock()
        digest = call.params.get("digest")
        if digest is not None and digest != vm.digest:
            raise failed("checksum mismatch (file change by other user?)")
        running = call.cluster.guests.running(vm.vmid)
        if not running:
            vm = vm.applied()
        vm = _reverted(vm, split_list(call.params.get("revert", "")))
        for key in split_list(call.params.get("delete", "")):
            vm = _without(call, vm, key, later=running and not taken_at_once(key))
        for key, value in options_of(call.params).items():
            stored = stored_value(call, vm, key, value)
            vm = _with(call, vm, key, stored, later=running and not taken_at_once(key))
        call.cluster.configs.save(vm)


def _reverted(vm: Vm, keys: list[str]) -> Vm:
    pending = {key: value for key, value in vm.pending.items() if key not in keys}
    return replace(vm, pending=pending, pending_delete=tuple(key for key in vm.pending_delete if key not in keys))


def _without(call: Call, vm: Vm, key: str, *, later: bool) -> Vm:
    vm = _reverted(vm, [key])
    if key not in vm.values:
        return vm
    if later:
        return replace(vm, pending_delete=(*vm.pending_delete, key))
    if DRIVE.fullmatch(key):
        remove = bool(call.params.get("force"))
        return replace(vm, values=detach(call.cluster, vm.node, vm.values, key, remove=remove))
    if key.startswith("unused"):
        call.cluster.volumes.free(vm.values[key], call.cluster.hypervisor.delete_disk)
    return replace(vm, values={name: value for name, value in vm.values.items() if name != key})


def _with(call: Call, vm: Vm, key: str, value: Any, *, later: bool) -> Vm:
    vm = _reverted(vm, [key])
    if later:
        if vm.values.get(key) == value:
            return vm
        return replace(vm, pending={**vm.pending, key: value})
    values = vm.values
    if DRIVE.fullmatch(key):
        used = parse_drive(key, value)["file"]
        if key in values and parse_drive(key, values[key])["file"] != used:
            values = detach(call.cluster, vm.node, values, key, remove=False)
        values = {k: v for k, v in values.items() if not (k.startswith("unused") and v == used)}
    return replace(vm, values={**values, key: value})


def stored_value(call: Call, vm: Vm, key: str, value: Any) -> Any:
    """Given an option as asked for, return it as it is kept; a drive may be made for it."""
    if key == "tags":
        return normal_tags(value)
    if key == "cipassword":
        return _hashed(value)
    if key.startswith("net") and key[3:].isdigit():
        return with_mac(value)
    if DRIVE.fullmatch(key):
        return attach(call.cluster, vm.node, vm.vmid, key, value, vm.values)
    return value


def _hashed(password: str) -> str:
    if password.startswith("$5$"):
        return password
    salt = secrets.token_hex(4)
    digest = hashlib.sha256(f"{salt}{password}".encode()).digest()
    return f"$5${salt}${base64.b64encode(digest).decode()}"
