"""Restarts, faults of nodes and answers, counters, certificates, storages and pools."""

import datetime
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from lab_api import Lab, make_certificates, running_lab, text_of
from proxmoxer import ResourceException

from waiting import eventually


def test_state_survives_a_restart_and_running_tasks_do_not(tmp_path: Path, certificates: Path) -> None:
    with running_lab(tmp_path, certificates) as first:
        first.template()
        first.clone(201, "shop-web-1")
        first.start(201)
        config = first.user.nodes("pve1").qemu(201).config.get()
        ended = first.user.nodes("pve1").tasks.get()
        first.fault("clone", kind="hang")
        hanging = first.user.nodes("pve1").qemu(9000).clone.post(newid=202, pool="shop")
        assert first.begun(202)["lock"] == "clone"
    with running_lab(tmp_path, certificates, first.hypervisor) as second:
        vm = second.user.nodes("pve1").qemu(201)
        assert vm.config.get() == config
        assert vm.status.current.get()["status"] == "running"
        tasks = second.user.nodes("pve1").tasks
        assert tasks(hanging).status.get()["exitstatus"] == "unexpected status"
        assert [task for task in tasks.get() if task["upid"] != hanging] == ended
        assert second.root.nodes("pve1").qemu(202).config.get()["lock"] == "clone"
        assert [m["vmid"] for m in second.user.pools("shop").get()["members"]] == [201]
        assert second.clone(203, "new") == "OK"


def test_lists_lag_behind(tmp_path: Path, certificates: Path) -> None:
    with running_lab(tmp_path, certificates, stats_period_s=1.0) as lab:
        lab.template()
        lab.clone(201, "shop-web-1")

        def entry() -> dict[str, object]:
            return next(vm for vm in lab.user.cluster.resources.get(type="vm") if vm["vmid"] == 201)

        fresh = entry()
        assert fresh["status"] == "unknown" or fresh["name"] == "shop-web-1"
        assert fresh["pool"] == "shop"
        assert fresh["tags"] == "a;b;c"
        eventually(lambda: entry()["status"] == "stopped", "no round", 5)
        assert entry()["name"] == "shop-web-1"
        lab.start(201)
        assert lab.user.nodes("pve1").qemu(201).status.current.get()["status"] == "running"
        eventually(lambda: entry()["status"] == "running", "no round", 5)


def test_an_answer_lost_after_the_effect_and_before_it(lab: Lab) -> None:
    lab.fault("foreign-vm", vmid=500, pool="shop")
    lab.fault("answer", path="/config$", method="PUT", status=596, text="Broken pipe", executed=True)
    lab.fault("answer", path="/config$", method="PUT", status=595, text="Connection refused", executed=False)
    path = "/nodes/pve1/qemu/500/config"
    first = lab.raw("PUT", path, data={"description": "written"})
    assert (first.status_code, first.reason, first.content) == (596, "Broken pipe", b"")
    second = lab.raw("PUT", path, data={"description": "not written"})
    assert (second.status_code, second.reason) == (595, "Connection refused")
    assert lab.user.nodes("pve1").qemu(500).config.get()["description"] == "written"
    lab.fault("answer", path="/config$", status=0, delay_s=0.3)
    assert lab.raw("GET", path).elapsed.total_seconds() >= 0.3


def test_a_node_without_power(lab: Lab) -> None:
    lab.template()
    lab.clone(201, "a")
    lab.clone(202, "b", target="pve2")
    lab.start(201)
    assert lab.ended(lab.root.nodes("pve2").qemu(202).status.start.post()) == "OK"
    lab.fault("node", node="pve2", offline=True)
    answer = lab.raw("GET", "/nodes/pve2/qemu/202/config")
    assert (answer.status_code, answer.reason) == (595, "No route to host")
    assert {node["node"]: node["status"] for node in lab.user.nodes.get()} == {"pve1": "online", "pve2": "offline"}
    states = {vm["vmid"]: vm["status"] for vm in lab.user.cluster.resources.get(type="vm")}
    assert states[202] == "unknown"
    assert lab.user.nodes("pve1").qemu(201).status.current.get()["status"] == "running"
    lab.fault("node", node="pve2", offline=False)
    assert lab.root.nodes("pve2").qemu(202).status.current.get()["status"] == "stopped"


def test_without_quorum_nothing_is_written(lab: Lab) -> None:
    lab.template()
    lab.fault("quorum", lost=True)
    assert lab.root.cluster.status.get()[0]["quorate"] == 0
    with pytest.raises(ResourceException, match=r"cluster not ready - no quorum\?"):
        lab.clone(201, "x")
    assert lab.user.nodes("pve1").qemu.get()
    lab.fault("clear")
    assert lab.clone(201, "x") == "OK"


def test_the_api_can_be_slow_and_mistakes_are_told(lab: Lab) -> None:
    lab.template()
    assert lab.fault("latencies", api_s=0.2)["latencies"]["api_s"] == 0.2
    assert lab.raw("GET", "/version").elapsed.total_seconds() >= 0.2
    with pytest.raises(ValueError, match="expected one of clone_s"):
        lab.fault("latencies", sleep_s=1)
    with pytest.raises(ValueError, match="do: expected one of agent, answer, boot"):
        lab.fault("nonsense")


