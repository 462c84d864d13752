"""Which machine is which: names, addresses, VMIDs, and the stamp by which we know our own."""

import json
from collections.abc import Iterable
from dataclasses import asdict, fields
from itertools import islice

from thems_jobs.core.facts import Balancer, Facts, Phase, Proxy, Stamp, number_of
from thems_jobs.core.platform import Platform, Tier, addresses_of, vmids_of


def machine_name(platform: Platform, tier: str, number: int) -> str:
    """Given a tier and a number from 1, return the machine's name."""
    return f"{platform.name}-{tier}-{number}"


def tier_of(platform: Platform, name: str) -> str | None:
    """Given a VM's name, return the tier it belongs to by name, or None if it is no name of ours."""
    head, _, number = name.rpartition("-")
    if not (number.isascii() and number.isdigit()) or number.startswith("0"):
        return None
    tier = head.removeprefix(f"{platform.name}-")
    return tier if tier != head and tier in platform.tiers else None


def address_of(platform: Platform, name: str) -> str:
    """Given a machine's name, return its address. Raise IndexError if its number is beyond the tier's range."""
    tier = tier_of(platform, name)
    if tier is None:
        raise IndexError(name)
    return addresses_of(platform.tiers[tier].network)[number_of(name) - 1]


def has_place(platform: Platform, name: str) -> bool:
    """True if the platform file has a place for a machine of this name: its tier, and an address of it."""
    tier = tier_of(platform, name)
    return tier is not None and number_of(name) <= len(addresses_of(platform.tiers[tier].network))


def free_names(
    platform: Platform, tier: str, facts: Facts, count: int, besides: frozenset[str] = frozenset()
) -> list[str]:
    """Given how many, return the lowest names that stand for nothing yet, nor are in `besides`.

    Neither a machine, a stranger, an answering address nor a balancer's table has them. Fewer than `count` are
    returned when the range is used up.
    """
    addresses = addresses_of(platform.tiers[tier].network)
    taken = facts.machines.keys() | besides | {other.name for other in (*facts.strangers, *facts.cut_off)}
    views = [view for view in facts.balancers.values() if isinstance(view, Balancer)]
    taken |= {name for view in views for name in view.servers}
    proxies = facts.databases.proxies.values() if facts.databases else ()
    taken |= {name for proxy in proxies if isinstance(proxy, Proxy) for name in proxy.backends}
    names = (machine_name(platform, tier, number) for number in range(1, len(addresses) + 1))
    free = (
        name
        for name, address in zip(names, addresses, strict=True)
        if name not in taken and address not in facts.taken_addresses
    )
    return list(islice(free, count))


def choose_vmids(tier: Tier, taken: Iterable[int], count: int) -> list[int]:
    """Given the ids in use anywhere on the cluster, return up to `count` free ones of the tier, lowest first."""
    used = set(taken)
    return list(islice((vmid for vmid in vmids_of(tier) if vmid not in used), count))


def write_stamp(stamp: Stamp) -> str:
    """Given a stamp, return the description that carries it."""
    return f"Made by thems-jobs; changed through Jenkins only.\n{json.dumps(asdict(stamp), sort_keys=True)}"


def read_stamp(description: str) -> Stamp | None:
    """Given a VM's description, return its stamp, or None if it has none that can be read."""
    _, brace, rest = description.partition("{")
    try:
        data = json.loads(brace + rest)
        stamp = Stamp(**{**data, "phase": Phase(data["phase"]), "since": float(data.get("since", 0.0))})
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    kinds = {"vmid": int, "phase": Phase, "since": float}
    well = all(type(getattr(stamp, f.name)) is kinds.get(f.name, str) for f in fields(stamp))
    return stamp if well else None


def tags_of(stamp: Stamp) -> tuple[str, ...]:
    """Given a stamp, return the tags by which people find the machine in Proxmox, in Proxmox's own order."""
    return tuple(sorted(("thems", f"tier-{stamp.tier}", f"phase-{stamp.phase}")))


def doubts(platform: Platform, vmid: int, name: str, pool: str, stamp: Stamp | None) -> str:
    """Given what a VM says of itself, return "" if it is ours, or the reason why it is not.

    A copy of one of our machines carries its stamp and tags but another id; a namesake carries no stamp.
    """
    if pool != platform.proxmox.pool:
        return f"it is in pool {pool!r}, not in {platform.proxmox.pool!r}" if pool else "it is in no pool"
    if stamp is None:
        return "it carries no stamp of thems-jobs"
    if stamp.platform != platform.name:
        return f"its stamp says platform {stamp.platform!r}"
    if (stamp.vmid, stamp.machine) != (vmid, name):
        return f"its stamp is that of {stamp.machine} ({stamp.vmid})"
    if not has_place(platform, name):
        return "the platform file has no place for it: no such tier, or too few addresses"
    return "" if tier_of(platform, name) == stamp.tier else f"its stamp says tier {stamp.tier!r}"


def resembles(platform: Platform, vmid: int, name: str, pool: str, tags: Iterable[str]) -> bool:
    """True if a VM stands in our way: an id of our ranges, a name like ours, or our pool and tag."""
    in_range = any(vmid in vmids_of(tier) for tier in platform.tiers.values())
    return in_range or tier_of(platform, name) is not None or (pool == platform.proxmox.pool and "thems" in tags)
