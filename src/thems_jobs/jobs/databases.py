"""Looking at the database cluster: every member and every proxy at the same time."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from thems_jobs.clients.mysql import Databases, ProxySql
from thems_jobs.clients.ssh import Ssh
from thems_jobs.core.facts import Cluster, Facts, Phase, Proxy, Unknown
from thems_jobs.core.platform import DatabaseCluster, Platform
from thems_jobs.errors import ThemsError, Unreachable
from thems_jobs.jobs.observe import Clients


@dataclass(frozen=True)
class DatabaseClients:
    """What speaks with the database tier. `proxysql` is None where the proxies are HAProxy."""

    settings: DatabaseCluster
    members: Databases
    proxysql: ProxySql | None


def open_databases(settings: DatabaseCluster, base: Path) -> DatabaseClients:
    """Given the cluster and the folder of the platform file, return the clients, unconnected.

    Raise UsageError if a secret or the authority cannot be read.
    """
    proxysql = ProxySql(settings, base) if settings.proxy == "proxysql" else None
    return DatabaseClients(settings, Databases(settings, base), proxysql)


def look_at_databases(platform: Platform, clients: Clients, databases: DatabaseClients, facts: Facts) -> Cluster:
    """Given what is known of the machines, return what the members and the proxies among them tell now.

    Members are the machines that serve; others of the tier that exist are on their way in or out.
    """
    settings = databases.settings
    machines = [machine for machine in facts.of_tier(settings.tier) if machine.exists]
    serving = [machine for machine in machines if machine.phase is Phase.SERVING]
    proxies = [m for m in facts.of_tier(settings.proxy_tier) if m.exists and m.phase is Phase.SERVING]
    addresses = {machine.name: machine.address for machine in machines}
    members_now, proxies_now = clients.clock.at_once(
        lambda question: question(),
        (
            lambda: databases.members.members({machine.name: machine.address for machine in serving}),
            lambda: _ask_proxies(clients, databases, {m.name: m.address for m in proxies}, addresses),
        ),
    )
    return Cluster(
        members=members_now,
        proxies=proxies_now,
        holders=tuple(
            name for name, proxy in proxies_now.items() if isinstance(proxy, Proxy) and settings.address in proxy.holds
        ),
        hosts={machine.name: machine.node for machine in machines},
        nodes=tuple(name for name in platform.proxmox.nodes if name in facts.nodes and facts.nodes[name].online),
        expected=len(serving),
        moving=tuple(machine.name for machine in machines if machine not in serving),
    )


def _ask_proxies(
    clients: Clients, databases: DatabaseClients, hosts: dict[str, str], members: dict[str, str]
) -> dict[str, Proxy | Unknown]:
    proxysql = databases.proxysql
    if proxysql is None:
        return clients.balancers.show_proxies(hosts)
    views, held = clients.clock.at_once(
        lambda question: question(), (lambda: proxysql.show(hosts, members), lambda: _held(clients, hosts))
    )
    return {name: _with_addresses(views[name], held[name]) for name in hosts}


def _held(clients: Clients, hosts: dict[str, str]) -> dict[str, tuple[str, ...] | Unknown]:
    """Return all addresses that each machine has: ProxySQL knows nothing of the one that keepalived moves."""

    def ask(name: str) -> tuple[str, ...] | Unknown:
        try:
            return addresses_on(clients.ssh, name, hosts[name])
        except ThemsError as error:
            return Unknown(error.detail)

    names = list(hosts)
    return dict(zip(names, clients.clock.at_once(ask, names), strict=True))


def addresses_on(ssh: Ssh, name: str, address: str) -> tuple[str, ...]:
    """Given a machine, return the IPv4 addresses it has now. Raise Unreachable if it cannot be asked."""
    answer = ssh.run(address, ["ip", "-json", "-4", "address", "show"])
    try:
        links: list[dict[str, Any]] = json.loads(answer.output)
        return tuple(str(entry["local"]) for link in links for entry in link["addr_info"])
    except (ValueError, KeyError, TypeError) as error:
        raise Unreachable(name, f"it does not tell its addresses: {answer.error.strip()[:200]}") from error


def _with_addresses(view: Proxy | Unknown, held: tuple[str, ...] | Unknown) -> Proxy | Unknown:
    if isinstance(view, Unknown):
        return view
    return held if isinstance(held, Unknown) else replace(view, holds=held)
