"""Reading and writing single values of a VM's config: drives, NICs, tags, cloud-init keys."""

import ipaddress
import re
import secrets
from typing import Any
from urllib.parse import unquote

from thems_jobs.lab.api.checks import parse_property_string
from thems_jobs.lab.api.facts import Shape, find
from thems_jobs.lab.api.formats import split_list
from thems_jobs.lab.api.volumes import parse_size

Values = dict[str, Any]

DRIVE = re.compile(r"(?:ide|sata|scsi|virtio)\d+|efidisk0|tpmstate0")
CLOUD_INIT = re.compile(r"ci(?:user|password|upgrade|custom|type)|sshkeys|nameserver|searchdomain|ipconfig\d+")
MAC_PREFIX = "BC:24:11"  # Proxmox Server Solutions


def drive_shape(option: str) -> Shape:
    """Return the schema of a drive option."""
    found = find("PUT", "/nodes/n/qemu/100/config")
    shape = found[0].shape(option) if found else None
    if shape is None:
        raise AssertionError(f"{option} is no drive")
    return shape


def parse_drive(option: str, text: str) -> dict[str, str]:
    """Given `shared:100/vm-100-disk-0.raw,size=8G`, return its keys; the volume is in `file`."""
    return parse_property_string(text, option, drive_shape(option))


def print_drive(keys: dict[str, str]) -> str:
    """Return the property string of a drive: the volume first, the rest sorted."""
    rest = sorted((key, value) for key, value in keys.items() if key not in ("file", "import-from"))
    return ",".join([keys["file"], *(f"{key}={value}" for key, value in rest)])


def drives_of(values: Values) -> dict[str, dict[str, str]]:
    """Return the drives by option."""
    return {key: parse_drive(key, value) for key, value in values.items() if DRIVE.fullmatch(key)}


def is_disk(drive: dict[str, str]) -> bool:
    """Tell whether a drive is a disk, not a CD or a cloud-init drive."""
    return drive.get("media") != "cdrom" and "cloudinit" not in drive["file"]


def has_cloudinit_drive(values: Values) -> bool:
    """Tell whether one of the drives is a cloud-init drive."""
    return any("cloudinit" in drive["file"] for drive in drives_of(values).values())


def boot_disk_of(values: Values) -> str | None:
    """Return the volume id of the disk the VM boots from, or None if it has none."""
    disks = {key: drive["file"] for key, drive in drives_of(values).items() if is_disk(drive)}
    disks = {key: volid for key, volid in disks.items() if not key.startswith(("efi", "tpm"))}
    order = re.search(r"order=([^,]*)", str(values.get("boot", "")))
    for key in order[1].split(";") if order else []:
        if key in disks:
            return disks[key]
    if order and order[1]:
        return None
    return next((disks[key] for key in sorted(disks)), None)


def cores_of(values: Values) -> int:
    """Return the number of virtual processors."""
    return int(values.get("cores", 1)) * int(values.get("sockets", 1))


def memory_mib_of(values: Values) -> int:
    """Return the memory in MiB; 512 if nothing is said."""
    return int(re.sub(r"^current=", "", str(values.get("memory", "512"))))


def disk_size_of(values: Values) -> int:
    """Return the size of the first disk in bytes."""
    sizes = [drive.get("size") for _, drive in sorted(drives_of(values).items()) if is_disk(drive)]
    return parse_size(sizes[0]) if sizes and sizes[0] else 0


def normal_tags(text: str) -> str:
    """Given tags separated anyhow, return them lower-cased, unique, sorted, joined by semicolons; none is a blank."""
    return ";".join(sorted({tag.lower() for tag in split_list(text)})) or " "


def with_mac(text: str) -> str:
    """Given a NIC such as `virtio,bridge=vmbr0`, return it with a MAC address, as `virtio=MAC,bridge=vmbr0`."""
    keys = parse_nic(text)
    mac = keys.get("macaddr") or new_mac()
    rest = sorted((key, value) for key, value in keys.items() if key not in ("model", "macaddr"))
    return ",".join([f"{keys['model']}={mac.upper()}", *(f"{key}={value}" for key, value in rest)])


def with_new_mac(text: str) -> str:
    """Given a NIC, return it with another MAC address."""
    keys = parse_nic(text)
    return with_mac(re.sub(r"^[^,]*", keys["model"], text, count=1))


def new_mac() -> str:
    """Return a MAC address nobody has."""
    return ":".join([MAC_PREFIX, *(f"{byte:02X}" for byte in secrets.token_bytes(3))])


def parse_nic(text: str) -> dict[str, str]:
    """Given a NIC's property string, return its keys."""
    found = find("PUT", "/nodes/n/qemu/100/config")
    shape = found[0].shape("net0") if found else None
    if shape is None:
        raise AssertionError("the facts know no net0")
    return parse_property_string(text, "net0", shape)


def nics_of(values: Values) -> dict[str, dict[str, str]]:
    """Return the NICs by option, in their order."""
    keys = sorted((key for key in values if re.fullmatch(r"net\d+", key)), key=lambda key: int(key[3:]))
    return {key: parse_nic(values[key]) for key in keys}


def addresses_of(values: Values) -> tuple[tuple[str, ...], str | None]:
    """Return the static IPv4 addresses of the NICs, and the gateway."""
    addresses: list[str] = []
    gateway = None
    for nic in nics_of(values):
        text = values.get(nic.replace("net", "ipconfig"), "")
        shape = {"format": "pve-qm-ipconfig"}
        keys = parse_property_string(text, "ipconfig", shape) if text else {}
        if keys.get("ip", "dhcp") != "dhcp":
            addresses.append(str(ipaddress.ip_interface(keys["ip"])))
            gateway = gateway or keys.get("gw")
    return tuple(addresses), gateway


def ssh_keys_of(values: Values) -> tuple[str, ...]:
    """Return the public keys; they are kept URL-encoded."""
    return tuple(line for line in unquote(str(values.get("sshkeys", ""))).splitlines() if line.strip())
