"""The database cluster: looking at every member and every proxy at the same time, and changing it one by one."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from thems_jobs.clients.ssh import Ssh
from thems_jobs.core.databases import (
    IN_USE,
    NEW,
    in_service,
    joined,
    needed,
    regrouped,
    settings_of,
    size_without,
    to_write,
    told,
    writers,
)
from thems_jobs.core.facts import Facts, Machine, Member, Phase, Proxy, Standing, Unknown
from thems_jobs.core.plan import Action, Step
from thems_jobs.core.platform import Platform
from thems_jobs.errors import EffectFailed, ThemsError, Transient, Unreachable
from thems_jobs.jobs.clients import Clients, DatabaseClients

HAND_OVER_S = 15.0  # after a writer was drained, every proxy names another one within that
NEW_VIEW_S = 10.0  # after a member has left, the others have agreed on that; its goodbye may get lost (5 s)
POLL_S = 0.2

# Looking


def look_at_databases(platform: Platform, clients: Clients, facts: Facts) -> Facts:
    """Given what is known of the machines, return it with what the databases and the proxies among them tell now."""
    settings, databases = settings_of(platform), clients.databases
    if settings is None or databases is None:
        return facts
    machines = [machine for machine in facts.of_tier(settings.tier) if machine.exists and not machine.locked]
    # One that shuts down would keep everybody waiting.
    up = [machine for machine in machines if machine.running and machine.power != "stopping"]
    # One that a killed run configured is not known to be: its database may take the others' data all the same.
    up = [machine for machine in up if machine.converged or (machine.ssh_open and machine.host_key)]
    relied_on = {machine.name: machine.address for machine in up if machine.phase is Phase.SERVING}
    moving = {machine.name: machine.address for machine in up if machine.phase is not Phase.SERVING}
    proxies = {
        machine.name: machine.address
        for machine in facts.of_tier(settings.proxy_tier)
        if machine.exists and (machine.converged or machine.ssh_open) and machine.host_key and not machine.power
    }
    addresses = {machine.name: machine.address for machine in machines}
    copied = _copied(databases)
    told_by_serving, told_by_others, seen = clients.clock.at_once(
        lambda question: question(),
        (
            lambda: databases.members.members(relied_on),
            lambda: databases.members.members(moving, 0.0),  # how well they keep up is asked of nobody yet
            lambda: _ask_proxies(clients, databases, proxies, addresses),
        ),
    )
    answers = {**told_by_serving, **told_by_others}
    serving = {name: view for name, view in seen.items() if facts.machines[name].phase is Phase.SERVING}
    standings = read_standings(clients, [m for m in machines if _to_be_read(facts, m, answers)])
    kept = {name: facts.standings[name] for name in answers if name in facts.standings} | standings
    kept = {name: standing for name, standing in kept.items() if isinstance(answers.get(name), Unknown)}
    known = {machine.name: _progress(machine, answers, kept) for machine in machines}
    facts = replace(facts, machines={**facts.machines, **known}, standings=kept)
    cluster = regrouped(platform, facts, answers, serving)
    holders = tuple(name for name, view in seen.items() if isinstance(view, Proxy) and settings.address in view.holds)
    copied |= _copied(databases)  # one that began or ended meanwhile, too
    cluster = replace(cluster, holders=holders, copied=copied) if cluster else None
    return replace(facts, databases=cluster, backup=databases.backups.newest() if databases.backups else None)


def _copied(databases: DatabaseClients) -> frozenset[str]:
    return databases.backups.under_way if databases.backups else frozenset()


def _to_be_read(facts: Facts, machine: Machine, answers: Mapping[str, Member | Unknown]) -> bool:
    """True if only the machine's own program can tell where its database stands, and it has not told it for good.

    A stopped database stands where it stood until a step starts it. Reading one that was killed takes seconds.
    """
    if not isinstance(answers.get(machine.name), Unknown) or not (machine.ssh_open and machine.host_key):
        return False
    known = facts.standings.get(machine.name)
    return not isinstance(known, Standing) or known.running or machine.joining


def read_standings(clients: Clients, machines: Sequence[Machine]) -> dict[str, Standing | Unknown]:
    """Given machines, return where the database of each stands, as its own program tells; all at the same time."""
    programs = _clients(clients).machines

    def read(machine: Machine) -> Standing | Unknown:
        try:
            return programs.show(machine.name, machine.address)
        except ThemsError as error:
            return Unknown(error.detail)

    names = [machine.name for machine in machines]
    return dict(zip(names, clients.clock.at_once(read, list(machines)), strict=True))


def _progress(
    machine: Machine, answers: Mapping[str, Member | Unknown], standings: Mapping[str, Standing | Unknown]
) -> Machine:
    """Given a database machine, return it with whether its database is on its way into the cluster.

    One that answers tells so itself. One that does not may still be copying: its own program knows.
    """
    answer, standing = answers.get(machine.name), standings.get(machine.name)
    if isinstance(answer, Member):
        return replace(machine, joining=answer.status == "Primary" and answer.state in (1, 3))
    if isinstance(standing, Standing):
        return replace(machine, joining=standing.running)
    return machine if isinstance(standing, Unknown) else replace(machine, joining=False)


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
        links: list[dict[str, Any]] = json.loads(answer.output if answer.code == 0 else "")
        return tuple(str(entry["local"]) for link in links for entry in link["addr_info"])
    except (ValueError, KeyError, TypeError) as error:
        raise Unreachable(name, f"it does not tell its addresses: {answer.error.strip()[:200]}") from error


def _with_addresses(view: Proxy | Unknown, held: tuple[str, ...] | Unknown) -> Proxy | Unknown:
    if isinstance(view, Unknown):
        return view
    return held if isinstance(held, Unknown) else replace(view, holds=held)


# Members


def bootstrap(platform: Platform, clients: Clients, facts: Facts, step: Step) -> Mapping[str, Any]:
    """Make the cluster, which never was, of its first machine. What another one's start has left is taken up again."""
    databases, machine = _clients(clients), facts.machines[step.target]
    others = [other for other in _machines(platform, facts) if other.name != machine.name]
    if any(other.phase is not Phase.BUILDING for other in others if other.exists and other.phase):
        raise EffectFailed(
            machine.name, "others were members before: a new cluster would lose their data.",
            "Find out which one has the newest data: thems-jobs galera-recover.", "galera-all-down",
        )  # fmt: skip
    standing = databases.machines.show(machine.name, machine.address)
    running = [other.address for other in others if other.exists and other.running]
    if standing.uuid == NEW:
        standing = replace(standing, seqno=-1)
    databases.machines.bootstrap(machine.name, machine.address, standing, running)
    return {}