def test_a_daemon_busy_with_slow_calls_lets_others_wait_too_long(tmp_path: Path, certificates: Path) -> None:
    with running_lab(tmp_path, certificates, daemon_workers=1, agent_wait_s=2, proxy_wait_s=0.2) as lab:
        lab.template()
        lab.clone(201, "x")
        lab.fault("agent", vm="x", silent=True)
        lab.start(201)
        path = "/nodes/pve1/qemu/201/agent/ping"
        with ThreadPoolExecutor() as clients:
            answers = [f.result() for f in [clients.submit(lab.raw, "POST", path) for _ in range(2)]]
        texts = sorted((answer.status_code, answer.reason) for answer in answers)
        assert texts == [(500, "QEMU guest agent is not running"), (596, "Connection timed out")]


def test_a_storage_locked_for_too_long_ends_the_clone(lab: Lab) -> None:
    assert lab.fault("storage-lock", storage="shared", seconds=4)["held"]
    assert lab.clone(201, "x") == "clone failed: cfs-lock 'storage-shared' error: got lock request timeout"
    eventually(lambda: lab.clone(201, "x") == "OK", "the lock stays", 20)


def test_requests_are_counted(lab: Lab) -> None:
    lab.fault("requests", reset=True)
    lab.user.version.get()
    lab.user.version.get()
    lab.raw("GET", "/nodes/pve1/qemu/4711/config")
    counts = lab.fault("requests")
    assert counts == {"total": 3, "requests": {"GET /version": 2, "GET /nodes/{node}/qemu/{vmid}/config": 1}}


def expired(directory: Path) -> bytes:
    """The certificate of the API as it would be two days after its end."""
    old = x509.load_pem_x509_certificate((directory / "api.pem").read_bytes())
    key = serialization.load_pem_private_key((directory / "ca.key").read_bytes(), None)
    now = datetime.datetime.now(datetime.UTC)
    new = x509.CertificateBuilder(old.issuer, old.subject, old.public_key(), old.serial_number)
    new = new.not_valid_before(now - datetime.timedelta(days=9)).not_valid_after(now - datetime.timedelta(days=2))
    for extension in old.extensions:
        new = new.add_extension(extension.value, extension.critical)
    return new.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def test_the_certificate_is_checked_and_can_expire(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)
    with running_lab(tmp_path, certificates) as lab:
        assert lab.raw("GET", "/version").ok
        with pytest.raises(requests.exceptions.SSLError):
            requests.get(f"https://127.0.0.1:{lab.port}/api2/json/version", timeout=5)
        (tmp_path / "api.pem").write_bytes(expired(tmp_path))
        lab.fault("certificate")
        with pytest.raises(requests.exceptions.SSLError, match="certificate has expired"):
            lab.raw("GET", "/version")


def test_storages(lab: Lab) -> None:
    found = {(e["node"], e["storage"]): e for e in lab.root.cluster.resources.get(type="storage")}
    assert set(found) == {(n, s) for n in ("pve1", "pve2") for s in ("local", "shared")}
    assert found["pve1", "shared"]["shared"] == 1
    images = lab.root.nodes("pve2").storage("local").content.get(content="import")
    assert [image["volid"] for image in images] == ["local:import/debian-12.qcow2"]
    status = lab.root.nodes("pve1").storage("shared").status.get()
    assert status["total"] == status["used"] + status["avail"]
    assert [s["storage"] for s in lab.root.storage.get(type="nfs")] == ["shared"]
    with pytest.raises(ResourceException, match="storage 'nope' does not exist"):
        lab.root.nodes("pve1").storage("nope").status.get()


def test_pools(lab: Lab) -> None:
    root = lab.root
    lab.fault("foreign-vm", vmid=503, pool="other")
    with pytest.raises(ResourceException, match="create pool failed: pool 'shop' already exists"):
        root.pools.post(poolid="shop")
    with pytest.raises(ResourceException, match="update pools failed: VM 503 is already a pool member"):
        root.pools.put(poolid="other", vms="503")
    with pytest.raises(ResourceException, match="update pools failed: VM 503 belongs to pool 'other'"):
        root.pools("shop").put(vms="503")
    root.pools("shop").put(**{"vms": "503", "allow-move": 1})
    assert root.pools.get(poolid="shop")[0]["members"][0]["vmid"] == 503
    with pytest.raises(ResourceException, match=r"pool 'shop' is not empty \(contains VM 503\)"):
        root.pools.delete(poolid="shop")
    root.pools.put(poolid="shop", vms="503", delete=1)
    assert root.pools.delete(poolid="shop") is None
    refused = lab.raw("PUT", "/pools/other", data={"vms": "503"})
    assert text_of(refused)[:2] == (403, "Permission check failed (/pool/other, Pool.Allocate)")
