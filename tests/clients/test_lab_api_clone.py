"""Cloning as a client of the lab's API sees it."""

import threading
import time
from pathlib import Path

import pytest
from lab_api import KEYS, TEMPLATE, Lab, running_lab
from proxmoxer import ResourceException


def test_a_clone_is_configured_started_and_known_by_its_host_key(lab: Lab) -> None:
    lab.template()
    assert lab.clone(201, "shop-web-1") == "OK"
    assert lab.start(201) == "OK"
    vm = lab.user.nodes("pve1").qemu(201)
    vm.agent.ping.post()
    assert vm.agent("file-read").get(file="/etc/ssh/ssh_host_ed25519_key.pub")["content"].startswith("ssh-ed25519 ")
    names = [nic["name"] for nic in vm.agent("network-get-interfaces").get()["result"]]
    assert names == ["lo", "eth0"]
    spec = lab.hypervisor.spec_of(201)
    assert (spec.name, spec.user, spec.addresses) == ("shop-web-1", "thems", ("10.77.1.11/16",))
    assert (spec.gateway, spec.ssh_keys) == ("10.77.0.1", tuple(KEYS.splitlines()))


def test_a_clone_has_everything_of_its_source_but_what_makes_it_one(lab: Lab) -> None:
    lab.template()
    lab.clone(201, "shop-web-1")
    source = lab.root.nodes("pve1").qemu(TEMPLATE).config.get()
    clone = lab.root.nodes("pve1").qemu(201).config.get()
    same = {key for key in source if key in clone and source[key] == clone[key]}
    assert {"tags", "description", "ciuser", "agent", "memory", "cores", "scsihw", "boot"} <= same
    assert {"net0", "smbios1", "vmgenid", "name", "scsi0", "ide2"} & same == set()
    assert "template" not in clone
    assert clone["scsi0"] == f"shared:{TEMPLATE}/base-{TEMPLATE}-disk-0.raw/201/vm-201-disk-0.qcow2,size=2G"
    assert clone["ide2"] == "shared:201/vm-201-cloudinit.qcow2,media=cdrom,size=4M"
    assert lab.ended(lab.root.nodes("pve1").qemu(TEMPLATE).clone.post(newid=202)) == "OK"
    assert lab.root.nodes("pve1").qemu(202).config.get()["name"] == "Copy-of-VM-debian-12"


