"""Power, guest agent, migration."""

from pathlib import Path

import pytest
from lab_api import Lab, running_lab, text_of
from proxmoxer import ResourceException

from waiting import eventually


@pytest.fixture
def web(lab: Lab) -> Lab:
    lab.template()
    assert lab.clone(201, "shop-web-1") == "OK"
    return lab


def test_on_and_off(web: Lab) -> None:
    vm = web.user.nodes("pve1").qemu(201)
    assert web.start(201) == "OK"
    status = vm.status.current.get()
    assert (status["status"], status["qmpstatus"], status["agent"]) == ("running", "running", 1)
    assert web.ended(vm.status.start.post(), web.user) == "VM 201 already running"
    assert web.ended(vm.status.shutdown.post(), web.user) == "OK"
    assert vm.status.current.get()["status"] == "stopped"
    assert web.ended(vm.status.shutdown.post(), web.user) == "OK"
    assert web.ended(vm.status.stop.post(), web.user) == "OK"
    for action in ("reset", "reboot"):
        with pytest.raises(ResourceException, match="500 Internal Server Error: VM 201 not running"):
            vm.status(action).post()


def test_starting_what_is_not_there_and_a_template(web: Lab) -> None:
    qemu = web.root.nodes("pve1").qemu
    gone = "Configuration file 'nodes/pve1/qemu-server/999.conf' does not exist"
    assert web.ended(qemu(999).status.start.post()) == gone
    assert web.ended(qemu(999).status.stop.post()) == "unable to find configuration file for VM 999 on node 'pve1'"
    assert web.ended(qemu(9000).status.start.post()) == "you can't start a vm if it's a template"
    with pytest.raises(ResourceException, match="you can't convert a template to a template"):
        qemu(9000).template.post()
    web.start(201)
    with pytest.raises(ResourceException, match="you can't convert a VM to template if VM is running"):
        qemu(201).template.post()


def test_hardware_that_is_not_there_is_noticed_at_the_start(web: Lab) -> None:
    vm = web.root.nodes("pve1").qemu(201)
    vm.config.put(memory=65 * 1024)
    assert web.ended(vm.status.start.post()) == "start failed: QEMU exited with code 1"
    vm.config.put(memory=512, net0="virtio,bridge=vmbr9")
    assert web.ended(vm.status.start.post()) == "bridge 'vmbr9' does not exist"


def test_a_guest_that_does_not_listen_is_stopped_only_by_force(web: Lab) -> None:
    web.start(201)
    web.fault("freeze", vm="shop-web-1", frozen=True)
    vm = web.user.nodes("pve1").qemu(201)
    assert web.ended(vm.status.shutdown.post(timeout=0), web.user) == "VM quit/powerdown failed - got timeout"
    assert vm.status.current.get()["status"] == "running"
    assert web.ended(vm.status.shutdown.post(timeout=0, forceStop=1), web.user) == "OK"
    assert vm.status.current.get()["status"] == "stopped"


def test_a_stop_overrules_a_shutdown_only_when_told_so(web: Lab) -> None:
    web.start(201)
    web.fault("freeze", vm=201, frozen=True)
    vm = web.user.nodes("pve1").qemu(201)
    shutdown = vm.status.shutdown.post(timeout=60)
    busy = "can't lock file '/var/lock/qemu-server/lock-201.conf' - got timeout"
    eventually(lambda: web.root.nodes("pve1").tasks(shutdown).status.get()["status"] == "running", "ended", 5)
    assert web.ended(vm.status.stop.post(), web.user) == busy
    assert web.ended(vm.status.stop.post(**{"overrule-shutdown": 1}), web.user) == "OK"
    assert web.ended(shutdown, web.user) == "received interrupt"


def test_a_reboot_applies_what_was_pending(web: Lab) -> None:
    web.start(201)
    vm = web.user.nodes("pve1").qemu(201)
    vm.config.put(cores=3)
    assert web.ended(vm.status.reset.post(), web.user) == "OK"
    assert vm.status.current.get()["cpus"] == 2
    assert web.ended(vm.status.reboot.post(), web.user) == "OK"
    eventually(lambda: vm.status.current.get()["cpus"] == 3, "not applied", 5)
    eventually(lambda: vm.status.current.get()["status"] == "running", "not up again", 5)


def test_a_start_right_after_a_stop_pays_for_it(tmp_path: Path, certificates: Path) -> None:
    with running_lab(tmp_path, certificates, cleanup_delay_s=1.0, cleanup_hold_s=2.0) as lab:
        lab.template()
        lab.clone(201, "x")
        lab.start(201)
        vm = lab.user.nodes("pve1").qemu(201)
        assert lab.ended(vm.status.stop.post(), lab.user) == "OK"
        assert lab.ended(vm.status.start.post(), lab.user) == "OK"

        def answer() -> str:
            return lab.raw("PUT", "/nodes/pve1/qemu/201/config", data={"cores": 1}).reason

        busy = "can't lock file '/var/lock/qemu-server/lock-201.conf' - got timeout"
        eventually(lambda: answer() == busy, "the cleanup never held the lock", 5)
        eventually(lambda: answer() == "OK", "the cleanup never ended", 5)


