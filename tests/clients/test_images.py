"""Finding templates on the lab's API: the newest of ours, at once, and nobody else's."""

from dataclasses import replace
from pathlib import Path

from lab_api import TOKEN_USER, Lab

from thems_jobs import platform_file, resources
from thems_jobs.clients.proxmox import Proxmox
from thems_jobs.core.facts import ImageStamp, Making
from thems_jobs.core.image import write_image_stamp
from thems_jobs.core.platform import Platform
from thems_jobs.jobs.images import find_images, newest_template

NAME = "shop-web"


def look(lab: Lab, tmp_path: Path) -> tuple[Platform, Proxmox]:
    (tmp_path / "platform.yaml").write_bytes(resources.path("platforms", "lab.yaml").read_bytes())
    platform = platform_file.read_platform(tmp_path / "platform.yaml", {})
    lab.root.access.acl.put(path="/", roles="PVEAuditor", users=TOKEN_USER, tokens=f"{TOKEN_USER}!jobs")
    (lab.directory / "token").chmod(0o600)
    settings = replace(
        platform.proxmox, endpoints=(f"https://127.0.0.1:{lab.port}",), token_file=str(lab.directory / "token"),
        ca_file=lab.ca,
    )  # fmt: skip
    return platform, Proxmox(settings, platform.name, tmp_path, 5)


def make(lab: Lab, vmid: int, built_at: float, *, template: bool = True, **changes: object) -> None:
    """Make a VM with the stamp of a template, as root."""
    stamp = ImageStamp("shop", NAME, vmid, "web", Making.SEALED, "roles", built_at)
    values = {"name": NAME, "pool": "shop", "memory": 16, "description": write_image_stamp(stamp), **changes}
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