def join(platform: Platform, clients: Clients, facts: Facts, step: Step) -> Mapping[str, Any]:
    """Start a machine's database so that it joins the others, with data from any but the writer, if there is one."""
    machine, present = facts.machines[step.target], _present(platform, facts, step.target)
    if not present:
        raise Transient(machine.name, "no member is there that it could join.")
    readers = [other for other in present if other.name not in writers(facts)]
    donors = sorted(readers, key=lambda other: (other.node != machine.node, other.name))
    names, addresses = [donor.name for donor in donors], [other.address for other in present]
    _clients(clients).machines.join(machine.name, machine.address, names, addresses)
    return {"joining": True}


def leave(platform: Platform, clients: Clients, facts: Facts, step: Step) -> Mapping[str, Any]:
    """Stop a machine's database cleanly, and see that the cluster is smaller by exactly that one.

    All are asked once more right before: whether the others can go on without it, and whether it is used by anybody,
    also past the proxies. From then on it takes no queries.
    """
    databases, machine = _clients(clients), facts.machines[step.target]
    if machine.name in writers(facts):
        raise Transient(machine.name, "it is the writer: that is handed over first.")
    addresses = {other.name: other.address for other in _present(platform, facts, machine.name)}
    staying = databases.members.members({**addresses, machine.name: machine.address}, 0.0)
    own = staying.pop(machine.name)
    if why := needed(own, staying):
        raise Transient(machine.name, f"it cannot be stopped: {why}.")
    if isinstance(own, Member):
        databases.members.reject_queries(machine.name, machine.address, on=True)
    databases.machines.leave(machine.name, machine.address)
    _await_size(clients, machine.name, addresses, size_without(own, staying))
    return {"joining": False}


def _await_size(clients: Clients, left: str, addresses: Mapping[str, str], expected: int) -> None:
    """Raise EffectFailed unless all these members count so many of them soon after one has left."""
    deadline = clients.clock.now() + NEW_VIEW_S
    while True:
        answers = _clients(clients).members.members(addresses, 0.0)
        sizes = {name: answer.size if isinstance(answer, Member) else None for name, answer in answers.items()}
        if set(sizes.values()) <= {expected}:
            return
        if clients.clock.now() > deadline:
            break
        clients.clock.wait([], POLL_S)
    seen = ", ".join(f"{name} counts {size or 'nobody'}" for name, size in sorted(sizes.items()))
    raise EffectFailed(
        left, f"it has left, and {expected} members should be: {seen}.",
        "Look at thems-jobs galera-health before anything else is done.", "galera-size",
    )  # fmt: skip


def back_up(platform: Platform, clients: Clients, facts: Facts, step: Step) -> Mapping[str, Any]:
    """Copy all data of a member that serves into the platform's backup folder."""
    del platform
    save(_clients(clients), facts, step, stopped=False)
    return {}


