"""The lab's network: one bridge, and a network namespace per machine with a cable to it."""

import ctypes
import json
import os
import subprocess
from pathlib import Path

from thems_jobs.lab.hypervisor import GuestError, GuestSpec

BRIDGE = "vmbr0"
CLONE_NEWNET = 0x40000000  # linux/sched.h
ROUTER_CIDR = "10.77.0.1/16"


def enter_namespace(file: Path) -> None:
    """Move this process (its calling thread) into the network namespace of that file. Raise OSError if it cannot."""
    with file.open("rb") as namespace:
        libc = ctypes.CDLL(None, use_errno=True)  # os.setns came with Python 3.12
        if libc.setns(namespace.fileno(), CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(file))


def make_bridge() -> None:
    """Make the bridge in this (new, empty) network namespace, with the router's address on it."""
    _ip(
        "link set lo up",
        f"link add {BRIDGE} type bridge forward_delay 0 mcast_snooping 0",
        f"address add {ROUTER_CIDR} dev {BRIDGE}",
        f"link set {BRIDGE} up",
    )


def plug(spec: GuestSpec) -> None:
    """Make the guest's network namespace with one card per address, cabled to the bridge."""
    namespace = namespace_name(spec.vmid)
    _ip(f"netns add {namespace}")
    cables = [
        f"link add {_cable(spec.vmid, card)} type veth peer name eth{card} netns {namespace}"
        + (f" address {spec.mac}" if card == 0 and spec.mac else "")
        for card in range(max(len(spec.addresses), 1))
    ]
    ends = [f"link set {_cable(spec.vmid, card)} master {BRIDGE} up" for card in range(max(len(spec.addresses), 1))]
    _ip(*cables, *ends)
    inside = ["link set lo up"]
    for card, address in enumerate(spec.addresses):
        inside += [f"address add {address} dev eth{card}", f"link set eth{card} up"]
    if spec.gateway is not None:
        inside.append(f"route add default via {spec.gateway}")
    _ip(*inside, namespace=namespace)


def unplug(vmid: int) -> None:
    """Remove the guest's namespace; its cables go with it. Nothing happens when there is none."""
    subprocess.run(["ip", "netns", "delete", namespace_name(vmid)], capture_output=True, check=False)


def cut(vmid: int, is_cut: bool) -> None:
    """Pull the guest's cables out of the bridge, or put them back."""
    links = json.loads(_read("ip", "-j", "link", "show", "type", "veth"))
    cables = [link["ifname"] for link in links if link["ifname"].startswith(f"v{vmid}.")]
    _ip(*(f"link set {cable} {'down' if is_cut else 'up'}" for cable in cables))


def interfaces(vmid: int) -> list[dict[str, object]]:
    """Return the guest's interfaces as the guest agent's guest-network-get-interfaces does."""
    found = json.loads(_read("ip", "-n", namespace_name(vmid), "-j", "-s", "address", "show"))
    return [_as_agent_says(link) for link in found]


def namespace_name(vmid: int) -> str:
    """Return the name of the guest's network namespace under /run/netns."""
    return f"vm{vmid}"


def _cable(vmid: int, card: int) -> str:
    return f"v{vmid}.{card}"  # 9 digits at most: fits the 15 characters of an interface name


def _as_agent_says(link: dict[str, object]) -> dict[str, object]:
    statistics = link.get("stats64", {})
    counted = {
        f"{way}-{ours}": statistics.get(way, {}).get(theirs, 0)  # type: ignore[attr-defined]
        for way in ("rx", "tx")
        for ours, theirs in (("bytes", "bytes"), ("packets", "packets"), ("errs", "errors"), ("dropped", "dropped"))
    }
    addresses = [
        {
            "ip-address": entry["local"],
            "ip-address-type": "ipv4" if entry["family"] == "inet" else "ipv6",
            "prefix": entry["prefixlen"],
        }
        for entry in link["addr_info"]  # type: ignore[attr-defined]
    ]
    return {
        "name": link["ifname"],
        "hardware-address": link["address"],
        "ip-addresses": addresses,
        "statistics": counted,
    }


def _ip(*commands: str, namespace: str | None = None) -> None:
    """Run ip commands in one batch. Raise GuestError with what ip said."""
    command = ["ip", *(("-n", namespace) if namespace else ()), "-batch", "-"]
    done = subprocess.run(command, input="\n".join(commands), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise GuestError(f"network of the guest cannot be set up: {done.stderr.strip()}")


def _read(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise GuestError(f"network of the guest cannot be read: {done.stderr.strip()}")
    return done.stdout
