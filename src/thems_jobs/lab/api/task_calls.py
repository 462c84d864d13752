"""Calls about tasks. A token sees its own tasks only, a user those of all its tokens, Sys.Audit sees all."""

from collections.abc import Callable
from typing import Any

from thems_jobs.lab.api.cluster import Call
from thems_jobs.lab.api.errors import bad_parameters
from thems_jobs.lab.api.formats import split_list
from thems_jobs.lab.api.tasks import UPID, Task, describe

RECENT_TASKS = 25  # per node, in /cluster/tasks
TERM_WAIT_S = 5  # from SIGTERM to SIGKILL


def _is_of(user: str, who: str) -> bool:
    return user == who or user.startswith(f"{who}!")


def _task(call: Call) -> Task:
    upid = call.params["upid"]
    parts = UPID.fullmatch(upid)
    if parts is None:
        raise bad_parameters({"upid": "unable to parse worker upid"})
    task = call.cluster.tasks.find(upid)
    if not _is_of(parts["user"], call.who):
        call.demand(f"/nodes/{call.node}", "Sys.Audit")
    if task is None or task.node != call.node:
        raise bad_parameters({"upid": "no such task"})
    return task


def task_index(call: Call) -> list[dict[str, str]]:
    """GET tasks/{upid}: what is below it."""
    if UPID.fullmatch(call.params["upid"]) is None:
        raise bad_parameters({"upid": "unable to parse worker upid"})
    return [{"name": "log"}, {"name": "status"}]


def task_status(call: Call) -> dict[str, Any]:
    """GET tasks/{upid}/status."""
    task = _task(call)
    if task.status is None:
        return {**describe(task), "status": "running"}
    return {**describe(task), "status": "stopped", "exitstatus": task.status}


def task_log(call: Call) -> list[dict[str, Any]]:
    """GET tasks/{upid}/log: numbered lines."""
    task = _task(call)
    lines = task.log_file.read_text(errors="replace").splitlines() if task.log_file.exists() else []
    lines = lines or ["no content"]
    first, limit = call.params.get("start", 0), call.params.get("limit", 50)
    last = first + limit if limit else len(lines)
    call.extra["total"] = len(lines)
    return [{"n": number + 1, "t": lines[number]} for number in range(first, min(last, len(lines)))]


def stop_task(call: Call) -> None:
    """DELETE tasks/{upid}: stop the worker, if it still runs."""
    task = _task(call)
    if not _is_of(task.user, call.who):
        call.demand(f"/nodes/{call.node}", "Sys.Modify")
    if task.status is None:
        task.stop()
        if not task.ended.wait(TERM_WAIT_S):
            task.stop(died=True)


def list_tasks(call: Call) -> list[dict[str, Any]]:
    """GET tasks of a node: newest first; unless asked for, only finished ones."""
    params = call.params
    source = params.get("source", "archive")
    tasks = call.cluster.tasks.active() if source in ("active", "all") else []
    tasks += call.cluster.tasks.archive() if source in ("archive", "all") else []
    sees_all = call.may(f"/nodes/{call.node}", "Sys.Audit")
    wanted = _filter(params)
    listed = [
        task for task in tasks if task.node == call.node and (sees_all or _is_of(task.user, call.who)) and wanted(task)
    ]
    first, limit = params.get("start", 0), params.get("limit", 50)
    call.extra["total"] = len(listed)
    return [_entry(task) for task in listed[first : first + limit if limit else None]]


def _entry(task: Task) -> dict[str, Any]:
    if task.status is None:
        return {**describe(task), "status": "RUNNING"}
    return {**describe(task), "endtime": task.ended_at, "status": task.status}


def _kind_of_end(task: Task) -> str:
    if task.status is None or task.status == "unexpected status":
        return "unknown"
    if task.status.startswith("WARNINGS: "):
        return "warning"
    return "ok" if task.status == "OK" else "error"


def _filter(params: dict[str, Any]) -> Callable[[Task], bool]:
    ends = split_list(params.get("statusfilter", ""))
    if params.get("errors"):
        ends = ["error", "unknown"]

    def wanted(task: Task) -> bool:
        return (
            (not ends or (task.status is not None and _kind_of_end(task) in ends))
            and params.get("typefilter") in (None, task.kind)
            and ("vmid" not in params or task.subject == str(params["vmid"]))
            and params.get("userfilter", "").lower() in task.user.lower()
            and params.get("since", 0) <= task.started_at <= params.get("until", task.started_at)
        )

    return wanted


def list_recent_tasks(call: Call) -> list[dict[str, Any]]:
    """GET cluster/tasks: the last ones of every node."""
    recent = []
    for node in call.cluster.settings.nodes:
        sees_all = call.may(f"/nodes/{node.name}", "Sys.Audit")
        tasks = [*call.cluster.tasks.active(), *call.cluster.tasks.archive()]
        of_node = [task for task in tasks if task.node == node.name][:RECENT_TASKS]
        for task in of_node:
            if sees_all or _is_of(task.user, call.who):
                ended = {"endtime": task.ended_at, "status": task.status} if task.status else {}
                recent.append({**describe(task), **ended, "saved": str(int(task.status is not None))})
    return recent
