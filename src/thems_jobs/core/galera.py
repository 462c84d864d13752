"""The database cluster's gates: what must hold of every member and every proxy before anything is done to it.

One table of checks is the source of all: the verdict is what is not well in it. A fact that is missing is not well.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from thems_jobs.core.facts import Cluster, Member, Proxy, Unknown
from thems_jobs.core.plan import Condition, Refusal
from thems_jobs.core.platform import DatabaseCluster
from thems_jobs.core.rejoin import forecast

# In the order in which people read them: what is wrong with all first.
CONDITIONS: Mapping[str, str] = {
    "database-unreachable": "every member answers",
    "proxy-unreachable": "every proxy answers",
    "galera-not-primary": "primary component",
    "galera-views-differ": "all in one view",
    "galera-size": "expected size",
    "galera-not-synced": "synced",
    "galera-not-ready": "connected, ready",
    "galera-maintenance": "in service",
    "galera-lagging": "keeps up",
    "galera-busy": "nothing else runs",
    "proxies-disagree": "proxies agree",
    "galera-writer": "writer left alone",
    "galera-majority": "odd, three at least",
    "galera-placement": "nodes of their own",
    "galera-outage-needs-sst": "rejoins by IST",
    "vrrp-holder": "one holds the address",
}

SYNCED, DONOR = 4, 2
STATES = {0: "Undefined", 1: "Joining", 2: "Donor/Desynced", 3: "Joined", 4: "Synced", 5: "Error"}
LEAST = 3  # members: of two, neither is a majority without the other
NOT_TOLD = "not told"
UNASKED = "–"
APART = "apart"  # allowed of a member: the proxies send nobody to it, as to one that gives its data away

# Switches that take a member out of service, and the value with which they do not.
NOT_DRAINED = {"wsrep_reject_queries": "NONE", "pxc_maint_mode": "DISABLED"}
IN_SERVICE = {"wsrep_reject_queries": "NONE", "wsrep_desync": "OFF", "wsrep_sst_donor_rejects_queries": "OFF"}
PERCONA_IN_SERVICE = {**IN_SERVICE, "pxc_maint_mode": "DISABLED"}

Action = Literal["none", "remove", "restart", "add", "upgrade"]
ACTIONS: Collection[Action] = ("remove", "restart", "add", "upgrade")
LEAVING: Collection[Action] = ("remove", "restart", "upgrade")
Allowed = Collection[tuple[str, str]]


@dataclass(frozen=True)
class Asked:
    """What is to be done to which member. `none` asks whether the cluster is well as it is.

    `target` is how many members there shall be at the end of the whole plan; None: this action is all of it.
    """

    action: Action = "none"
    name: str = ""
    outage_s: float = 0.0  # how long a member that comes back is expected to be away
    target: int | None = None


def half_way(*names: str) -> frozenset[tuple[str, str]]:
    """Given members that a plan is working on, return what they are allowed meanwhile.

    They may be out of service, donors, behind, busy and absent from the proxies. One that is stopped, or has not
    joined yet, belongs to the cluster's `moving` and not to its members.
    """
    working = ("galera-not-synced", "galera-maintenance", "galera-lagging", "galera-busy", "proxies-disagree")
    return frozenset((reference, name) for name in names for reference in working)


def with_place(cluster: Cluster, name: str) -> Cluster:
    """Given one that is to be added and stands nowhere yet, return the cluster with it on the emptiest node."""
    if name in cluster.hosts or not cluster.nodes:
        return cluster
    number = Counter(cluster.hosts[member] for member in cluster.hosts)
    emptiest = min(cluster.nodes, key=lambda node: number[node])
    return replace(cluster, hosts={**cluster.hosts, name: emptiest})


def verdict(
    settings: DatabaseCluster, cluster: Cluster, asked: Asked, allow: Allowed = frozenset()
) -> tuple[Refusal, ...]:
    """Given the cluster and what is to be done to it, return every reason not to; () means that it is safe.

    `allow` has pairs of reference and member (or proxy, or address) that are accepted by explicit choice.
    """
    return refusals(conditions(settings, cluster, asked, allow))


def refusals(checks: Collection[Condition]) -> tuple[Refusal, ...]:
    """Given checks, return a refusal for each that is not well."""
    return tuple(
        Refusal(check.reference, check.subject, check.measured, check.required, check.remedy)
        for check in checks
        if check.ok is False
    )


def conditions(
    settings: DatabaseCluster, cluster: Cluster, asked: Asked, allow: Allowed = frozenset()
) -> tuple[Condition, ...]:
    """Given the cluster and what is to be done to it, return every condition for every member, proxy and the whole."""
    checks = [
        *_answers(settings, cluster, asked),
        *_views(cluster),
        *_membership(cluster, allow),
        *_work(settings, cluster),
        *_proxies(cluster, allow),
        *_writer(cluster, asked),
        _majority(settings, cluster, asked),
        *_placement(cluster, asked),
        *_outage(cluster, asked),
        _holder(settings, cluster),
    ]
    order = list(CONDITIONS)
    allowed = (_accepted(check) if (check.reference, check.subject) in allow else check for check in checks)
    return tuple(sorted(allowed, key=lambda check: order.index(check.reference)))


def _accepted(check: Condition) -> Condition:
    """Given a check whose outcome is accepted by choice, return it so. Of states only the donor's can be accepted."""
    if check.ok is not False or check.reference == "galera-not-synced":
        return check
    return Condition(check.reference, check.subject, f"{check.measured} (accepted)", check.required, True)


