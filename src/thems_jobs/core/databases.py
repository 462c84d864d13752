"""The database tier in a plan: who is a member, whose turn it is, and when the cluster may be touched."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from thems_jobs.core import galera
from thems_jobs.core.facts import (
    Backend,
    Balancer,
    Cluster,
    Facts,
    Member,
    Phase,
    Proxy,
    Server,
    Standing,
    Unknown,
    number_of,
)
from thems_jobs.core.identity import tier_of
from thems_jobs.core.plan import Action, Condition, Refusal, Step, behind
from thems_jobs.core.platform import DatabaseCluster, Platform

NEW = "00000000-0000-0000-0000-000000000000"  # the uuid of a cluster that never was
IN_USE = 100  # the weight of a database machine that a proxy may send writes to; 0 drains it
TAKES_QUERIES = ("wsrep_reject_queries", "pxc_maint_mode")  # by flavour, what a member is taken out of service with
BRINGS_BACK = (Action.JOIN, Action.BOOTSTRAP, Action.AWAIT_SYNC, Action.AWAIT_UP)
OF_PROXIES = frozenset({"proxy-unreachable", "proxies-disagree", "vrrp-holder"})
# What a member may be while it gives its data away, to one that joins or to a backup: slower, and set apart for it,
# which the proxies see, and see the end of, some moments later.
SLOWER = ("galera-not-synced", "galera-busy", "galera-lagging")
WHILE_COPIED = (*SLOWER, galera.APART)


def settings_of(platform: Platform) -> DatabaseCluster | None:
    """Given a platform, return its database cluster, or None if it has none of its own."""
    return platform.database.cluster if platform.database else None


def is_database(platform: Platform, tier: str) -> bool:
    """True if machines of this tier are members of the database cluster."""
    settings = settings_of(platform)
    return settings is not None and tier == settings.tier


def is_proxy(platform: Platform, tier: str) -> bool:
    """True if machines of this tier stand before the database."""
    settings = settings_of(platform)
    return settings is not None and tier == settings.proxy_tier


def behind_proxysql(platform: Platform) -> bool:
    """True if ProxySQL stands before the database, and not HAProxy."""
    settings = settings_of(platform)
    return settings is not None and settings.proxy == "proxysql"


def of_database(platform: Platform, steps: Sequence[Step]) -> list[Step]:
    """Given steps, return those on the database's two tiers."""
    settings = settings_of(platform)
    if settings is None:
        return []
    return [step for step in steps if tier_of(platform, step.target) in (settings.tier, settings.proxy_tier)]


def told(facts: Facts, name: str) -> Member | None:
    """Given a machine, return what its database tells, or None if it tells nothing."""
    cluster = facts.databases
    answer = {**cluster.members, **cluster.arriving}.get(name) if cluster else None
    return answer if isinstance(answer, Member) else None


def joined(facts: Facts, name: str) -> bool:
    """True if the machine is a member with all data. One that gives data to another is."""
    member = told(facts, name)
    whole = (galera.SYNCED, galera.DONOR)
    return member is not None and member.status == "Primary" and member.state in whole and member.ready is True


def silent(facts: Facts, name: str) -> bool:
    """True if a member has not answered, but its machine says that it is one: a gate waits for its answer."""
    standing = facts.standings.get(name)
    return told(facts, name) is None and isinstance(standing, Standing) and standing.running and standing.view != "none"


def in_service(answer: Member | Unknown) -> bool:
    """True if a database answers and takes queries."""
    switched = {**galera.PERCONA_IN_SERVICE, **answer.switches} if isinstance(answer, Member) else {}
    return bool(switched) and all(switched[key] == galera.PERCONA_IN_SERVICE[key] for key in TAKES_QUERIES)


def needed(leaving: Member | Unknown, staying: Mapping[str, Member | Unknown]) -> str:
    """Given what one that shall leave tells now, and the others, return why it cannot be stopped, "" if it can.

    The others must be a majority of what is left, all in one view: who stops cleanly takes its vote with it.
    """
    for name, answer in sorted(staying.items()):
        if isinstance(answer, Unknown):
            return f"{name} does not answer: {answer.reason.rstrip('.')}"
        if answer.status != "Primary":
            return f"{name} is {answer.status or 'not known to be Primary'}"
    seen = {(answer.uuid, answer.view, answer.size) for answer in staying.values() if isinstance(answer, Member)}
    if len(seen) > 1:
        return f"{', '.join(sorted(staying))} are not all in one view"
    if not staying:
        last = isinstance(leaving, Member) and leaving.status == "Primary"
        return "no other member is there" if last else ""
    left = size_without(leaving, staying)
    if 2 * len(staying) <= left:
        return f"only {len(staying)} of the {left} others can be asked"
    if isinstance(leaving, Member) and leaving.connections:
        return f"the shop is connected to it ({leaving.connections})"
    return ""


