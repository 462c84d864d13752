"""Cloning as a client of the lab's API sees it."""

from lab_api import KEYS, TEMPLATE, Lab


def test_a_clone_is_configured_started_and_known_by_its_host_key(lab: Lab) -> None:
    lab.template()
    assert lab.clone(201, "shop-web-1") == "OK"
    assert lab.start(201) == "OK"
    vm = lab.user.nodes("pve1").qemu(201)
    vm.agent.ping.post()
    assert vm.agent("file-read").get(file="/etc/ssh/ssh_host_ed25519_key.pub")["content"].startswith("ssh-ed25519 ")
    names = [nic["name"] for nic in vm.agent("network-get-interfaces").get()["result"]]
    assert names == ["lo", "eth0"]
    spec = lab.hypervisor._guests[201].spec
    assert (spec.name, spec.user, spec.addresses, spec.gateway) == (
        "shop-web-1",
        "thems",
        ("10.77.1.11/16",),
        "10.77.0.1",
    )
    assert spec.ssh_keys == tuple(KEYS.splitlines())
    assert TEMPLATE != 201
