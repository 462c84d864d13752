"""A database cluster for tables: a sound one, so that each test says only what it breaks."""

from dataclasses import replace
from typing import Any

from thems_jobs.core.facts import Backend, Cluster, Member, Proxy
from thems_jobs.core.platform import Application, DatabaseCluster

UUID = "6c1d5a34-c9e1-11f0-9f5b-0242ac110002"
MIB = 1 << 20
SETTINGS = DatabaseCluster(
    "db", "proxy", "10.77.0.20", 78, "ca.pem", "ca.key", "password", Application("shop", "shop", "shop-password")
)
PERCONA = replace(SETTINGS, flavour="percona")
PROXIES = ("shop-proxy-1", "shop-proxy-2")


def make_member(size: int = 3, index: int = 0, **changes: Any) -> Member:
    """A member that is well, of a cluster of so many, but for the changes."""
    switches = {"wsrep_reject_queries": "NONE", "wsrep_desync": "OFF", "wsrep_sst_donor_rejects_queries": "OFF"}
    values: dict[str, Any] = {
        "status": "Primary", "uuid": UUID, "view": 7, "size": size, "index": index, "state": 4, "connected": True,
        "ready": True, "switches": switches, "receive_queue": 0.2, "flow_control_ratio": 0.0, "window_s": 2.0,
        "busy": (),
        "seqno": 90_000, "gcache_downto": 40_000, "gcache_bytes": 128 * MIB, "write_bytes_s": 100_000.0,
        "data_bytes": 2_000 * MIB, "connections": 12,
    }  # fmt: skip
    return Member(**values | changes)


def names(count: int) -> list[str]:
    return [f"shop-db-{number}" for number in range(1, count + 1)]


def make_proxy(count: int = 3, writer: str = "shop-db-1", **changes: Any) -> Proxy:
    """A proxy that has so many members, all up, but for the changes."""
    backends = {name: Backend(f"10.77.3.{11 + n}", "up", 4) for n, name in enumerate(names(count))}
    return replace(Proxy(writer, backends), **changes)


def make_cluster(count: int = 3, **changes: Any) -> Cluster:
    """A cluster of so many members, each on a Proxmox node of its own, behind two proxies; all is well."""
    values: dict[str, Any] = {
        "members": {name: make_member(count, index) for index, name in enumerate(names(count))},
        "proxies": {name: make_proxy(count) for name in PROXIES},
        "holders": PROXIES[:1],
        "hosts": {name: f"pve{index}" for index, name in enumerate(names(count))},
        "nodes": tuple(f"pve{index}" for index in range(count)),
        "expected": count,
    }  # fmt: skip
    return Cluster(**values | changes)


def with_member(cluster: Cluster, name: str, **changes: Any) -> Cluster:
    """Given a cluster, return it with one member changed."""
    member = cluster.members[name]
    assert isinstance(member, Member)
    return replace(cluster, members={**cluster.members, name: replace(member, **changes)})


def with_switch(cluster: Cluster, name: str, **switches: str | None) -> Cluster:
    """Given a cluster, return it with switches of one member set otherwise; None: it does not tell them."""
    member = cluster.members[name]
    assert isinstance(member, Member)
    told = {key: value for key, value in {**member.switches, **switches}.items() if value is not None}
    return with_member(cluster, name, switches=told)


def with_proxy(cluster: Cluster, name: str, **changes: Any) -> Cluster:
    """Given a cluster, return it with one proxy changed."""
    proxy = cluster.proxies[name]
    assert isinstance(proxy, Proxy)
    return replace(cluster, proxies={**cluster.proxies, name: replace(proxy, **changes)})


def with_backend(cluster: Cluster, name: str, member: str, **changes: Any) -> Cluster:
    """Given a cluster, return it with one member otherwise in one proxy's list."""
    proxy = cluster.proxies[name]
    assert isinstance(proxy, Proxy)
    return with_proxy(cluster, name, backends={**proxy.backends, member: replace(proxy.backends[member], **changes)})
