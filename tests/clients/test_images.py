"""Finding templates on the lab's API: the newest of ours, at once, and nobody else's."""

from dataclasses import replace
from pathlib import Path

import pytest
from lab_api import TOKEN_USER, Lab

from thems_jobs import platform_file, resources, runner
from thems_jobs.clients.ansible import Ansible
from thems_jobs.clients.balancer import Balancers
from thems_jobs.clients.proxmox import Proxmox
from thems_jobs.clients.ssh import Ssh
from thems_jobs.clients.web_check import WebCheck
from thems_jobs.clock import SystemClock
from thems_jobs.core.facts import ImageStamp, Making
from thems_jobs.core.image import write_image_stamp
from thems_jobs.core.job import Look
from thems_jobs.core.outcome import Exit, Outcome
from thems_jobs.core.platform import Platform
from thems_jobs.errors import IdentityMismatch
from thems_jobs.jobs import template_build
from thems_jobs.jobs.clients import Clients
from thems_jobs.jobs.images import find_images, newest_template

NAME = "shop-web"


def look(lab: Lab, tmp_path: Path) -> tuple[Platform, Proxmox]:
    (tmp_path / "platform.yaml").write_bytes(resources.path("platforms", "lab.yaml").read_bytes())
    platform = platform_file.read_platform(tmp_path / "platform.yaml", {})
    lab.root.access.acl.put(path="/", roles="PVEAuditor", users=TOKEN_USER, tokens=f"{TOKEN_USER}!jobs")
    (lab.directory / "token").chmod(0o600)
    settings = replace(
        platform.proxmox, endpoints=(f"https://127.0.0.1:{lab.port}",), token_file=str(lab.directory / "token"),
        ca_file=lab.ca, record_vmid=9999,
    )  # fmt: skip
    return replace(platform, proxmox=settings), Proxmox(settings, platform.name, tmp_path, 5)


def make(lab: Lab, vmid: int, built_at: float, *, template: bool = True, **changes: object) -> None:
    """Make a VM with the stamp of a template, as root."""
    stamp = ImageStamp("shop", NAME, vmid, "web", Making.SEALED, "roles", built_at)
    values = {
        "name": NAME, "pool": "shop", "memory": 16, "description": write_image_stamp(stamp), "tags": "thems-template",
        "scsi0": "shared:0,import-from=local:import/debian-12.qcow2", **changes,
    }  # fmt: skip
    assert lab.ended(lab.root.nodes("pve1").qemu.post(vmid=vmid, **values)) == "OK"
    if template:
        assert lab.ended(lab.root.nodes("pve1").qemu(vmid).template.post()) == "OK"


def test_the_newest_template_is_cloned_though_the_list_of_all_vms_lags(lab: Lab, tmp_path: Path) -> None:
    platform, proxmox = look(lab, tmp_path)
    make(lab, 9011, 100.0)
    make(lab, 1199, 300.0)
    make(lab, 1198, 200.0)
    make(lab, 1197, 400.0, template=False)
    newest = newest_template(platform, "web", proxmox.resources(), proxmox)
    assert newest
    assert (newest.vmid, newest.built_at, newest.roles) == (1199, 300.0, "roles")
    building = [found.row.vmid for found in find_images(platform, "web", proxmox.resources(), proxmox)]
    assert sorted(building) == [1197, 1198, 1199, 9011]


def test_a_copy_a_namesake_and_a_template_in_another_pool_are_not_cloned(lab: Lab, tmp_path: Path) -> None:
    platform, proxmox = look(lab, tmp_path)
    lab.root.pools.post(poolid="other")
    copied = write_image_stamp(ImageStamp("shop", NAME, 9011, "web", Making.SEALED, "roles", 900.0))
    make(lab, 1199, 0.0, description=copied)
    make(lab, 1198, 900.0, description="mine")
    make(lab, 1197, 900.0, pool="other")
    assert newest_template(platform, "web", proxmox.resources(), proxmox) is None


def test_a_template_made_by_other_means_is_cloned_if_it_has_the_declared_name_and_id(lab: Lab, tmp_path: Path) -> None:
    platform, proxmox = look(lab, tmp_path)
    make(lab, 9011, 0.0, description="made by hand")
    make(lab, 9010, 0.0, name="somebody-elses")
    newest = newest_template(platform, "web", proxmox.resources(), proxmox)
    assert newest
    assert (newest.vmid, newest.roles) == (9011, "")
    assert newest.built_at > 0
    assert newest_template(platform, "balancer", proxmox.resources(), proxmox) is None


# Old ones