def save(databases: DatabaseClients, facts: Facts, step: Step, stopped: bool) -> None:
    """Copy the data of the step's machine, whose database runs or is stopped, into the platform's backup folder."""
    machine = facts.machines[step.target]
    if databases.backups is None:
        raise ValueError("a backup on a platform that has no folder for it")
    databases.backups.save(machine.name, lambda: databases.machines.begin_backup(machine.address, stopped))


def expect_data(platform: Platform, clients: Clients, facts: Facts, machine: Machine) -> None:
    """Raise Transient if a new member lacks any of the shop's data that another one has."""
    databases, present = _clients(clients), _present(platform, facts, machine.name)
    if not present:
        return
    source = present[0]
    wrong = databases.members.differences((source.name, source.address), (machine.name, machine.address))
    if wrong:
        raise Transient(machine.name, f"its data is not that of {source.name}: {'; '.join(wrong[:3])}.")


def _machines(platform: Platform, facts: Facts) -> list[Machine]:
    settings = settings_of(platform)
    return facts.of_tier(settings.tier) if settings else []


def _present(platform: Platform, facts: Facts, besides: str) -> list[Machine]:
    """Return the machines other than this one whose databases are members with all data."""
    return [m for m in _machines(platform, facts) if m.name != besides and joined(facts, m.name)]


def _clients(clients: Clients) -> DatabaseClients:
    if clients.databases is None:
        raise ValueError("a step on the database of a platform that has none")
    return clients.databases


# The proxies' tables


def change_table(
    platform: Platform, clients: Clients, facts: Facts, steps: Sequence[Step], weight: int | None
) -> float | None:
    """Put the machines of the steps into every proxy's table (any weight), drain them (0) or take them out (None).

    A drained writer hands over: the next machine in the table gets the writes, and every proxy must say so. Return
    for how many seconds at most no write was taken then, None if no writer was drained.
    """
    settings = settings_of(platform)
    if settings is None or facts.databases is None:
        return None
    hosts = {name: facts.machines[name].address for name in facts.databases.proxies if name in facts.machines}
    names, began = [step.target for step in steps], clients.clock.now()
    if _clients(clients).proxysql is not None:
        _change_proxysql(platform, clients, facts, hosts, names, weight)
    else:
        _change_haproxy(platform, clients, facts, hosts, names, weight)
    if weight != 0:
        return None
    _await_another_writer(platform, clients, hosts, facts, frozenset(names))
    return clients.clock.now() - began if writers(facts) & {*names} else None


def _change_haproxy(
    platform: Platform, clients: Clients, facts: Facts, hosts: Mapping[str, str], names: Sequence[str],
    weight: int | None,
) -> None:  # fmt: skip
    settings = settings_of(platform)
    port = settings.port if settings else 0
    use = None if weight is None else IN_USE if weight else 0
    known = {name: facts.machines[name].address for name in names if name in facts.machines}
    wanted = {name: (f"{known[name]}:{port}" if name in known else "", use) for name in names}
    order, least = _order(platform, facts, names, weight), 1 if weight == 0 else 0
    for name, address in known.items() if weight else ():  # it was about to leave, and stays after all
        member = told(facts, name)
        if facts.machines[name].phase is Phase.DRAINING and member and not in_service(member):
            _clients(clients).members.reject_queries(name, address, on=False)
    clients.balancers.change(hosts, wanted, least_serving=least, generations=_generations(facts), order=order)


def _order(platform: Platform, facts: Facts, names: Sequence[str], weight: int | None) -> list[str]:
    """Return who comes first in every proxy's table: the writer of now unless it is drained; the drained come last."""
    proxies = facts.databases.proxies.values() if facts.databases else ()
    seen = dict.fromkeys(name for proxy in proxies if isinstance(proxy, Proxy) for name in proxy.backends)
    first = to_write(platform, facts)
    writing = [name for name in sorted(writers(facts), key=lambda name: (name != first, name))
               if not (weight == 0 and name in names)]  # fmt: skip
    rest = [name for name in seen if name not in writing and name not in names]
    return [*dict.fromkeys([*writing, *rest, *names])]


