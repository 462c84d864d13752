"""What the database cluster and its proxies look like after a step went well; the rest of the world is in model.py."""

from collections.abc import Mapping
from dataclasses import replace

from thems_jobs.core.databases import is_database, is_proxy, regrouped, settings_of, to_write, told
from thems_jobs.core.facts import Backend, Backup, Facts, Member, Proxy, Standing, Unknown
from thems_jobs.core.galera import PERCONA_IN_SERVICE, SYNCED
from thems_jobs.core.identity import address_of, tier_of
from thems_jobs.core.plan import Action, Step
from thems_jobs.core.platform import Platform

NOT_STARTED = Unknown("it was not started")

Answers = Mapping[str, Member | Unknown]
Proxies = Mapping[str, Proxy | Unknown]


def after(platform: Platform, facts: Facts, step: Step) -> Facts:
    """Given facts that hold a step's effect on its machine, return them with its effect on the database."""
    cluster, name = facts.databases, step.target
    if cluster is None:
        return facts
    tier = tier_of(platform, name) or ""
    answers: Answers = {**cluster.members, **cluster.arriving}
    proxies: Proxies = cluster.proxies
    if is_database(platform, tier):
        if step.action is Action.RESTORE and to_write(platform, facts) == name:
            proxies = {key: replace(p, writer=name) if isinstance(p, Proxy) else p for key, p in proxies.items()}
        else:
            answers, proxies = _of_member(platform, answers, proxies, step)
    elif is_proxy(platform, tier):
        proxies = _of_proxy(platform, proxies, step)
    now = regrouped(platform, facts, _in_one_view(answers), _with_writers(proxies))
    return replace(facts, databases=now)


def saved(facts: Facts, name: str) -> Backup:
    """Given the machine that was copied, return its backup."""
    member, standing = told(facts, name), facts.standings.get(name)
    if member is not None:
        return Backup(facts.at, name, member.uuid or "", member.seqno or 0)
    stood = standing if isinstance(standing, Standing) else Standing(False, "", 0, "none")
    return Backup(facts.at, name, stood.uuid, stood.seqno)


def _of_member(platform: Platform, answers: Answers, proxies: Proxies, step: Step) -> tuple[Answers, Proxies]:
    name = step.target
    match step.action:
        case Action.BOOTSTRAP | Action.AWAIT_SYNC:
            answers = {**answers, name: _synced(len(answers))}
        case Action.START | Action.LEAVE | Action.AWAIT_STOP:
            answers = {**answers, name: NOT_STARTED}
        case Action.AWAIT_DESTROY:
            answers = {other: answer for other, answer in answers.items() if other != name}
        case Action.ADMIT | Action.SERVE | Action.RESTORE | Action.AWAIT_UP:
            seen = "down" if step.action in (Action.ADMIT, Action.RESTORE) else "up"
            proxies = _everywhere(proxies, name, Backend(address_of(platform, name), seen, 0))
        case Action.WITHDRAW:
            known = any(isinstance(proxy, Proxy) and name in proxy.backends for proxy in proxies.values())
            drained = Backend(address_of(platform, name), "drained", 0)
            proxies = _everywhere(proxies, name, drained if known else None)
        case Action.RETIRE:
            proxies = _everywhere(proxies, name, None)
    return answers, proxies


def _synced(index: int) -> Member:
    """Return a member as a healthy one tells of itself."""
    return Member(
        status="Primary", uuid="11111111-2222-3333-4444-555555555555", view=1, size=1, index=index, state=SYNCED,
        connected=True, ready=True, switches=PERCONA_IN_SERVICE, receive_queue=0.0, flow_control_ratio=0.0,
        window_s=0.0, busy=(), seqno=1,
        gcache_downto=1, gcache_bytes=1 << 27, write_bytes_s=0.0, data_bytes=1 << 20, connections=0,
    )  # fmt: skip


def _in_one_view(answers: Answers) -> Answers:
    """Given members, return them as those of one cluster: each knows how many there are and has a number of its own."""
    there = [name for name, answer in answers.items() if isinstance(answer, Member) and answer.status == "Primary"]
    return {
        name: replace(answer, size=len(there), index=there.index(name), view=1)
        if isinstance(answer, Member) and name in there else answer
        for name, answer in answers.items()
    }  # fmt: skip


def _everywhere(proxies: Proxies, name: str, backend: Backend | None) -> Proxies:
    """Given how every proxy shall see a machine, None: not at all, return the proxies so."""
    changed: dict[str, Proxy | Unknown] = {}
    for proxy_name, proxy in proxies.items():
        if isinstance(proxy, Proxy):
            others = {other: seen for other, seen in proxy.backends.items() if other != name}
            proxy = replace(proxy, backends={**others, name: backend} if backend else others)
        changed[proxy_name] = proxy
    return changed


def _with_writers(proxies: Proxies) -> Proxies:
    """Given the proxies, return them with the first machine that is up as the writer."""
    changed: dict[str, Proxy | Unknown] = {}
    for name, proxy in proxies.items():
        if isinstance(proxy, Proxy):
            usable = [server for server, backend in proxy.backends.items() if backend.status == "up"]
            if proxy.writer not in usable:
                proxy = replace(proxy, writer=usable[0] if usable else "")
        changed[name] = proxy
    return changed


def _of_proxy(platform: Platform, proxies: Proxies, step: Step) -> Proxies:
    """A proxy that serves has its peers' table; of one that leaves, a peer takes over the address."""
    name, settings = step.target, settings_of(platform)
    address = settings.address if settings else ""
    others = {other: proxy for other, proxy in proxies.items() if other != name}
    if step.action is Action.SERVE and not isinstance(proxies.get(name), Proxy):
        serving = [proxy for proxy in others.values() if isinstance(proxy, Proxy)]
        held = any(address in proxy.holds for proxy in serving)
        first = serving[0] if serving else Proxy("", {})
        return {**others, name: replace(first, holds=() if held else (address,))}
    if step.action in (Action.WITHDRAW, Action.AWAIT_DESTROY):
        peers = {other: proxy for other, proxy in others.items() if isinstance(proxy, Proxy)}
        heir = next(iter(peers), "")
        if heir and not any(address in proxy.holds for proxy in peers.values()):
            return {**others, heir: replace(peers[heir], holds=(address,))}
        return others
    return proxies