def build(platform: Platform, proxmox: Proxmox, tmp_path: Path) -> Outcome:
    """Ask for a template where a fresh one is there: what is left to do is to remove old ones."""
    clock, ssh = SystemClock(), Ssh("nobody", tmp_path / "no-key", tmp_path)
    roles = dict.fromkeys(platform.tiers, "roles")
    clients = Clients(proxmox, ssh, Balancers(ssh), Ansible(ssh, tmp_path, 1.0), WebCheck(), clock, roles)
    job = template_build.job(platform, template_build.Parameters("web", 0.0), clients)
    options = runner.Options("template build web", "a test", lambda *_: True, "token", lambda _: False)
    return runner.run(job, clock, options, lambda *_: None)


def four_templates(lab: Lab, tmp_path: Path) -> tuple[Platform, Proxmox]:
    platform, proxmox = look(lab, tmp_path)
    record = {"name": "shop-record", "pool": "shop", "memory": 16}
    assert lab.ended(lab.root.nodes("pve1").qemu.post(vmid=platform.proxmox.record_vmid, **record)) == "OK"
    for vmid, built_at in ((9011, 100.0), (1199, 200.0), (1198, 300.0), (1197, 400.0)):
        make(lab, vmid, built_at)
    return platform, proxmox


def there(lab: Lab) -> set[int]:
    return {row["vmid"] for row in lab.root.nodes("pve1").qemu.get()} & {9011, 1199, 1198, 1197}


def test_old_templates_that_nothing_rests_on_are_removed_and_no_other(lab: Lab, tmp_path: Path) -> None:
    platform, proxmox = four_templates(lab, tmp_path)
    clone = lab.root.nodes("pve1").qemu(1199).clone.post(newid=201, name="shop-web-1", pool="shop")
    assert lab.ended(clone) == "OK"
    done = build(platform, proxmox, tmp_path)
    assert done.exit is Exit.OK, done.message
    steps = [run.action for run in done.steps if run.target == "shop-web-9011"]
    assert steps in (["destroy"], ["destroy", "await-destroy"])  # it may be gone before it is waited for
    assert there(lab) == {1199, 1198, 1197}
    assert lab.ended(lab.root.nodes("pve1").qemu(201).delete()) == "OK"
    assert build(platform, proxmox, tmp_path).exit is Exit.OK
    assert there(lab) == {1198, 1197}
    assert build(platform, proxmox, tmp_path).message.startswith("Nothing to do")


def test_a_template_that_a_foreign_vm_rests_on_is_kept_and_the_run_says_so(lab: Lab, tmp_path: Path) -> None:
    platform, proxmox = four_templates(lab, tmp_path)
    assert lab.ended(lab.root.nodes("pve1").qemu(9011).clone.post(newid=201, name="mine")) == "OK"
    done = build(platform, proxmox, tmp_path)
    assert done.exit is Exit.DEGRADED, done.message
    assert "Template VM 9011 is kept: a VM that is not ours still rests on it." in done.message
    assert there(lab) == {9011, 1198, 1197}


@pytest.mark.parametrize(
    "changes", [{"tags": ""}, {"protection": 1}, {"name": "another"}, {"description": "by hand"}], ids=str
)
def test_an_old_template_that_is_not_surely_ours_is_left_alone(
    lab: Lab, tmp_path: Path, changes: dict[str, object]
) -> None:
    platform, proxmox = four_templates(lab, tmp_path)
    lab.root.nodes("pve1").qemu(1199).config.put(**changes)
    build(platform, proxmox, tmp_path)
    assert there(lab) == {1199, 1198, 1197}


def test_a_template_that_changed_hands_since_it_was_seen_is_left_alone(lab: Lab, tmp_path: Path) -> None:
    platform, proxmox = four_templates(lab, tmp_path)
    clock, ssh = SystemClock(), Ssh("nobody", tmp_path / "no-key", tmp_path)
    roles = dict.fromkeys(platform.tiers, "roles")
    clients = Clients(proxmox, ssh, Balancers(ssh), Ansible(ssh, tmp_path, 1.0), WebCheck(), clock, roles)
    wanted = template_build.Parameters("web", 0.0)
    facts = template_build.observe(platform, wanted, clients, None, Look())
    steps = [step for step in template_build.plan(platform, wanted, facts).steps if step.target == "shop-web-1199"]
    lab.root.nodes("pve1").qemu(1199).config.put(tags="keep")
    error = template_build.perform(platform, clients, steps[:1], facts)[steps[0].key].error
    assert isinstance(error, IdentityMismatch)
    assert 1199 in there(lab)