def _answers(settings: DatabaseCluster, cluster: Cluster, asked: Asked) -> Iterator[Condition]:
    """Every member and every proxy answers, and there are some to ask."""
    members: dict[str, Member | Unknown] = dict(cluster.members)
    if not members:
        members[f"tier {settings.tier}"] = Unknown("no member is known")
    if asked.action in LEAVING and asked.name not in members:
        members[asked.name] = Unknown("it is not a member that was asked")
    for name, member in members.items():
        yield Condition(
            "database-unreachable", name, member.reason if isinstance(member, Unknown) else "answers",
            "an answer from every member", not isinstance(member, Unknown),
            "Look whether the machine runs and MariaDB or Percona in it (systemctl status mariadb mysql).",
        )  # fmt: skip
    proxies: Mapping[str, Proxy | Unknown] = cluster.proxies or {
        f"tier {settings.proxy_tier}": Unknown("no proxy is known")
    }
    for name, proxy in proxies.items():
        yield Condition(
            "proxy-unreachable", name, proxy.reason if isinstance(proxy, Unknown) else "answers",
            "an answer from every proxy", not isinstance(proxy, Unknown),
            "Look whether the machine runs and the proxy in it; the other proxy serves meanwhile.",
        )  # fmt: skip


def known(cluster: Cluster) -> dict[str, Member]:
    """Given the cluster, return the members that answer."""
    return {name: member for name, member in cluster.members.items() if isinstance(member, Member)}


def _each(
    reference: str,
    required: str,
    remedy: str,
    cluster: Cluster,
    look: Callable[[str, Member], tuple[str, bool]],
) -> Iterator[Condition]:
    """Ask one thing of every member; of those that do not answer it could not be asked."""
    for name, member in cluster.members.items():
        if isinstance(member, Unknown):
            yield Condition(reference, name, UNASKED, required, None)
        else:
            measured, ok = look(name, member)
            yield Condition(reference, name, measured, required, ok, remedy)


def _views(cluster: Cluster) -> Iterator[Condition]:
    """All members are in the same view of the same cluster: partitions that each look healthy are seen here."""
    views = {name: (member.uuid, member.view) for name, member in known(cluster).items()}
    counted = Counter(views.values()).most_common()
    alone = len(counted) == 1 or (counted and counted[0][1] > counted[1][1])
    common = counted[0][0] if alone else None  # two halves of the same size: nobody knows which is right
    indexes = Counter(member.index for member in known(cluster).values())

    def look(_: str, member: Member) -> tuple[str, bool]:
        if member.uuid is None or member.view is None or member.index is None:
            return NOT_TOLD, False
        measured = f"view {member.view} of {member.uuid[:8]}"
        if indexes[member.index] > 1:
            return f"{measured}, index {member.index} as another member", False
        return measured, (member.uuid, member.view) == common

    required = f"view {common[1]} of {str(common[0])[:8]}, as the others" if common else "one view of all members"
    remedy = "Members that see different clusters must not be touched: find out which one has the newest data."
    yield from _each("galera-views-differ", required, remedy, cluster, look)