def size_without(leaving: Member | Unknown, staying: Mapping[str, Member | Unknown]) -> int:
    """Given what they tell before, return how many members there are when one has left that may be one of them."""
    others = [answer for answer in staying.values() if isinstance(answer, Member)]
    size = max((answer.size or 0 for answer in others), default=0)
    if isinstance(leaving, Member):
        inside = any((leaving.uuid, leaving.view) == (answer.uuid, answer.view) for answer in others)
    else:  # it may be copying, which it does as a member, and tells nobody
        inside = size > len(staying)
    return size - inside


def founded(platform: Platform, facts: Facts) -> bool:
    """True if there is, or ever was, a cluster: then nobody may make another one by guess."""
    settings = settings_of(platform)
    machines = facts.of_tier(settings.tier) if settings else []
    relied_on = (Phase.SERVING, Phase.DRAINING)
    return any(m.phase in relied_on or m.joining or told(facts, m.name) is not None for m in machines)


def views(facts: Facts) -> dict[str, Balancer | Unknown]:
    """Return the proxies' answers in the form of the balancers'."""
    proxies = facts.databases.proxies if facts.databases else {}
    return {
        name: Balancer(
            {server: _as_server(facts, server, backend) for server, backend in proxy.backends.items()},
            proxy.generation, proxy.holds, sum(backend.connections for backend in proxy.backends.values()),
        ) if isinstance(proxy, Proxy) else proxy
        for name, proxy in proxies.items()
    }  # fmt: skip


def _as_server(facts: Facts, name: str, backend: Backend) -> Server:
    weight = 0 if backend.status == "drained" or _switched_out(facts, name, backend) else IN_USE
    return Server(backend.address, weight, backend.status == "up", backend.connections)


def _switched_out(facts: Facts, name: str, backend: Backend) -> bool:
    """True if a leaving machine is down on a proxy for its own switch, or is dead.

    To ProxySQL there is no other drain; a member that serves, and is down for a switch, is somebody's work.
    """
    machine, member = facts.machines.get(name), told(facts, name)
    if backend.status != "down" or machine is None or machine.phase is not Phase.DRAINING:
        return False
    return member is None or any(member.switches.get(key, value) != value for key, value in galera.NOT_DRAINED.items())


def writers(facts: Facts) -> frozenset[str]:
    """Return who gets the writes, as each proxy that answers tells."""
    proxies = facts.databases.proxies.values() if facts.databases else ()
    return frozenset(proxy.writer for proxy in proxies if isinstance(proxy, Proxy) and proxy.writer)


def to_write(platform: Platform, facts: Facts) -> str:
    """Return who shall be the writer where the proxies' lists have other orders, as somebody's hand leaves them.

    It is the one that the shop uses now; "" if they agree, or if it is their checks that differ.
    """
    settings, cluster = settings_of(platform), facts.databases
    if settings is None or settings.proxy != "haproxy" or cluster is None:
        return ""
    seen = {name: proxy for name, proxy in cluster.proxies.items() if isinstance(proxy, Proxy)}
    down = {
        frozenset(name for name, b in proxy.backends.items() if name in cluster.members and b.status == "down")
        for proxy in seen.values()
    }
    named = {name: proxy.writer for name, proxy in seen.items() if proxy.writer}
    if len(down) > 1 or len(set(named.values())) < 2:
        return ""
    able = {name: writer for name, writer in named.items() if writer in cluster.members}
    return next((able[holder] for holder in cluster.holders if holder in able), min(able.values(), default=""))


def in_turn(platform: Platform, facts: Facts, tier: str, steps: Sequence[Step], leaving: Sequence[str]) -> list[Step]:
    """Given a tier's steps and who leaves, in that order, return them so that the cluster changes by one at a time.

    The first of a cluster that never was makes it; each other joins when the one before serves. Who leaves goes when
    the one before is off: what Proxmox does with it then is nothing to the cluster.
    """
    if not is_database(platform, tier):
        return list(steps)
    joins = sorted((step.target for step in steps if step.action is Action.JOIN), key=number_of)
    founder = joins[0] if joins and not founded(platform, facts) else ""
    serves = {step.target: step.key for step in steps if step.action is Action.SERVE}
    off = {step.target: step.key for step in steps if step.action not in (Action.DESTROY, Action.AWAIT_DESTROY)}
    before: dict[str, frozenset[str]] = {}
    for number, name in enumerate(joins):
        later = set(joins[number:])
        before[name] = frozenset(key for target, key in serves.items() if target not in later)
    gone = [name for name in leaving if name in off]
    first = {name: next(step.key for step in steps if step.target == name) for name in gone}
    waits = {first[name]: frozenset({off[earlier]}) for earlier, name in pairwise(gone)}
    waits |= {f"{Action.JOIN} {name}": before[name] for name in joins}
    turned = [behind(step, waits[step.key]) if waits.get(step.key) else step for step in steps]
    return _founding(turned, founder) if founder else turned


