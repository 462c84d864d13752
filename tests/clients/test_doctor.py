"""doctor against the lab's API: with exactly the documented role a machine's whole life works, and no less will do."""

import socket
import threading
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from balancer_lab import free_port
from lab_api import Lab

from thems_jobs import platform_file, resources
from thems_jobs.clients import ssh
from thems_jobs.clients.proxmox import Proxmox
from thems_jobs.core import role
from thems_jobs.core.facts import TemplateImage
from thems_jobs.core.platform import Platform
from thems_jobs.errors import EffectFailed, Refused, ThemsError
from thems_jobs.jobs.doctor import Check, examine
from thems_jobs.lab import operator_setup
from waiting import eventually

USER = "doctor@pve"
STRANGER = 150
MISSING = [(grant, privilege) for grant in role.ROLE for privilege in grant.privileges]


@dataclass
class Site:
    """A cluster that has what an administrator made for us as the documentation says, and our platform on it."""

    lab: Lab
    platform: Platform
    base: Path

    def connect(self) -> Proxmox:
        return Proxmox(self.platform.proxmox, self.platform.name, self.base, 5)

    def checks(self) -> dict[str, Check]:
        return {check.name: check for check in examine(self.platform, self.base, self.connect())}

    def wrong(self) -> dict[str, Check]:
        return {name: check for name, check in self.checks().items() if not check.ok}

    def set_role(self, grant: role.Grant, privileges: set[str]) -> None:
        self.lab.root.access.roles(grant.role).put(privs=",".join(sorted(privileges)))


