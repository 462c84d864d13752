"""Changing configs: compare-and-swap, pending values, tags, drives, destroying."""

import threading

import pytest
from lab_api import Lab
from proxmoxer import ResourceException

from waiting import eventually


def test_of_many_writers_with_one_digest_exactly_one_wins(lab: Lab) -> None:
    lab.fault("foreign-vm", vmid=500, name="record", pool="shop")
    lock = threading.Barrier(8)
    vm = lab.user.nodes("pve1").qemu(500)
    for round_number in range(5):
        digest = vm.config.get()["digest"]
        won: list[str] = []
        lost: list[str] = []

        def write(text: str, digest: str = digest, won: list[str] = won, lost: list[str] = lost) -> None:
            lock.wait()
            form = {"description": text, "digest": digest}
            answer = lab.raw("PUT", "/nodes/pve1/qemu/500/config", data=form)
            (won if answer.status_code == 200 else lost).append(text if answer.ok else answer.reason)

        writers = [threading.Thread(target=write, args=(f"{round_number}-{n}",)) for n in range(8)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        assert len(won) == 1
        assert set(lost) == {"checksum mismatch (file change by other user?)"}
        assert vm.config.get()["description"] == won[0]


def test_a_put_of_nothing_and_a_description_of_the_greatest_length(lab: Lab) -> None:
    lab.fault("foreign-vm", vmid=500, pool="shop")
    vm = lab.user.nodes("pve1").qemu(500)
    with pytest.raises(ResourceException, match="500 Internal Server Error: no options specified"):
        vm.config.put()
    longest = "ä\n" * 4096
    assert vm.config.put(description=longest) is None
    assert vm.config.get()["description"] == longest


def test_tags_are_kept_in_one_form(lab: Lab) -> None:
    lab.fault("foreign-vm", vmid=500, pool="shop")
    vm = lab.user.nodes("pve1").qemu(500)
    assert "tags" not in vm.config.get()
    vm.config.put(tags="B,a A;b c")
    assert vm.config.get()["tags"] == "a;b;c"
    vm.config.put(tags="")
    assert vm.config.get()["tags"] == " "
    vm.config.put(delete="tags")
    assert "tags" not in vm.config.get()


def test_deleting_options(lab: Lab) -> None:
    lab.fault("foreign-vm", vmid=500, pool="shop")
    vm = lab.user.nodes("pve1").qemu(500)
    with pytest.raises(ResourceException) as unknown:
        vm.config.put(delete="nonsense")
    assert unknown.value.errors == {"delete": "unknown option 'nonsense'"}
    with pytest.raises(ResourceException, match="400 Bad Request"):
        vm.config.put(delete="cores", cores=1)
    assert vm.config.put(delete="onboot") is None


def test_a_running_machine_keeps_its_cores_until_it_is_started_anew(lab: Lab) -> None:
    lab.template()
    lab.clone(201, "x")
    lab.start(201)
    vm = lab.root.nodes("pve1").qemu(201)
    vm.config.put(cores=4, tags="new", delete="scsihw")
    assert vm.config.get()["cores"] == 4
    assert vm.config.get(current=1)["cores"] == 2
    assert vm.config.get(current=1)["tags"] == "new"
    pending = {entry["key"]: entry for entry in vm.pending.get()}
    assert pending["cores"] == {"key": "cores", "value": 2, "pending": 4}
    assert pending["scsihw"]["delete"] == 1
    assert vm.status.current.get()["cpus"] == 2
    vm.config.put(revert="scsihw")
    assert lab.ended(vm.status.stop.post()) == "OK"
    eventually(lambda: lab.ended(vm.status.start.post()) == "OK", "not started again", 10)
    assert vm.config.get(current=1)["cores"] == 4
    assert "scsihw" in vm.config.get()
    assert lab.hypervisor.spec_of(201).cores == 4


def test_types_of_values_are_mixed(lab: Lab) -> None:
    lab.template()
    config = lab.root.nodes("pve1").qemu(9000).config.get()
    assert (config["memory"], config["cores"], config["agent"], config["template"]) == ("2048", 2, "1", 1)


def test_a_config_lock_stands_in_the_way_of_changes(lab: Lab) -> None:
    lab.template()
    lab.clone(201, "x")
    lab.fault("lock", vm="x", lock="backup")
    vm = lab.root.nodes("pve1").qemu(201)
    for change in (lambda: vm.config.put(cores=1), lambda: vm.clone.post(newid=300)):
        with pytest.raises(ResourceException, match=r"500 Internal Server Error: VM is locked \(backup\)"):
            change()
    assert lab.ended(vm.status.start.post()) == "VM is locked (backup)"
    assert lab.ended(vm.delete()) == "VM is locked (backup)"
    with pytest.raises(ResourceException, match="Only root may use this option"):
        lab.user.nodes("pve1").qemu(201).config.put(cores=1, skiplock=1)
    vm.config.put(delete="lock", skiplock=1)
    assert vm.config.put(cores=1) is None


def test_the_lock_of_the_file_makes_changes_wait_and_fail(lab: Lab) -> None:
    lab.template()
    lab.clone(201, "x")
    vm = lab.user.nodes("pve1").qemu(201)
    lab.fault("flock", vm=201, seconds=2)
    text = "can't lock file '/var/lock/qemu-server/lock-201.conf' - got timeout"
    with pytest.raises(ResourceException, match=text):
        vm.config.put(cores=1)
    assert lab.ended(vm.status.start.post(), lab.user) == text
    eventually(lambda: lab.raw("PUT", "/nodes/pve1/qemu/201/config", data={"cores": 1}).ok, "stays locked", 5)


def test_drives_come_and_go(lab: Lab) -> None:
    qemu = lab.root.nodes("pve1").qemu
    assert lab.ended(qemu.post(vmid=110, scsi0="local:4,format=qcow2", ide2="local:cloudinit")) == "OK"
    vm = qemu(110)
    assert vm.config.get()["scsi0"] == "local:110/vm-110-disk-0.qcow2,size=4G"
    with pytest.raises(ResourceException, match="scsi1 - cloud-init drive is already attached at 'ide2'"):
        vm.config.put(scsi1="local:cloudinit")
    assert lab.ended(vm.resize.put(disk="scsi0", size="+1G")) == "OK"
    assert "size=5G" in vm.config.get()["scsi0"]
    assert lab.ended(vm.resize.put(disk="scsi0", size="1G")) == "shrinking disks is not supported"
    vm.config.put(delete="scsi0,ide2")
    config = vm.config.get()
    assert config["unused0"] == "local:110/vm-110-disk-0.qcow2"
    assert {"scsi0", "ide2"} & set(config) == set()
    assert lab.ended(vm.config.post(delete="unused0")) == "OK"
    assert lab.root.nodes("pve1").storage("local").content.get(content="images") == []


def test_creating_with_a_taken_id_and_on_what_is_not_there(lab: Lab) -> None:
    qemu = lab.root.nodes("pve1").qemu
    lab.fault("foreign-vm", vmid=110, node="pve2")
    with pytest.raises(ResourceException, match="unable to create VM 110 - VM 110 already exists on node 'pve2'"):
        qemu.post(vmid=110)
    with pytest.raises(ResourceException, match="storage 'nope' does not exist"):
        qemu.post(vmid=111, scsi0="nope:1")
    missing = "unable to create VM 111 - volume 'local:import/none.qcow2' does not exist"
    assert lab.ended(qemu.post(vmid=111, scsi0="shared:0,import-from=local:import/none.qcow2")) == missing
    assert lab.ended(qemu.post(vmid=111)) == "OK"


def test_destroying(lab: Lab) -> None:
    lab.template()
    lab.clone(201, "x")
    vm = lab.user.nodes("pve1").qemu(201)
    vm.config.put(protection=1)
    with pytest.raises(ResourceException, match="can't remove VM 201 - protection mode enabled"):
        vm.delete()
    vm.config.put(protection=0)
    lab.start(201)
    with pytest.raises(ResourceException, match="500 Internal Server Error: VM 201 is running - destroy failed"):
        vm.delete()
    lab.ended(vm.status.stop.post(), lab.user)
    first, second = (lab.root.nodes("pve1").qemu(201).delete() for _ in range(2))
    gone = "Configuration file 'nodes/pve1/qemu-server/201.conf' does not exist"
    assert sorted([lab.ended(first), lab.ended(second)]) == sorted(["OK", gone])
    with pytest.raises(ResourceException, match=gone):
        lab.root.nodes("pve1").qemu(201).delete()
    assert 201 not in [entry["vmid"] for entry in lab.root.cluster.resources.get(type="vm")]
    assert [m["vmid"] for m in lab.user.pools("shop").get()["members"]] == []


def test_cloud_init_texts(lab: Lab) -> None:
    lab.template()
    lab.clone(201, "shop-web-1")
    vm = lab.user.nodes("pve1").qemu(201)
    vm.config.put(ipconfig0="ip=10.77.1.11/16,gw=10.77.0.1", cipassword="secret")
    assert vm.config.get()["cipassword"] == "**********"
    assert "hostname: shop-web-1" in vm.cloudinit.dump.get(type="user")
    assert "address: '10.77.1.11/16'" in vm.cloudinit.dump.get(type="network")
    assert vm.cloudinit.put() is None
    assert {"key": "ciuser", "value": "thems"} in vm.cloudinit.get()


def test_the_hypervisor_gets_another_instance_when_name_or_address_change(lab: Lab) -> None:
    lab.template()
    seen = []
    for newid, address in ((201, "10.77.1.11/16"), (202, "10.77.1.12/16")):
        lab.clone(newid, f"web-{newid}")
        lab.start(newid, address)
        seen.append(lab.hypervisor.spec_of(newid).instance_id)
    assert len(set(seen)) == 2