def _founding(steps: Sequence[Step], founder: str) -> list[Step]:
    """Given steps in which all join, return them with one that makes the cluster instead: it has all data at once."""
    sync, made = f"{Action.AWAIT_SYNC} {founder}", f"{Action.BOOTSTRAP} {founder}"
    return [
        replace(step, action=Action.BOOTSTRAP) if step.key == f"{Action.JOIN} {founder}"
        else replace(step, after=(step.after - {sync}) | {made}) if sync in step.after
        else step
        for step in steps
        if step.key != sync
    ]  # fmt: skip


def closed(platform: Platform, facts: Facts, steps: Sequence[Step], found: Sequence[Condition]) -> list[Refusal]:
    """Given the steps on the database's two tiers and what `checks` found, return every reason not to take them."""
    settings, cluster = settings_of(platform), facts.databases
    if settings is None or not steps:
        return []
    if cluster is None:
        return [Refusal("database-unreachable", f"tier {settings.tier}", "not asked", "an answer from every member",
                        "Run the command again; if that does not help, report it.")]  # fmt: skip
    down = _nobody_left(platform, facts, settings) if not _staying(facts, cluster, steps) else []
    return down + _would_be_lost(facts, steps) + list(galera.refusals(found))


def _would_be_lost(facts: Facts, steps: Sequence[Step]) -> list[Refusal]:
    """Nobody joins whose data the cluster lacks, as far as a stopped database has told: joining would drop it.

    A machine that never served may have begun a cluster that came to nothing: nobody relied on that.
    """
    present = {name: told(facts, name) for name in facts.machines if joined(facts, name)}
    uuids, newest = {member.uuid for member in present.values() if member and member.uuid}, last_seqno(facts, present)
    found = list[Refusal]()
    for name in (step.target for step in steps if step.action is Action.JOIN):
        stands = facts.standings.get(name)
        if not uuids or not isinstance(stands, Standing) or stands.running or stands.uuid == NEW:
            continue
        if stands.uuid in uuids:
            found += [ahead(name, stands.seqno, newest)] if newest is not None and stands.seqno > newest else []
        elif facts.machines[name].phase is not Phase.BUILDING:
            found.append(of_another_cluster(f"{name} {stands.uuid}, the members {', '.join(sorted(uuids))}"))
    return found


def last_seqno(facts: Facts, names: Collection[str]) -> int | None:
    """Given members, return the last transaction that any of them has; None if none tells."""
    members = [told(facts, name) for name in names]
    return max((member.seqno for member in members if member and member.seqno is not None), default=None)


def ahead(name: str, seqno: int, newest: int) -> Refusal:
    """Given a machine that is to join and its last transaction, which the cluster lacks, return why it must not."""
    return Refusal(
        "recovery-newer-data", name, f"its last transaction is {seqno}", f"at most {newest}, the cluster's",
        "The cluster was made of older data: stop it, and decide which to keep.",
    )  # fmt: skip


def of_another_cluster(uuids: str) -> Refusal:
    """Given machines and their clusters' uuids, return why they must not join one another."""
    return Refusal(
        "recovery-uuids-differ", "cluster", uuids, "one uuid on all machines",
        "Somebody made a second cluster: find out which one the shop wrote to, and set the other's data aside.",
    )  # fmt: skip


def _staying(facts: Facts, cluster: Cluster, steps: Sequence[Step]) -> dict[str, Member | Unknown]:
    """Given the steps, return the members but those that they bring back, and those that are off and removed for it."""
    coming = {step.target for step in steps if step.action in BRINGS_BACK}
    off = {name for name, machine in facts.machines.items() if machine.exists and not machine.running}
    gone = {step.target for step in steps if step.action is Action.AWAIT_DESTROY and step.target in off}
    return {name: answer for name, answer in cluster.members.items() if name not in coming | gone}