def test_the_id_race_is_lost_at_once_or_in_the_task(lab: Lab) -> None:
    lab.template()
    qemu = lab.user.nodes("pve1").qemu(TEMPLATE)
    newid = lab.user.cluster.nextid.get()
    assert newid == "100"
    lab.fault("latencies", clone_s=0.6)
    upids: list[str] = []
    texts: list[str] = []

    def clone() -> None:
        try:
            upids.append(qemu.clone.post(newid=newid, pool="shop"))
        except ResourceException as error:
            texts.append(str(error))

    threads = [threading.Thread(target=clone) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ends = sorted(lab.ended(upid, lab.user) for upid in upids)
    assert ends.count("OK") == 1
    assert all("unable to create VM 100: config file already exists" in text for text in texts)
    lost = {"unable to create VM 100: config file already exists"}
    lost.add("can't lock file '/var/lock/qemu-server/lock-100.conf' - got timeout")
    assert set(ends) - {"OK"} <= lost
    with pytest.raises(ResourceException, match="500 Internal Server Error: unable to create VM 100: config file"):
        qemu.clone.post(newid=newid, pool="shop")
    assert lab.user.cluster.nextid.get() == "101"
    with pytest.raises(ResourceException) as taken:
        lab.user.cluster.nextid.get(vmid=100)
    assert taken.value.errors == {"vmid": "VM 100 already exists"}


def test_an_id_taken_on_another_node_fails_in_the_task(lab: Lab) -> None:
    lab.template()
    lab.fault("foreign-vm", vmid=777, node="pve2", pool="other")
    file = "/etc/pve/nodes/pve1/qemu-server/777.conf"
    assert lab.clone(777, "x") == f"close (rename) atomic file '{file}' failed: File exists"
    assert lab.root.nodes("pve2").qemu(777).config.get()["name"] == "foreign"


def test_a_clone_can_be_made_for_the_other_node(lab: Lab) -> None:
    lab.template()
    assert lab.clone(201, "shop-web-1", target="pve2") == "OK"
    assert lab.user.nodes("pve2").qemu(201).status.current.get()["status"] == "stopped"
    with pytest.raises(ResourceException, match=r"Configuration file 'nodes/pve1/qemu-server/201.conf' does not exist"):
        lab.user.nodes("pve1").qemu(201).config.get()
    with pytest.raises(ResourceException, match="no such cluster node 'pve9'"):
        lab.clone(202, "x", target="pve9")


def test_local_disks_bind_a_clone_to_its_node(lab: Lab) -> None:
    lab.template(9001, storage="local")
    qemu = lab.root.nodes("pve1").qemu(9001)
    with pytest.raises(ResourceException, match=r"can't clone VM to node 'pve2' \(VM uses local storage\)"):
        qemu.clone.post(newid=201, target="pve2")
    with pytest.raises(ResourceException, match="can't clone to non-shared storage 'local'"):
        qemu.clone.post(newid=201, target="pve2", full=1, storage="local")


def test_linked_and_full_clones(lab: Lab) -> None:
    lab.template()
    qemu = lab.root.nodes("pve1").qemu
    with pytest.raises(ResourceException, match="parameter 'storage' not allowed for linked clones"):
        qemu(TEMPLATE).clone.post(newid=201, storage="local")
    assert lab.ended(qemu(TEMPLATE).clone.post(newid=201, full=1, storage="local")) == "OK"
    assert qemu(201).config.get()["scsi0"].startswith("local:201/vm-201-disk-0.raw")
    with pytest.raises(ResourceException, match=r"Linked clone feature is not supported for 'local:.*' \(scsi0\)"):
        qemu(201).clone.post(newid=202, full=0)
    assert lab.ended(qemu(201).clone.post(newid=202)) == "OK"
    for wrong, text in (
        ({"pool": "nope"}, r"403 Forbidden: Permission check failed \(pool 'nope' does not exist\)"),
        ({"storage": "nope", "full": 1}, "500 Internal Server Error: storage 'nope' does not exist"),
        ({"snapname": "nope"}, "500 Internal Server Error: snapshot 'nope' does not exist"),
    ):
        with pytest.raises(ResourceException, match=text):
            qemu(TEMPLATE).clone.post(newid=203, **wrong)


def test_while_it_is_cloned_a_machine_is_locked_and_in_no_pool(lab: Lab) -> None:
    lab.template()
    lab.fault("latencies", clone_s=4)  # all that is looked at meanwhile takes a second, on a busy machine more
    upid = lab.user.nodes("pve1").qemu(TEMPLATE).clone.post(newid=201, name="new", pool="shop")
    vm = lab.root.nodes("pve1").qemu(201)
    found = lab.begun(201)
    assert found["lock"] == "clone"
    assert "pool" not in found
    with pytest.raises(ResourceException, match=r"VM is locked \(clone\)"):
        vm.config.put(cores=1)
    with pytest.raises(ResourceException, match="403 Forbidden"):
        lab.user.nodes("pve1").qemu(201).config.get()
    busy = "can't lock file '/var/lock/qemu-server/lock-9000.conf' - got timeout"
    with pytest.raises(ResourceException, match=busy):
        lab.root.nodes("pve1").qemu(TEMPLATE).config.put(description="waits for the clone")
    assert lab.ended(upid, lab.user) == "OK"
    assert lab.user.nodes("pve1").qemu(201).config.get()["name"] == "new"


def test_a_start_waits_for_the_clone_if_that_is_soon_over(tmp_path: Path, certificates: Path) -> None:
    with running_lab(tmp_path, certificates, lock_wait_s=20) as lab:
        lab.template()
        lab.fault("latencies", clone_s=3)
        qemu = lab.root.nodes("pve1").qemu
        qemu(TEMPLATE).clone.post(newid=201, pool="shop")
        assert lab.begun(201)["lock"] == "clone"
        start = qemu(201).status.start.post()
        assert lab.ended(start) == "OK"
        log = [line["t"] for line in lab.root.nodes("pve1").tasks(start).log.get()]
    assert log[0] == "trying to acquire lock..."
    assert log[-1] == "TASK OK"


def test_clones_queue_for_a_place_on_their_storage(lab: Lab) -> None:
    lab.template()
    lab.fault("latencies", clone_s=0.3, clone_slots_per_storage=2)
    qemu = lab.user.nodes("pve1").qemu(TEMPLATE)
    began = time.monotonic()
    upids = [qemu.clone.post(newid=300 + n, pool="shop") for n in range(6)]
    assert {lab.ended(upid, lab.user) for upid in upids} == {"OK"}
    assert time.monotonic() - began >= 3 * 0.3


@pytest.mark.parametrize(
    ("fault", "ends", "left"),
    [
        ({"kind": "fail", "text": "clone failed: disk on fire"}, "clone failed: disk on fire", False),
        ({"kind": "lost"}, "unexpected status", True),
        ({"kind": "slow", "seconds": 0.2}, "OK", True),
    ],
)
def test_faults_of_clones(lab: Lab, fault: dict[str, object], ends: str, left: bool) -> None:
    lab.template()
    lab.fault("clone", **fault)
    assert lab.clone(201, "x") == ends
    found = [vm for vm in lab.root.cluster.resources.get(type="vm") if vm["vmid"] == 201]
    assert bool(found) == left
    if ends == "unexpected status":
        assert found[0]["lock"] == "clone"
        with pytest.raises(ResourceException, match=r"only root|Only root|403"):
            lab.user.nodes("pve1").qemu(201).config.put(delete="lock", skiplock=1)
        lab.root.nodes("pve1").qemu(201).config.put(delete="lock", skiplock=1)
        assert "lock" not in lab.root.nodes("pve1").qemu(201).config.get()
    assert lab.clone(202, "y") == "OK"


def test_a_hanging_clone_can_be_stopped_and_leaves_nothing(lab: Lab) -> None:
    lab.template()
    lab.fault("clone", kind="hang")
    upid = lab.user.nodes("pve1").qemu(TEMPLATE).clone.post(newid=201, pool="shop")
    assert lab.begun(201)["lock"] == "clone"
    assert lab.user.nodes("pve1").tasks(upid).status.get()["status"] == "running"
    assert lab.user.nodes("pve1").tasks(upid).delete() is None
    assert lab.ended(upid, lab.user) == "clone failed: copy failed: interrupted by signal"
    with pytest.raises(ResourceException, match="does not exist"):
        lab.root.nodes("pve1").qemu(201).config.get()


def test_a_full_storage_ends_the_clone_and_frees_the_id(lab: Lab) -> None:
    lab.template()
    lab.fault("storage", storage="shared", full=True)
    assert "No space left on device" in lab.clone(201, "x")
    assert lab.user.cluster.nextid.get() == "100"
    status = lab.user.nodes("pve1").storage("shared").status.get()
    assert status["avail"] == 0
    lab.fault("storage", storage="shared", full=False)
    assert lab.clone(201, "x") == "OK"


def test_space_is_counted(lab: Lab) -> None:
    root = lab.root.nodes("pve1")
    before = root.storage("local").status.get()["used"]
    assert lab.ended(root.qemu.post(vmid=110, scsi0="local:50")) == "OK"
    assert root.storage("local").status.get()["used"] == before + 50 * 1024**3
    assert lab.root.nodes("pve2").storage("local").status.get()["used"] == before
    too_much = lab.ended(root.qemu.post(vmid=111, scsi0="local:160"))
    assert too_much.startswith("unable to create VM 111 - unable to create image: ")
    assert lab.ended(root.qemu(110).delete()) == "OK"
    assert root.storage("local").status.get()["used"] == before


def test_a_template_with_linked_clones_cannot_be_destroyed(lab: Lab) -> None:
    lab.template()
    lab.clone(201, "x")
    qemu = lab.root.nodes("pve1").qemu
    text = f"base volume 'shared:{TEMPLATE}/base-{TEMPLATE}-disk-0.raw' is still in use by linked cloned"
    assert lab.ended(qemu(TEMPLATE).delete()) == text
    assert lab.ended(qemu(201).delete()) == "OK"
    assert lab.ended(qemu(TEMPLATE).delete()) == "OK"
    assert lab.root.nodes("pve1").storage("shared").content.get() == []
