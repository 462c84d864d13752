"""Tasks as their owners and others see them."""

import re
import urllib.parse

from lab_api import TOKEN_USER, Lab, text_of


def test_the_upid_says_where_what_and_who(lab: Lab) -> None:
    lab.template()
    upid = lab.user.nodes("pve1").qemu(9000).clone.post(newid=201, pool="shop")
    hexa = "[0-9A-F]{8}"
    assert re.fullmatch(rf"UPID:pve1:{hexa}:{hexa}:{hexa}:qmclone:9000:{re.escape(TOKEN_USER)}!jobs:", upid)
    assert lab.ended(upid, lab.user) == "OK"
    status = lab.user.nodes("pve1").tasks(upid).status.get()
    assert (status["user"], status["tokenid"], status["id"], status["type"]) == (TOKEN_USER, "jobs", "9000", "qmclone")
    quoted = urllib.parse.quote(upid, safe="")
    assert lab.raw("GET", f"/nodes/pve1/tasks/{quoted}/status").json()["data"]["exitstatus"] == "OK"


def test_the_log_is_numbered_and_paged(lab: Lab) -> None:
    lab.template()
    upid = lab.user.nodes("pve1").qemu(9000).clone.post(newid=201, pool="shop")
    lab.ended(upid, lab.user)
    log = lab.user.nodes("pve1").tasks(upid).log
    lines = log.get()
    assert [line["n"] for line in lines] == list(range(1, len(lines) + 1))
    assert lines[0]["t"].startswith("create full clone of drive ide2") or "linked clone" in lines[0]["t"]
    assert lines[-1]["t"] == "TASK OK"
    assert log.get(start=1, limit=1) == [lines[1]]
    assert log.get(start=99) == []
    answer = lab.raw("GET", f"/nodes/pve1/tasks/{upid}/log?limit=1").json()
    assert answer["total"] == len(lines)


def test_what_is_no_task(lab: Lab) -> None:
    gone = f"UPID:pve1:00000001:00000001:00000001:qmstart:100:{TOKEN_USER}!jobs:"
    assert text_of(lab.raw("GET", f"/nodes/pve1/tasks/{gone}/status"))[2] == {"upid": "no such task"}
    assert text_of(lab.raw("GET", "/nodes/pve1/tasks/nonsense/status"))[2] == {"upid": "unable to parse worker upid"}


def test_a_token_sees_its_own_tasks_only(lab: Lab) -> None:
    lab.template()
    upid = lab.root.nodes("pve1").qemu(9000).clone.post(newid=200)
    lab.ended(upid)
    refused = lab.raw("GET", f"/nodes/pve1/tasks/{upid}/status")
    assert text_of(refused)[:2] == (403, "Permission check failed (/nodes/pve1, Sys.Audit)")
    assert lab.user.nodes("pve1").tasks.get() == []
    lab.clone(201, "x")
    assert [task["type"] for task in lab.user.nodes("pve1").tasks.get()] == ["qmclone"]
    assert lab.user.cluster.tasks.get()[0]["tokenid"] == "jobs"
    lab.root.access.acl.put(path="/nodes", roles="PVEAuditor", tokens=f"{TOKEN_USER}!jobs", users=TOKEN_USER)
    assert len(lab.user.nodes("pve1").tasks.get()) == 4
    assert lab.user.nodes("pve2").tasks.get() == []


def test_lists_are_filtered(lab: Lab) -> None:
    lab.template()
    lab.fault("clone", kind="fail", text="clone failed: x")
    lab.clone(201, "x")
    lab.clone(201, "x")
    lab.fault("clone", kind="hang")
    running = lab.user.nodes("pve1").qemu(9000).clone.post(newid=202, pool="shop")
    tasks = lab.root.nodes("pve1").tasks
    assert [task["status"] for task in tasks.get(typefilter="qmclone")] == ["OK", "clone failed: x"]
    assert [task["status"] for task in tasks.get(errors=1)] == ["clone failed: x"]
    assert {task["status"] for task in tasks.get(statusfilter="ok")} == {"OK"}
    assert [task["upid"] for task in tasks.get(source="active")] == [running]
    assert tasks.get(source="all")[0]["upid"] == running
    assert "endtime" not in tasks.get(source="active")[0]
    assert tasks.get(vmid=201) == []  # the id of a clone's task is that of the template
    assert len(tasks.get(limit=1)) == 1
    assert tasks.get(since=2**31) == []
    lab.root.nodes("pve1").tasks(running).delete()