def _membership(cluster: Cluster, allow: Allowed) -> Iterator[Condition]:
    """What one member tells of its place in the cluster."""
    most = cluster.expected + len(cluster.moving)

    def primary(_: str, member: Member) -> tuple[str, bool]:
        return _told(member.status), member.status == "Primary"

    def size(_: str, member: Member) -> tuple[str, bool]:
        return _told(member.size), member.size is not None and cluster.expected <= member.size <= most

    def synced(name: str, member: Member) -> tuple[str, bool]:
        if member.state is None:
            return NOT_TOLD, False
        chosen = member.state == DONOR and ("galera-not-synced", name) in allow
        words = f"{STATES.get(member.state, 'unknown')} ({member.state})"
        return f"{words} (accepted)" if chosen else words, chosen or member.state == SYNCED

    def ready(_: str, member: Member) -> tuple[str, bool]:
        told = {"wsrep_connected": member.connected, "wsrep_ready": member.ready}
        wrong = [f"{key} {_on(value)}" for key, value in told.items() if value is not True]
        return ", ".join(wrong) or "connected, ready", not wrong

    remedy = "It has lost the majority: mend the network, or see the runbook. Never bootstrap one by guess."
    yield from _each("galera-not-primary", "Primary", remedy, cluster, primary)
    required = f"{cluster.expected}" if most == cluster.expected else f"{cluster.expected} to {most}"
    remedy = "Find out which member is missing, or which one is a stranger (wsrep_incoming_addresses)."
    yield from _each("galera-size", required, remedy, cluster, size)
    yield from _each("galera-not-synced", "Synced (4)", "Wait until it is, or look at its log.", cluster, synced)
    yield from _each("galera-not-ready", "connected, ready", "Look at its log (journalctl -u mariadb).", cluster, ready)


def _work(settings: DatabaseCluster, cluster: Cluster) -> Iterator[Condition]:
    """What one member tells of its work."""
    wanted = PERCONA_IN_SERVICE if settings.flavour == "percona" else IN_SERVICE
    longest, most = settings.receive_queue_limit, settings.flow_control_limit_ratio

    def in_service(_: str, member: Member) -> tuple[str, bool]:
        told = {key: member.switches.get(key, NOT_TOLD) for key in wanted}
        wrong = [f"{key} {value}" for key, value in told.items() if value != wanted[key]]
        return ", ".join(wrong) or "in service", not wrong

    def keeps_up(_: str, member: Member) -> tuple[str, bool]:
        queue, stopped = member.receive_queue, member.flow_control_ratio
        if queue is None or stopped is None:
            return f"queue {_told(queue)}, writers stopped {_told(stopped)}", False
        measured = f"queue {queue:.1f}, writers stopped {stopped:.1%} of {member.window_s:.2g} s"
        return measured, queue <= longest and stopped <= most

    def idle(_: str, member: Member) -> tuple[str, bool]:
        return NOT_TOLD if member.busy is None else ", ".join(member.busy) or "nothing runs", member.busy == ()

    remedy = "Somebody is working on it: ask who, or switch it back."
    yield from _each("galera-maintenance", "in service", remedy, cluster, in_service)
    required = f"queue at most {longest:g}, writers stopped at most {most:.0%}"
    remedy = "Wait for the load to fall, or look for the slowest member (wsrep_flow_control_sent)."
    yield from _each("galera-lagging", required, remedy, cluster, keeps_up)
    yield from _each("galera-busy", "nothing runs", "Wait until it has ended.", cluster, idle)


def _told(value: object) -> str:
    return NOT_TOLD if value is None else str(value)


def _on(value: bool | None) -> str:
    return NOT_TOLD if value is None else "ON" if value else "OFF"


def _proxies(cluster: Cluster, allow: Allowed) -> Iterator[Condition]:
    """Every proxy sends the writes to one and the same member, and has all members in reserve."""
    answering = [proxy for proxy in cluster.proxies.values() if isinstance(proxy, Proxy)]
    allowed = {name for reference, name in allow if reference == "proxies-disagree"}
    excused = allowed | {*cluster.moving}
    able = {*cluster.members} | (allowed & {*cluster.moving})  # on their way in or out, with all data: they are up
    apart = {name for reference, name in allow if reference == APART}
    writers = sorted({proxy.writer for proxy in answering if proxy.writer} - excused)
    wanted = [name for name in cluster.members if name not in excused]
    # The only one that there is may give its data to the second one: there is nobody else to write to then.
    none_able = len(cluster.members) == 1 and cluster.members.keys() <= excused | apart
    required = f"one writer and {len(wanted)} members up, the same on every proxy"
    for name, proxy in cluster.proxies.items():
        if isinstance(proxy, Unknown):
            yield Condition("proxies-disagree", name, UNASKED, required, None)
            continue
        seen = {member: _status(proxy, member) for member in wanted}
        aside = [member for member in wanted if member in apart and seen[member] == "down"]
        wrong = [f"{member} {seen[member]}" for member in wanted if seen[member] != "up" and member not in aside]
        wrong += [f"{member} is no member" for member in proxy.backends if member not in {*cluster.members, *excused}]
        if proxy.writer not in able and (proxy.writer or not none_able):
            wrong.append(f"writer {proxy.writer} is no member" if proxy.writer else "no writer")
        elif len(writers) > 1 and proxy.writer in writers:
            wrong.append(f"writer {proxy.writer}, elsewhere {', '.join({*writers} - {proxy.writer})}")
        accepted = "".join(f", {member} down (accepted)" for member in aside)
        measured = ", ".join(wrong) or f"writer {proxy.writer or 'none'}, {len(wanted) - len(aside)} up{accepted}"
        remedy = "Look at the proxies' checks of that member; a proxy with another list was changed by hand."
        yield Condition("proxies-disagree", name, measured, required, not wrong, remedy)