def checks(
    platform: Platform, facts: Facts, steps: Sequence[Step], targets: Mapping[str, int]
) -> tuple[Condition, ...]:
    """Given the steps on the database's two tiers and targets by tier, return what must hold for them to be taken.

    Members that the plan brings back or drains, and proxies that it makes or removes, are not held against it.
    """
    settings, cluster = settings_of(platform), facts.databases
    if settings is None or cluster is None or not steps:
        return ()
    touched = {step.target for step in steps if step.action is not Action.RETIRE}
    members = _staying(facts, cluster, steps)
    if not members:
        return ()
    proxies = {name: answer for name, answer in cluster.proxies.items() if name not in touched}
    moving = tuple(sorted({*cluster.moving, *(cluster.members.keys() - members.keys())}))
    seen = replace(cluster, members=members, proxies=proxies, expected=len(members), moving=moving)
    asked = galera.Asked(target=targets.get(settings.tier) or platform.tiers[settings.tier].baseline)
    found = galera.conditions(settings, seen, asked, _allowed(facts, settings, members, steps))
    made = any(step.action is Action.SERVE and step.target not in cluster.members for step in steps)
    passed = {"galera-placement"}  # where machines go is this plan's own choice
    passed |= OF_PROXIES if made and not proxies else set()
    return tuple(check for check in found if check.reference not in passed)


def _nobody_left(platform: Platform, facts: Facts, settings: DatabaseCluster) -> list[Refusal]:
    """Given that no machine is a member: a cluster that is not made yet cannot be harmed, one that is down can."""
    machines = facts.of_tier(settings.tier)
    if not founded(platform, facts) or any(joined(facts, machine.name) for machine in machines):
        return []
    names = ", ".join(machine.name for machine in machines if machine.exists)
    return [
        Refusal(
            "galera-all-down", f"tier {settings.tier}", f"no database is a member of a cluster ({names})",
            "at least one member with all data", "Find out which one has the newest data: thems-jobs galera-recover.",
        )
    ]  # fmt: skip


def _allowed(
    facts: Facts, settings: DatabaseCluster, members: Mapping[str, Member | Unknown], steps: Sequence[Step]
) -> set[tuple[str, str]]:
    """Return what is accepted of members: any of them may be the donor of one that joins, or just have been.

    The proxies leave the donor alone, or if there is none now, who has just been it: of the others nobody is down.
    One that is to be drained may be so on some of the proxies already, and one that is to be taken out of their lists
    may still be there. One that has all data and is about to serve may be a writer already: that gives all one order.
    """
    copied = facts.databases.copied if facts.databases else ()
    allow = {(reference, name) for reference in WHILE_COPIED for name in copied}
    going = {step.target for step in steps if step.action in (Action.WITHDRAW, Action.RETIRE)}
    coming = {s.target for s in steps if s.action is Action.SERVE and _arrived(facts, s.target)}
    allow |= {("proxies-disagree", name) for name in going | coming}
    if _one_joins(facts, settings):
        giving = {name for name, seen in members.items() if isinstance(seen, Member) and seen.state == galera.DONOR}
        allow |= {(reference, name) for reference in SLOWER for name in members}
        allow |= {(galera.APART, name) for name in giving or members}
    return allow


def _arrived(facts: Facts, name: str) -> bool:
    return facts.databases is not None and name in facts.databases.arriving and joined(facts, name)


def _one_joins(facts: Facts, settings: DatabaseCluster) -> bool:
    return any(machine.joining and not joined(facts, machine.name) for machine in facts.of_tier(settings.tier))


def regrouped(
    platform: Platform, facts: Facts, answers: Mapping[str, Member | Unknown], proxies: Mapping[str, Proxy | Unknown]
) -> Cluster | None:
    """Given what database machines and proxies tell, return the cluster: who serves is a member, others are moving."""
    settings = settings_of(platform)
    if settings is None:
        return None
    machines = [machine for machine in facts.of_tier(settings.tier) if machine.exists]
    serving = [machine.name for machine in machines if machine.phase is Phase.SERVING]
    silent = Unknown("it does not run")
    return Cluster(
        members={name: answers.get(name, silent) for name in serving},
        proxies=proxies,
        holders=tuple(
            name for name, proxy in proxies.items() if isinstance(proxy, Proxy) and settings.address in proxy.holds
        ),
        hosts={machine.name: machine.node for machine in machines},
        nodes=tuple(name for name in platform.proxmox.nodes if name in facts.nodes and facts.nodes[name].online),
        expected=len(serving),
        moving=tuple(machine.name for machine in machines if machine.name not in serving),
        arriving={machine.name: answers[machine.name] for machine in machines
                  if machine.name not in serving and machine.name in answers},
    )  # fmt: skip
