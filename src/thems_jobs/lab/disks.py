"""Disks of lab machines: directories of overlay layers over the template's root filesystem.

A disk directory holds `lower` (one layer per line, top first; a name without a slash is a folder of the disk
itself), `upper` (what this disk changed) and `work` (the kernel's). A linked clone lists its source's layers; a full
copy takes them along, except a base image, which never changes. A base image is a folder with only `lower` in it.
"""

import shutil
import subprocess
from pathlib import Path

from thems_jobs.lab.hypervisor import GuestError


def make_base_image(disk: Path, root: Path) -> None:
    """Make a disk that is nothing but the root filesystem at `root`, which must never change."""
    disk.mkdir(parents=True)
    (disk / "lower").write_text(f"{root}\n")


def create_disk(disk: Path, source: Path | None, *, linked: bool) -> None:
    """Make the disk: empty, a linked clone of the source, or a full copy. Raise GuestError when there is no source."""
    if source is not None and not (source / "lower").is_file():
        raise GuestError(f"volume '{source}' does not exist")
    disk.mkdir(parents=True)
    layers = _layers(source) if source is not None else []
    if not linked:
        layers = [_copy_layer(layer, disk, number) for number, layer in enumerate(layers)]
    (disk / "upper").mkdir()
    (disk / "work").mkdir()
    # Written last: a disk whose copy was cut off half-way is not a disk.
    (disk / "lower").write_text("".join(f"{layer}\n" for layer in layers))


def delete_disk(disk: Path) -> None:
    """Remove the disk; nothing happens when there is none."""
    if disk.is_dir():
        shutil.rmtree(disk)


def mount_disk(disk: Path, root: Path) -> None:
    """Mount the disk's merged layers at root. Raise GuestError when nothing can boot from it."""
    lower = _lower(disk)
    if not lower or not (disk / "upper").is_dir():
        raise GuestError(f"no bootable device: disk '{disk.name}' is empty")
    root.mkdir(parents=True, exist_ok=True)
    options = f"lowerdir={':'.join(lower)},upperdir={disk}/upper,workdir={disk}/work,redirect_dir=on,index=off"
    command = ["mount", "-t", "overlay", "-o", options, "lab-disk", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise GuestError(f"disk '{disk.name}' cannot be mounted: {done.stderr.strip()}")


def unmount_disk(root: Path) -> None:
    """Unmount what is mounted there; a mount that is still busy goes as soon as its last user does."""
    if root.is_mount() and subprocess.run(["umount", str(root)], capture_output=True, check=False).returncode != 0:
        subprocess.run(["umount", "--lazy", str(root)], check=True)


def _layers(disk: Path) -> list[str]:
    """Return the absolute layers of a disk, top first, its own changes included."""
    own = [str(disk / "upper")] if (disk / "upper").is_dir() else []
    return own + _lower(disk)


def _lower(disk: Path) -> list[str]:
    lines = (disk / "lower").read_text().split("\n")[:-1]
    return [line if "/" in line else str(disk / line) for line in lines]


def _copy_layer(layer: str, disk: Path, number: int) -> str:
    """Copy a changed layer into the disk and return its name there; a base image's root is returned as it is."""
    if not (Path(layer).parent / "lower").is_file():  # not part of a disk: the root of a base image
        return layer
    name = f"layer-{number}"
    # cp keeps what makes a layer a layer: whiteouts (character devices) and trusted.overlay.* attributes
    command = ["cp", "-a", "--reflink=auto", layer, str(disk / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise GuestError(f"copy failed: {done.stderr.strip()}")
    return name
