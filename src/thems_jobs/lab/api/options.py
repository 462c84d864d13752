"""The options of a VM's config: who may set which, and what a running VM takes at once."""

import re

from thems_jobs.lab.api.access import ROOT
from thems_jobs.lab.api.cluster import Call
from thems_jobs.lab.api.configs import Values
from thems_jobs.lab.api.errors import failed
from thems_jobs.lab.api.values import CLOUD_INIT, DRIVE, parse_drive, parse_nic

CPU = {"cores", "sockets", "cpu", "cpulimit", "cpuunits", "numa", "vcpus", "affinity", "smp"}
MEMORY = {"memory", "balloon", "shares", "hugepages", "keephugepages", "allow-ksm"}
ROOT_ONLY = {"args", "lock", "hookscript", "vmstate"}
GENERAL = {
    "name", "description", "onboot", "ostype", "boot", "bootdisk", "agent", "startup", "protection", "tags", "acpi",
    "autostart", "freeze", "hotplug", "keyboard", "localtime", "migrate_downtime", "migrate_speed", "smbios1",
    "startdate", "template", "tdf", "reboot", "kvm", "spice_enhancements", "tablet", "vmgenid", "vmstatestorage",
}  # fmt: skip
AT_ONCE = {
    "name", "description", "tags", "onboot", "startup", "protection", "shares", "hotplug", "lock", "hookscript",
    "template", "vmstatestorage", "autostart", "migrate_downtime", "migrate_speed",
}  # fmt: skip
NOT_OPTIONS = {
    "node", "vmid", "digest", "delete", "revert", "force", "skiplock", "background_delay", "pool", "start", "archive",
    "storage", "unique", "bwlimit", "live-restore", "import-working-storage",
}  # fmt: skip


def check_option_rights(call: Call, vmid: int, pool: str | None, options: Values) -> None:
    """Raise 403 (or 500 for what is root's) unless the caller may set these options. Values may be None: deleted."""
    for option, value in options.items():
        if call.who == ROOT:
            return
        if option in ROOT_ONLY:
            raise failed(f"only root can set '{option}' config")
        if CLOUD_INIT.fullmatch(option):
            call.demand_vm(vmid, pool, "VM.Config.Cloudinit", "VM.Config.Network", any_of=True)
        else:
            call.demand_vm(vmid, pool, _privilege(option, value))
        if option.startswith("net") and value is not None:
            _check_bridge(call, value)


def check_bridges(call: Call, values: Values) -> None:
    """Raise 403 unless the caller may use the bridges of a config that is cloned."""
    for option, value in values.items():
        if re.fullmatch(r"net\d+", option):
            _check_bridge(call, value)


def _check_bridge(call: Call, value: str) -> None:
    bridge = parse_nic(value).get("bridge")
    if bridge:
        call.demand(f"/sdn/zones/localnetwork/{bridge}", "SDN.Use")


def _privilege(option: str, value: str | None) -> str:
    if option in CPU or re.fullmatch(r"numa\d+", option):
        return "VM.Config.CPU"
    if option in MEMORY:
        return "VM.Config.Memory"
    if DRIVE.fullmatch(option) or option.startswith("unused"):
        is_cd = value is not None and parse_drive(option, value).get("media") == "cdrom"
        return "VM.Config.CDROM" if is_cd else "VM.Config.Disk"
    if re.fullmatch(r"net\d+", option):
        return "VM.Config.Network"
    return "VM.Config.Options" if option in GENERAL else "VM.Config.HWType"


def taken_at_once(option: str) -> bool:
    """Tell whether a running VM takes a change of this option without a cold start (hotplug=network,disk,usb)."""
    if option in AT_ONCE or CLOUD_INIT.fullmatch(option):
        return True
    return bool(re.fullmatch(r"(?:net|scsi|virtio|unused|usb)\d+", option))