def _change_proxysql(
    platform: Platform, clients: Clients, facts: Facts, hosts: Mapping[str, str], names: Sequence[str],
    weight: int | None,
) -> None:  # fmt: skip
    """ProxySQL's monitor decides who is in use; a member is drained by its own switch, which it follows.

    Sessions are cut when another writer is given by the list. Percona's switch lets them end, so it comes alone.
    """
    settings, databases, proxysql = settings_of(platform), _clients(clients), _clients(clients).proxysql
    known = {name: facts.machines[name].address for name in names if name in facts.machines}
    if weight:
        for name, address in known.items():
            databases.members.reject_queries(name, address, on=False)
    listed = [name for name in _order(platform, facts, names, weight) if weight is not None or name not in names]
    members = {name: facts.machines[name].address for name in listed if name in facts.machines}
    by_switch = weight == 0 and settings is not None and settings.flavour == "percona"
    if proxysql is not None and members and not by_switch:
        proxysql.change(hosts, members, _generations(facts))
    if weight == 0:
        demand_others(proxysql.show(hosts, members) if proxysql else {}, frozenset(names))
        for name, address in known.items():
            if told(facts, name):  # one that is dead has no sessions, and its proxies know
                databases.members.reject_queries(name, address, on=True)


def demand_others(views: Mapping[str, Proxy | Unknown], drained: frozenset[str]) -> None:
    """Raise Transient if a proxy would have nobody left to send sessions to, Unreachable if one does not answer."""
    for name, view in views.items():
        if isinstance(view, Unknown):
            raise Unreachable(name, view.reason)
        if not _used(view) - drained - {""}:
            raise Transient(name, f"without {' and '.join(sorted(drained))} it would have no member left.")


def _generations(facts: Facts) -> dict[str, str]:
    """Return the generation of every proxy's table as it was seen."""
    proxies = facts.databases.proxies if facts.databases else {}
    return {name: proxy.generation for name, proxy in proxies.items() if isinstance(proxy, Proxy)}


def _await_another_writer(
    platform: Platform, clients: Clients, hosts: Mapping[str, str], facts: Facts, drained: frozenset[str]
) -> None:
    """Raise Transient if a proxy still sends anybody to a drained machine after a while."""
    addresses = {machine.name: machine.address for machine in _machines(platform, facts) if machine.exists}
    deadline = clients.clock.now() + HAND_OVER_S
    while True:
        views = _ask_proxies(clients, _clients(clients), dict(hosts), addresses)
        still = sorted(name for name, view in views.items() if isinstance(view, Proxy) and _used(view) & drained)
        if not still:
            return
        if clients.clock.now() > deadline:
            raise Transient(still[0], f"it still sends sessions to {' or '.join(sorted(drained))}.")
        clients.clock.wait([], POLL_S)


def _used(proxy: Proxy) -> frozenset[str]:
    """Return who gets sessions of a proxy, or would."""
    return frozenset({proxy.writer, *(name for name, backend in proxy.backends.items() if backend.status == "up")})


def take_over_table(platform: Platform, clients: Clients, facts: Facts, proxy: Machine) -> None:
    """Give a new proxy the table of its peers; the first one of all gets what serves already."""
    settings, proxysql = settings_of(platform), _clients(clients).proxysql
    if settings is None:
        return
    entries = {
        machine.name: (f"{machine.address}:{settings.port}", IN_USE if machine.phase is Phase.SERVING else 0)
        for machine in _machines(platform, facts)
        if machine.phase in (Phase.SERVING, Phase.DRAINING) and told(facts, machine.name)
    }
    order, host = [name for name in _order(platform, facts, (), None) if name in entries], {proxy.name: proxy.address}
    if proxysql is not None:
        order += sorted(entries, key=lambda name: not entries[name][1])  # where there is no peer, whoever serves
        proxysql.change(host, {name: facts.machines[name].address for name in dict.fromkeys(order)})
    else:
        clients.balancers.change(host, entries, order=order)


def check_proxy(clients: Clients, machine: Machine) -> None:
    """Raise Transient if a machine's ProxySQL does not let us in, or has no hostgroups for the cluster."""
    proxysql = _clients(clients).proxysql
    if proxysql is not None:
        proxysql.check(machine.name, machine.address)


def hand_over_address(platform: Platform, clients: Clients, machine: Machine) -> None:
    """If a proxy has the VRRP address, make it give that to a peer; sessions end with it."""
    settings = settings_of(platform)
    if _clients(clients).proxysql is None:
        clients.balancers.hand_over(machine.name, machine.address)
    elif settings and settings.address in addresses_on(clients.ssh, machine.name, machine.address):
        clients.balancers.let_go(machine.name, machine.address)


def quiet(facts: Facts, name: str) -> bool:
    """True if nobody has a session on the machine, as it and the proxies tell. A proxy that cannot say so says no."""
    proxies, member = facts.databases.proxies.values() if facts.databases else (), told(facts, name)
    return not (member and member.connections) and all(
        isinstance(proxy, Proxy) and (name not in proxy.backends or proxy.backends[name].connections == 0)
        for proxy in proxies
    )


STEPS = {Action.BOOTSTRAP: bootstrap, Action.JOIN: join, Action.LEAVE: leave, Action.BACKUP: back_up}