def _status(proxy: Proxy, member: str) -> str:
    return proxy.backends[member].status if member in proxy.backends else "not in its list"


def _writer(cluster: Cluster, asked: Asked) -> Iterator[Condition]:
    """A member that is to leave is no proxy's writer."""
    if asked.action not in LEAVING:
        return
    writes = sorted(
        name for name, proxy in cluster.proxies.items() if isinstance(proxy, Proxy) and proxy.writer == asked.name
    )
    silent = not all(isinstance(proxy, Proxy) for proxy in cluster.proxies.values())
    ok = False if writes else None if silent else True
    measured = f"the writer of {', '.join(writes)}" if writes else UNASKED if silent else "in reserve"
    remedy = "Hand the writes over to another member first: it goes last."
    yield Condition("galera-writer", asked.name, measured, "not the writer", ok, remedy)


def _majority(settings: DatabaseCluster, cluster: Cluster, asked: Asked) -> Condition:
    """The members at the end are odd in number and at least three; on the way those that stay are a majority."""
    now = cluster.expected
    after = now + (asked.action == "add") - (asked.action == "remove")
    end = after if asked.target is None else asked.target
    survivors = now - (asked.action in LEAVING)
    ok = end >= LEAST and end % 2 == 1 and (survivors == now or (survivors > 1 and 2 * survivors > now))
    first = f"{survivors} without it, " if survivors != now else ""
    return Condition(
        "galera-majority", f"tier {settings.tier}", f"{first}{end} in the end",
        f"an odd number in the end, {LEAST} at least, and a majority of {now} at any time", ok,
        "Add or remove members in twos, one at a time.",
    )  # fmt: skip


def _placement(cluster: Cluster, asked: Asked) -> Iterator[Condition]:
    """After the action no Proxmox node has two members while another has none."""
    names = {*cluster.members} | ({asked.name} if asked.action == "add" else set())
    names -= {asked.name} if asked.action == "remove" else set()
    hosts = {name: cluster.hosts.get(name, "") for name in sorted(names)}
    number = Counter(hosts.values())
    free = sorted(node for node in cluster.nodes if not number[node])
    for name, host in hosts.items():
        crowded = number[host] > 1
        measured = f"{host}, with {number[host] - 1} other" if host and crowded else host or NOT_TOLD
        yield Condition(
            "galera-placement", name, measured,
            f"a node of its own while there is one ({', '.join(free)})" if free else "a Proxmox node",
            bool(host) and not (crowded and free), "Migrate one of them, or choose another machine.",
        )  # fmt: skip


def _outage(cluster: Cluster, asked: Asked) -> Iterator[Condition]:
    """A member that comes back finds what it missed in a donor's gcache, so that nobody has to copy everything."""
    if asked.action not in ("restart", "upgrade"):
        return
    if isinstance(cluster.members.get(asked.name, Unknown("")), Unknown):
        yield Condition("galera-outage-needs-sst", asked.name, UNASKED, "IST", None)
        return
    rejoin = forecast(cluster, asked.name, asked.outage_s)
    yield Condition(
        "galera-outage-needs-sst", asked.name, f"{rejoin.by}: {rejoin.why}",
        f"IST after {asked.outage_s:g} s", rejoin.by == "IST",
        "Do it while less is written, make gcache_mib larger, or accept the full copy.",
    )  # fmt: skip


def _holder(settings: DatabaseCluster, cluster: Cluster) -> Condition:
    """Exactly one proxy has the VRRP address."""
    silent = not all(isinstance(proxy, Proxy) for proxy in cluster.proxies.values()) or not cluster.proxies
    ok = len(cluster.holders) == 1
    return Condition(
        "vrrp-holder", settings.address, f"held by {' and '.join(cluster.holders) or 'nobody'}", "exactly one holder",
        None if silent and not cluster.holders else ok,
        "Look at keepalived on the proxies (journalctl -u keepalived) and at the network between them.",
    )  # fmt: skip