def test_slow_and_endless_boots(web: Lab) -> None:
    vm = web.user.nodes("pve1").qemu(201)
    web.fault("latencies", boot_s=3)
    assert web.start(201) == "OK"
    assert vm.status.current.get()["status"] == "running"
    with pytest.raises(ResourceException, match="QEMU guest agent is not running"):
        vm.agent.ping.post()
    eventually(lambda: web.raw("POST", "/nodes/pve1/qemu/201/agent/ping").ok, "never answers", 10)
    web.ended(vm.status.stop.post(), web.user)
    web.fault("boot", vm="shop-web-1", never=True)
    web.fault("latencies", boot_s=0)
    eventually(lambda: web.ended(vm.status.start.post(), web.user) == "OK", "not started", 5)
    assert vm.status.current.get()["status"] == "running"
    assert not web.hypervisor.running(201)
    assert web.ended(vm.status.shutdown.post(timeout=0), web.user).endswith("got timeout")


def test_what_speaks_against_the_agent_is_said_in_order(web: Lab) -> None:
    vm = web.root.nodes("pve1").qemu(201)
    vm.config.put(delete="agent")
    with pytest.raises(ResourceException, match="500 Internal Server Error: No QEMU guest agent configured"):
        vm.agent.ping.post()
    vm.config.put(agent=0)
    with pytest.raises(ResourceException, match="500 Internal Server Error: VM 201 is not running"):
        vm.agent.ping.post()
    web.start(201)
    vm.config.put(agent=1)  # needs a cold start
    with pytest.raises(ResourceException, match="500 Internal Server Error: QEMU guest agent is not running"):
        vm.agent.ping.post()


def test_the_agent_runs_programs_and_files(web: Lab) -> None:
    web.start(201)
    agent = web.user.nodes("pve1").qemu(201).agent
    assert agent.ping.post() == {"result": {}}
    assert agent("get-host-name").get() == {"result": {"host-name": "shop-web-1"}}
    pid = agent.exec.post(command=["cat"], **{"input-data": "hello"})["pid"]
    assert agent("exec-status").get(pid=pid) == {"exited": 1, "exitcode": 0, "out-data": "hello"}
    with pytest.raises(ResourceException, match="500 Internal Server Error: Agent error: Invalid parameter 'pid'"):
        agent("exec-status").get(pid=pid)
    assert agent("file-write").post(file="/etc/x", content="grüße") is None
    assert agent("file-read").get(file="/etc/x") == {"content": "grüße", "bytes-read": 7}
    assert agent("file-read").get(file="/etc/x", count=3) == {
        "content": "grü"[:2] + "\ufffd",
        "bytes-read": 3,
        "truncated": 1,
    }
    with pytest.raises(ResourceException, match="Agent error: failed to open file '/etc/none'"):
        agent("file-read").get(file="/etc/none")
    long = web.raw("POST", "/nodes/pve1/qemu/201/agent/file-write", data={"file": "/x", "content": "x" * 61441})
    assert text_of(long)[2] == {"content": "value may only be 61440 characters long"}


def test_a_missing_program_breaks_the_pipe(web: Lab) -> None:
    web.start(201)
    answer = web.raw("POST", "/nodes/pve1/qemu/201/agent/exec", data={"command": "uname -a"})
    assert (answer.status_code, answer.reason, answer.content) == (596, "Broken pipe", b"")


def test_a_silent_agent(web: Lab) -> None:
    web.start(201)
    web.fault("agent", vm=201, silent=True)
    with pytest.raises(ResourceException, match="QEMU guest agent is not running"):
        web.user.nodes("pve1").qemu(201).agent.ping.post()
    web.fault("agent", vm=201, silent=False)
    assert web.user.nodes("pve1").qemu(201).agent.ping.post()


def test_migration(web: Lab) -> None:
    vm = web.user.nodes("pve1").qemu(201)
    with pytest.raises(ResourceException) as local:
        vm.migrate.post(target="pve1")
    assert local.value.errors == {"target": "target is local node."}
    web.start(201)
    with pytest.raises(ResourceException, match="can't migrate running VM without --online"):
        vm.migrate.post(target="pve2")
    assert vm.migrate.get()["allowed_nodes"] == ["pve2"]
    assert web.ended(vm.migrate.post(target="pve2", online=1), web.user) == "OK"
    moved = web.user.nodes("pve2").qemu(201)
    assert moved.status.current.get()["status"] == "running"
    with pytest.raises(ResourceException, match="does not exist"):
        vm.config.get()