@pytest.fixture
def site(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setattr(ssh, "PORT", free_port())  # this host may have an sshd of its own, on every address
    base = tmp_path / "site"
    base.mkdir()
    (base / "platform.yaml").write_bytes(resources.path("platforms", "lab.yaml").read_bytes())
    platform = platform_file.read_platform(base / "platform.yaml", {})
    (base / "ca.pem").write_bytes((lab.directory / "ca.pem").read_bytes())
    for name in ("token", "ssh_key", "ssh_key.pub"):
        (base / name).write_text("a secret")
        (base / name).chmod(0o600)
    tiers = {
        # 127.0.0.0/8 is this host's own: what answers there is known to the tests
        name: replace(tier, network=replace(tier.network, addresses=f"127.77.{number}.11-127.77.{number}.30"))
        for number, (name, tier) in enumerate(platform.tiers.items())
    }
    proxmox = replace(
        platform.proxmox,
        endpoints=(f"https://127.0.0.1:{lab.port}",),
        token_id=f"{USER}!jobs",
        nodes=("pve1", "pve2"),
        record_vmid=8000,
    )
    platform = replace(platform, proxmox=proxmox, reach=replace(platform.reach, netns=None), tiers=tiers)
    admin(lab, platform, base)
    return Site(lab, platform, base)


def admin(lab: Lab, platform: Platform, base: Path) -> None:
    """Do through the API what the documented commands do."""
    root = lab.root
    for grant in role.ROLE:
        root.access.roles.post(roleid=grant.role, privs=",".join(grant.privileges))
    root.access.users.post(userid=USER)
    for path, grant in role.granted_paths(platform):
        root.access.acl.put(path=path, roles=grant.role, users=USER)
    (base / "token").write_text(root.access.users(USER).token("jobs").post(privsep=0)["value"])
    record = {"name": f"{platform.name}-record", "pool": platform.proxmox.pool, "memory": 16}
    assert lab.ended(root.nodes("pve1").qemu.post(vmid=platform.proxmox.record_vmid, **record)) == "OK"
    assert lab.ended(root.nodes("pve2").qemu.post(vmid=STRANGER, name="mailserver", memory=16)) == "OK"


def live(site: Site, number: int) -> None:
    """Lead a template and a machine through their lives. Raise what the first call that fails raises."""
    proxmox, tier, pool = site.connect(), site.platform.tiers["web"], site.platform.proxmox.pool
    template, vmid = 200 + 2 * number, 201 + 2 * number

    def end(upid: str) -> None:
        error = eventually(lambda: task if (task := proxmox.task(upid)).ended_at else None, f"{upid} ends", 20).error
        if error:
            raise EffectFailed(upid, error)

    storage = tier.template.storage
    hardware: dict[str, str | int] = {
        "scsi0": f"{storage}:0,import-from={tier.template.image}", "ide2": f"{storage}:cloudinit", "agent": 1,
        "scsihw": "virtio-scsi-single", "serial0": "socket", "cores": 1, "memory": 256,
        "net0": f"virtio,bridge={tier.network.bridge}",
    }  # fmt: skip
    assert proxmox.pools() == {pool}
    assert proxmox.quorate()
    end(proxmox.create("pve1", template, name="t", pool=pool, description="", options=hardware))
    end(proxmox.resize("pve1", template, "scsi0", 4))
    end(proxmox.convert_to_template("pve1", template))
    image = TemplateImage("t", template, "pve1", 0)
    end(proxmox.clone(image, vmid=vmid, name="m", pool=pool, description="", target_node="pve2"))
    config = proxmox.config("pve2", vmid)
    assert config
    options = {"cores": 2, "memory": 512, "ipconfig0": "ip=10.77.1.11/16", "ciuser": "thems", "tags": "thems"}
    proxmox.configure("pve2", vmid, config.digest, {**options, "net0": hardware["net0"]})
    end(proxmox.start("pve2", vmid))
    if not eventually(lambda: proxmox.agent_read("pve2", vmid, "/etc/ssh/ssh_host_ed25519_key.pub"), "it boots", 5):
        raise AssertionError
    end(proxmox.shutdown("pve2", vmid, 5))
    end(proxmox.destroy("pve2", vmid))
    seen = proxmox.resources()
    assert seen.nodes["pve1"].memory_mib
    assert {storage.name for storage in seen.storages} >= {tier.template.storage}
    assert proxmox.volume_exists("pve1", tier.template.image or "")
    if not any(vm.vmid == STRANGER for vm in seen.vms):
        raise Refused("privilege-missing", "foreign VM", "it cannot be seen.")


def test_a_site_made_as_documented_lacks_only_its_templates(site: Site) -> None:
    wrong = site.wrong()
    assert set(wrong) == {"template shop-balancer", "template shop-web"}
    assert wrong["template shop-web"].remedy == "thems-jobs template build web"
    assert site.checks()["image of shop-web"].ok


def test_with_exactly_the_documented_privileges_a_machine_lives_and_without_any_of_them_it_does_not(site: Site) -> None:
    live(site, 0)
    for number, (grant, privilege) in enumerate(MISSING, 1):
        site.set_role(grant, set(grant.privileges) - {privilege})
        try:
            live(site, number)
        except (ThemsError, AssertionError):
            continue
        finally:
            site.set_role(grant, set(grant.privileges))
        pytest.fail(f"{privilege} of {grant.role} is documented and not needed")


def test_doctor_finds_every_privilege_that_is_left_out(site: Site) -> None:
    for path, grant in role.granted_paths(site.platform):
        for privilege in grant.privileges:
            site.set_role(grant, set(grant.privileges) - {privilege})
            found = site.wrong()[f"privileges {path}"]
            assert found.measured == f"missing: {privilege}"
            assert privilege in found.remedy
        site.set_role(grant, set(grant.privileges))
    assert not [name for name in site.wrong() if name.startswith("privileges")]


def test_what_a_cluster_lacks_is_named_with_what_to_do(site: Site) -> None:
    record = site.platform.proxmox.record_vmid
    assert site.lab.ended(site.lab.root.nodes("pve1").qemu(record).delete()) == "OK"
    assert site.lab.ended(site.lab.root.nodes("pve1").qemu.post(vmid=1100, name="mine", memory=16)) == "OK"
    proxmox = replace(site.platform.proxmox, nodes=("pve1", "pve7"))
    site = replace(site, platform=replace(site.platform, proxmox=proxmox))
    eventually(lambda: "1100 (mine" in site.wrong()["strangers"].measured, "the stranger has a name", 5)
    wrong = site.wrong()
    assert wrong[f"record {record}"].remedy.endswith(role.record_command(site.platform))
    assert wrong["node pve7"].measured == "the cluster has pve1, pve2"
    assert wrong["storage shared"].measured == "not active on pve7"


def test_a_machine_that_the_platform_file_has_no_place_for_is_a_stranger(site: Site) -> None:
    """Its tier has fewer addresses than it had when the machine was made."""
    machine = {"name": "shop-web-21", "pool": site.platform.proxmox.pool, "memory": 16, "tags": "thems;tier-web"}
    assert site.lab.ended(site.lab.root.nodes("pve1").qemu.post(vmid=1120, **machine)) == "OK"

    def named() -> bool:
        found = site.wrong().get("strangers")
        return found is not None and "1120 (shop-web-21" in found.measured

    eventually(named, "the machine is not found", 15)  # the list of all VMs knows no name of it for ten seconds


def test_an_endpoint_that_is_down_is_found_though_another_answers(site: Site) -> None:
    endpoints = ("https://127.0.0.1:1", *site.platform.proxmox.endpoints)
    site = replace(site, platform=replace(site.platform, proxmox=replace(site.platform.proxmox, endpoints=endpoints)))
    assert "refused" in site.wrong()["endpoint https://127.0.0.1:1"].measured
    assert site.checks()["quorum"].ok


def test_a_refused_token_is_a_check_that_fails_and_not_the_end_of_doctor(site: Site) -> None:
    (site.base / "token").write_text("wrong")
    wrong = site.wrong()
    assert set(wrong) == {"token"}
    assert str(site.base / "token") in wrong["token"].remedy
    (site.base / "ssh_key").chmod(0o644)
    assert "open to others" in site.wrong()["ssh ssh_key"].measured


def test_an_address_that_answers_is_found(site: Site) -> None:
    with socket.create_server(("127.77.1.12", ssh.PORT)) as listening:
        threading.Thread(target=_greet, args=(listening,), daemon=True).start()
        assert site.wrong()["addresses"].measured == "SSH answers at 127.77.1.12"


def _greet(listening: socket.socket) -> None:
    connection, _ = listening.accept()
    with connection:
        connection.sendall(b"SSH-2.0-somebody\r\n")


def test_the_lab_lets_its_platform_in_with_the_documented_roles() -> None:
    assert {name: set(held) for name, held in operator_setup.ROLES.items()} == {
        grant.role: set(grant.privileges) for grant in role.ROLE
    }
    platform = platform_file.read_platform(resources.path("platforms", "lab.yaml"), {})
    assert {path: grant.role for path, grant in role.granted_paths(platform)} == operator_setup.GRANTS


def test_the_documentation_has_every_privilege_with_its_reason_and_every_command() -> None:
    text = (Path(__file__).parents[2] / "docs" / "proxmox-role.md").read_text()
    for grant in role.ROLE:
        for privilege, why in grant.privileges.items():
            assert f"| `{grant.role}` | {grant.where} | `{privilege}` | {why} |" in text
    for command in role.commands(platform_file.read_platform(resources.path("platforms", "example.yaml"), {})):
        assert command in text
