"""Looking for templates: those that can be cloned, those that are old, and VMs that become one."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from thems_jobs.clients.proxmox import Proxmox, Resources, VmConfig, VmRow
from thems_jobs.core.facts import ImageStamp, Machine, TemplateImage
from thems_jobs.core.image import is_image, keepers, read_image_stamp
from thems_jobs.core.platform import Platform

TAG = "thems-template"  # of all that we make
BASE = re.compile(r"\bbase-(\d+)-disk-")  # in the volume of a linked clone; the id is that of its template


@dataclass(frozen=True)
class Found:
    """A VM of a template's name. `stamp` is None where the template was made by other means than ours."""

    row: VmRow
    config: VmConfig
    stamp: ImageStamp | None

    @property
    def is_template(self) -> bool:
        """True if it can be cloned. The list of all VMs says so up to 10 s late, the configuration does not."""
        return self.config.options.get("template", "0") == "1"


def find_images(platform: Platform, tier: str, resources: Resources, proxmox: Proxmox) -> Iterator[Found]:
    """Given a tier, return its templates and what becomes one: the VM of the declared id, and all that we made.

    What stands there under another name, or in another pool, is not returned.
    """
    wanted, pool = platform.tiers[tier].template, platform.proxmox.pool
    offline = {node.name for node in resources.nodes.values() if not node.online}
    for row in resources.vms:
        if row.node in offline:
            continue  # nobody can be asked what it is
        # A VM that was just made has no name in the list of all VMs yet.
        if row.vmid != wanted.vmid and (row.pool != pool or row.name not in ("", wanted.name)):
            continue
        config = proxmox.config(row.node, row.vmid) if row.kind == "qemu" else None
        if config is None or config.name != wanted.name:
            continue
        if is_image(platform, row.vmid, row.pool, config.description):
            yield Found(row, config, read_image_stamp(config.description))
        elif row.vmid == wanted.vmid:
            yield Found(row, config, None)


def newest_template(platform: Platform, tier: str, resources: Resources, proxmox: Proxmox) -> TemplateImage | None:
    """Given a tier, return the template its machines are cloned from now, or None if there is none."""
    images = [
        TemplateImage(
            found.config.name, found.row.vmid, found.row.node,
            found.stamp.built_at if found.stamp else found.config.created_at, found.stamp.roles if found.stamp else "",
        )
        for found in find_images(platform, tier, resources, proxmox)
        if found.is_template
    ]  # fmt: skip
    return max(images, key=lambda image: image.built_at, default=None)


def old_templates(
    platform: Platform, tier: str, images: list[Found], resources: Resources, proxmox: Proxmox
) -> dict[str, Machine]:
    """Given a tier's images, return by name its templates beyond those that stay, each with what rests on it.

    Only those that we made, in our pool: what somebody else made is not ours to remove.
    """
    ours = [
        (found.stamp, found) for found in images
        if found.stamp and found.is_template and found.stamp.tier == tier
        and TAG in found.config.tags and not found.config.protection
    ]  # fmt: skip
    ours.sort(key=lambda pair: -pair[0].built_at)
    old = ours[keepers(platform.tiers[tier]) :]
    rests = _resting(platform, resources, proxmox) if old else {}
    return {
        (name := f"{found.config.name}-{found.row.vmid}"): Machine(
            name, tier, found.row.vmid, "", exists=True, node=found.row.node, digest=found.config.digest,
            locked=found.config.lock, image=stamp, template=True, rests=tuple(rests.get(found.row.vmid, ())),
        )
        for stamp, found in old
    }  # fmt: skip


def _resting(platform: Platform, resources: Resources, proxmox: Proxmox) -> dict[int, list[str]]:
    """Return by template's id the names of the pool's VMs whose disks rest on it."""
    rests: dict[int, list[str]] = {}
    for row in resources.vms:
        if row.pool != platform.proxmox.pool or row.kind != "qemu":
            continue
        config = proxmox.config(row.node, row.vmid)
        text = " ".join(config.options.values()) if config else ""
        for vmid in {int(vmid) for vmid in BASE.findall(text)} - {row.vmid}:
            rests.setdefault(vmid, []).append(row.name or f"VM {row.vmid}")
    return rests
