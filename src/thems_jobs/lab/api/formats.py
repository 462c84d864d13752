"""The named formats of the API's strings. Each check returns None or why the text is wrong."""

import ipaddress
import re
from collections.abc import Callable
from typing import Any

Check = Callable[[str], str | None]


def split_list(text: str) -> list[str]:
    """Given a list in one string, return its parts: commas, semicolons, blanks and NUL separate."""
    return [part for part in re.split(r"[,;\s\0]+", text) if part]


def _matches(pattern: str, why: str) -> Check:
    compiled = re.compile(pattern)
    return lambda text: None if compiled.fullmatch(text) else why.replace("%s", text)


def _is_address(version: int | None, why: str) -> Check:
    def check(text: str) -> str | None:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            return why
        return None if version in (None, address.version) else why

    return check


def _is_network(version: int | None, words: tuple[str, ...], why: str) -> Check:
    def check(text: str) -> str | None:
        if text in words:
            return None
        try:
            interface = ipaddress.ip_interface(text)
        except ValueError:
            return why
        return None if "/" in text and version in (None, interface.version) else why

    return check


def _urlencoded(text: str) -> str | None:
    if re.fullmatch(r"(?:[A-Za-z0-9\-._~]|%[0-9A-Fa-f]{2})*", text):
        return None
    return f"invalid urlencoded string: {text}"


_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9\-]*[a-zA-Z0-9])?"
_CONFIG_ID = r"[a-z][a-z0-9_-]+"
_VOLUME_ID = r"[a-zA-Z][a-zA-Z0-9\-_.]*[a-zA-Z0-9]:.+"
_TAG = r"[a-zA-Z0-9_][a-zA-Z0-9_\-+.]*"

CHECKS: dict[str, Check] = {
    "dns-name": _matches(rf"{_LABEL}(?:\.{_LABEL})*", "value does not look like a valid DNS name"),
    "pve-node": _matches(_LABEL, "value does not look like a valid node name"),
    "pve-vmid": _matches(r"[1-9][0-9]{2,8}", "value does not look like a valid VM ID"),
    "pve-poolid": _matches(
        r"[A-Za-z0-9.\-_]+(?:/[A-Za-z0-9.\-_]+){0,2}", "pool name '%s' contains invalid characters"
    ),
    "pve-storage-id": _matches(
        r"(?i:[a-z][a-z0-9\-_.]*[a-z0-9])", "storage ID '%s' contains illegal characters"
    ),
    "pve-configid": _matches(rf"(?i:{_CONFIG_ID})", "invalid configuration ID '%s'"),
    "pve-userid": _matches(r"[^\s:/]+@[A-Za-z][A-Za-z0-9.\-_]+", "value '%s' does not look like a valid user name"),
    "pve-tokenid": _matches(
        r"[^\s:/]+@[A-Za-z][A-Za-z0-9.\-_]+![A-Za-z][A-Za-z0-9.\-_]+", "value '%s' does not look like a valid token ID"
    ),
    "pve-roleid": _matches(r"[A-Za-z0-9.\-_]+", "role name '%s' contains invalid characters"),
    "pve-groupid": _matches(r"[A-Za-z0-9.\-_]+", "group name '%s' contains invalid characters"),
    "pve-priv": _matches(r"[A-Za-z.]+", "invalid privilege '%s'"),
    "pve-realm": _matches(r"[A-Za-z][A-Za-z0-9.\-_]+", "value does not look like a valid realm"),
    "pve-tag": _matches(_TAG, "invalid characters in tag"),
    "pve-volume-id": _matches(_VOLUME_ID, "unable to parse volume ID '%s'"),
    "pve-volume-id-or-qm-path": _matches(
        rf"none|cdrom|/.+|{_VOLUME_ID}", "unable to parse volume ID or path '%s'"
    ),
    "pve-volume-id-or-absolute-path": _matches(rf"/.+|{_VOLUME_ID}", "unable to parse volume ID '%s'"),
    "pve-bridge-id": _matches(r"[-_.\w\d]+", "value does not look like a valid bridge name"),
    "pve-storage-content": _matches(
        r"images|rootdir|vztmpl|iso|backup|snippets|import|none", "invalid content type '%s'"
    ),
    "pve-task-status-type": _matches(r"ok|warning|error|unknown", "value '%s' is not a valid task status"),
    "mac-addr": _matches(
        r"(?i:[a-f0-9][02468ace](?::[a-f0-9]{2}){5})", "value does not look like a valid unicast MAC address"
    ),
    "disk-size": _matches(r"\d+(?:\.\d+)?[KMGT]?", "value does not look like a valid disk size: %s"),
    "urlencoded": _urlencoded,
    "address": _is_address(None, "value does not look like a valid IP address: %s"),
    "ipv4": _is_address(4, "value does not look like a valid IPv4 address"),
    "ipv6": _is_address(6, "value does not look like a valid IPv6 address"),
    "CIDR": _is_network(None, (), "value does not look like a valid CIDR network"),
    "pve-ipv4-config": _is_network(4, ("dhcp",), "value does not look like a valid ipv4 network configuration"),
    "pve-ipv6-config": _is_network(
        6, ("dhcp", "auto"), "value does not look like a valid ipv6 network configuration"
    ),
    "pve-hotplug-features": _matches(
        r"[01]|(?:network|disk|cpu|memory|usb|cloudinit)(?:[,;](?:network|disk|cpu|memory|usb|cloudinit))*",
        "invalid hotplug feature list",
    ),
    "email-opt": _matches(r"|\S+@\S+\.\S+", "value does not look like a valid email address"),
}  # fmt: skip

# Property strings the API viewer only names; the keys are those of `man qm`.
_TEXT = {"type": "string", "optional": 1}
_NUMBER = {"type": "integer", "optional": 1}
PROPERTY_STRINGS: dict[str, dict[str, Any]] = {
    "pve-qm-ipconfig": {
        "ip": {"type": "string", "format": "pve-ipv4-config", "optional": 1},
        "gw": {"type": "string", "format": "ipv4", "optional": 1, "requires": "ip"},
        "ip6": {"type": "string", "format": "pve-ipv6-config", "optional": 1},
        "gw6": {"type": "string", "format": "ipv6", "optional": 1, "requires": "ip6"},
    },
    "pve-qm-boot": {
        "legacy": {"type": "string", "optional": 1, "pattern": "[acdn]{1,4}"},
        "order": {"type": "string", "optional": 1, "pattern": r"(?:(?:ide|sata|scsi|virtio|net|usb|hostpci)\d+;?)*"},
    },
    "pve-qm-smbios1": {
        "uuid": {"type": "string", "optional": 1, "pattern": "[a-fA-F0-9]{8}(?:-[a-fA-F0-9]{4}){3}-[a-fA-F0-9]{12}"},
        **dict.fromkeys(("version", "serial", "manufacturer", "product", "sku", "family"), _TEXT),
        "base64": {"type": "boolean", "optional": 1},
    },
    "pve-qm-cicustom": dict.fromkeys(("meta", "network", "user", "vendor"), _TEXT),
    "pve-startup-order": dict.fromkeys(("order", "up", "down"), _NUMBER),
}  # fmt: skip

# The key a property string may leave out before its first value.
DEFAULT_KEYS = {
    "agent": "enabled", "net[n]": "model", "machine": "type", "memory": "current", "vga": "type",
    "pve-qm-boot": "legacy", "pve-startup-order": "order", "numa[n]": "cpus", "virtiofs[n]": "dirid", "usb[n]": "host",
}  # fmt: skip
