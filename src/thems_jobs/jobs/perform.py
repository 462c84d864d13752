"""Doing the steps of a plan. Before anything that cannot be taken back, the machine's identity is asked again."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from thems_jobs import phrases
from thems_jobs.clients.proxmox import VmConfig
from thems_jobs.core.databases import behind_proxysql, is_database, is_proxy, settings_of
from thems_jobs.core.facts import Facts, Machine, Phase, Proxy, Stamp, Unknown
from thems_jobs.core.identity import choose_vmids, doubts, read_stamp, tags_of, tier_of, write_stamp
from thems_jobs.core.job import Done
from thems_jobs.core.machine import FULL_WEIGHT, answering, balanced
from thems_jobs.core.plan import Action, Step
from thems_jobs.core.platform import Platform, addresses_of
from thems_jobs.core.record import Intent, Record
from thems_jobs.errors import EffectFailed, IdentityMismatch, LeaseLost, ThemsError, Transient
from thems_jobs.jobs import databases
from thems_jobs.jobs.clients import Clients

Effect = Callable[[Platform, Clients, Facts, Step], Mapping[str, Any]]


def perform(platform: Platform, clients: Clients, steps: Sequence[Step], facts: Facts) -> dict[str, Done]:
    """Given a batch of steps of one action, do them and return what became of each."""
    action = steps[0].action
    try:
        if action in _RECORDED:
            return {step.key: Done(record=_RECORDED[action](platform, clients, facts, step)) for step in steps}
        if action in _BATCHED:
            return _BATCHED[action](platform, clients, facts, steps)
        return {step.key: Done(learned=_SINGLE[action](platform, clients, facts, step)) for step in steps}
    except ThemsError as error:
        return {step.key: Done(error) for step in steps}


def guarded(facts: Facts, change: Callable[[Record], Record]) -> Callable[[Record], Record]:
    """Given a change of the record, return it so that it fails when the lease is no longer the one of the facts."""
    ours = facts.known_record.lease

    def checked(record: Record) -> Record:
        if ours is None or record.lease is None or record.lease.token != ours.token:
            holder = record.lease.holder if record.lease else "nobody"
            raise LeaseLost("lease", f"it is held by {holder} now.", "Let that run end, then run this command again.")
        return change(record)

    return checked


# The record


def _reserve(platform: Platform, clients: Clients, facts: Facts, step: Step) -> Record:
    """Write down which machines are about to be made, with their ids, before any of them is.

    An id that somebody else takes meanwhile is refused by Proxmox, and another one is reserved then.
    """
    names = [name.strip() for name in step.note.split(",")]

    def change(record: Record) -> Record:
        intents = dict(record.intents)
        used = set(facts.taken_vmids) | {intent.vmid for intent in intents.values()}
        for name in names:
            tier = platform.tiers[tier_of(platform, name) or ""]
            attempt = intents[name].attempt + 1 if name in intents else 1
            free = choose_vmids(tier, used, 1)
            if not free:
                raise EffectFailed(name, f"no id is free in {tier.vmids}.", "Widen the tier's vmids.", "vmids-used-up")
            intents[name] = Intent(free[0], attempt, facts.at)
            used.add(free[0])
        return replace(record, intents=intents)

    return clients.proxmox.change_record(guarded(facts, change))


def _settle(platform: Platform, clients: Clients, facts: Facts, step: Step) -> Record:
    """Take out of the record what has done its duty."""
    del platform, step
    return clients.proxmox.change_record(guarded(facts, lambda record: replace(record, intents={})))


# Proxmox


def _clone(platform: Platform, clients: Clients, facts: Facts, step: Step) -> Mapping[str, Any]:
    machine = facts.machines[step.target]
    template = facts.templates[machine.tier]
    image = f"{template.name}@{int(template.built_at)}"
    stamp = Stamp(platform.name, machine.name, machine.vmid, machine.tier, Phase.BUILDING, image=image, since=facts.at)
    try:
        task = clients.proxmox.clone(
            template, vmid=machine.vmid, name=machine.name, pool=platform.proxmox.pool,
            description=write_stamp(stamp), target_node=step.node,
        )  # fmt: skip
    except EffectFailed as error:
        if error.reference != "vmid-taken":
            raise
        return {"clone": str(error), "clone_attempt": machine.clone_attempt}  # the plan reserves another id
    return {"clone": "cloning", "task": task, "task_at": clients.clock.now(), "node": step.node}


def _configure(platform: Platform, clients: Clients, facts: Facts, step: Step) -> Mapping[str, Any]:
    """Give a fresh clone its size, network, access and tags.

    The digest is that of the configuration which proved to be ours, so nothing but that is changed.
    """
    machine = facts.machines[step.target]
    tier, stamp = platform.tiers[machine.tier], machine.stamp
    gateway = f",gw={tier.network.gateway}" if tier.network.gateway else ""
    options: dict[str, str | int] = {
        "cores": tier.cores,
        "memory": tier.memory_mib,
        "agent": "enabled=1",
        "onboot": 1,
        "net0": f"virtio,bridge={tier.network.bridge}",
        "ipconfig0": f"ip={machine.address}/{tier.network.prefix}{gateway}",
        "ciuser": platform.ssh.user,
        "ciupgrade": 0,  # packages come from the template, not from the first boot
        "sshkeys": quote(clients.ssh.public_key, safe=""),
        "tags": ";".join(tags_of(stamp)) if stamp else "thems",
    }
    try:
        clients.proxmox.configure(machine.node, machine.vmid, machine.digest, options)
    except Transient:  # it has moved since it was looked at, or no answer came: look again, and once more
        digest = _identified(platform, clients, machine).digest
        clients.proxmox.configure(machine.node, machine.vmid, digest, options)
    return {"configured": True, "digest": ""}


def _start(platform: Platform, clients: Clients, facts: Facts, step: Step) -> Mapping[str, Any]:
    del platform
    machine = facts.machines[step.target]
    task = clients.proxmox.start(machine.node, machine.vmid)
    return {"power": "starting", "task": task, "task_at": clients.clock.now(), "running": True}


def _stop(platform: Platform, clients: Clients, facts: Facts, step: Step) -> Mapping[str, Any]:
    machine = facts.machines[step.target]
    _identified(platform, clients, machine)
    task = clients.proxmox.shutdown(machine.node, machine.vmid, platform.timeouts.stop_s / 2)
    return {"power": "stopping", "task": task, "task_at": clients.clock.now()}


def _destroy(platform: Platform, clients: Clients, facts: Facts, step: Step) -> Mapping[str, Any]:
    """Destroy a machine that serves nobody. One that serves is protected in Proxmox itself: that is not undone here."""
    machine = facts.machines[step.target]
    dying = {"power": "destroying", "locked": "destroyed", "task_at": clients.clock.now()}
    try:
        config = _identified(platform, clients, machine)
    except Transient:  # it is not there: the answer to an earlier attempt was lost
        return dying
    stamp = read_stamp(config.description)
    if stamp is None or stamp.phase is Phase.SERVING or config.protection:
        raise IdentityMismatch(
            machine.name, "it serves visitors again, so it was not destroyed.", "Look at who did that."
        )
    return {**dying, "task": clients.proxmox.destroy(machine.node, machine.vmid)}


def _identified(platform: Platform, clients: Clients, machine: Machine) -> VmConfig:
    """Given a machine, return its configuration as it is now. Raise IdentityMismatch if it is another machine."""
    config = clients.proxmox.config(machine.node, machine.vmid)
    if config is None:
        raise Transient(machine.name, f"VM {machine.vmid} is not there.")
    why = doubts(platform, machine.vmid, config.name, platform.proxmox.pool, read_stamp(config.description))
    if why or config.name != machine.name:
        raise IdentityMismatch(
            machine.name, f"VM {machine.vmid} is not it: {why or f'its name is {config.name}'}.", "It was left alone."
        )
    return config


def _enter_phase(
    platform: Platform, clients: Clients, facts: Facts, machine: Machine, phase: Phase
) -> Mapping[str, Any]:
    """Write a machine's new phase into its stamp and tags; a serving machine is protected against removal."""
    config = _identified(platform, clients, machine)
    old = read_stamp(config.description)
    assert old is not None  # noqa: S101 - _identified found no doubt, so there is a stamp
    stamp = replace(
        old, phase=phase, host_key=machine.host_key or old.host_key, converged=machine.converged or old.converged,
        since=old.since if old.phase is phase else facts.at,
    )  # fmt: skip
    options: dict[str, str | int] = {
        "description": write_stamp(stamp),
        "tags": ";".join(tags_of(stamp)),
        "protection": int(phase is Phase.SERVING),
    }
    clients.proxmox.configure(machine.node, machine.vmid, config.digest, options)
    return {"stamp": stamp, "digest": "", "renewed": False}


# Several machines at once


def _each(facts: Facts, steps: Sequence[Step], effect: Callable[[Machine], Mapping[str, Any]]) -> dict[str, Done]:
    """Given steps and what to do to each machine, return what became of each; one that fails stops no other."""
    results = {}
    for step in steps:
        try:
            results[step.key] = Done(learned=effect(facts.machines[step.target]))
        except ThemsError as error:
            results[step.key] = Done(error)
    return results


def _converge(platform: Platform, clients: Clients, facts: Facts, steps: Sequence[Step]) -> dict[str, Done]:
    """Configure machines of one tier by Ansible, all at once."""
    machines = [facts.machines[step.target] for step in steps]
    tier = machines[0].tier
    variables = {
        **converge_variables(platform, tier), **secret_files(platform, tier),
        "thems_roles_digest": facts.roles.get(tier, ""),
    }  # fmt: skip
    errors = clients.ansible.converge({m.name: (m.address, m.host_key) for m in machines}, variables)
    learned = {"renewed": True, "warm": False, "converged": facts.roles.get(tier, ""), "health": ""}
    return {
        step.key: Done(EffectFailed(step.target, error, "Its log is beside the report.", "converge-failed"))
        if (error := errors.get(step.target, ""))
        else Done(learned=learned)
        for step in steps
    }


def converge_variables(platform: Platform, tier_name: str) -> dict[str, Any]:
    """Given a tier, return the variables of its role; the same for all its machines."""
    tier, balancing = platform.tiers[tier_name], platform.balancing
    balancers = list(addresses_of(platform.tiers[balancing.balancer_tier].network))
    variables = {
        "thems_role": tier.role,
        "thems_platform": platform.name,
        "thems_health_port": tier.health.port,
        "thems_health_path": tier.health.path,
        "thems_php_workers": tier.php_workers,
        "thems_demo_pages": tier.demo_pages,
        "thems_vrrp_address": balancing.address,
        "thems_vrrp_prefix": tier.network.prefix,
        "thems_vrrp_router_id": balancing.router_id,
        "thems_vrrp_machines": balancers,
        "thems_balancer_addresses": balancers,
        "thems_front_port": balancing.port,
        "thems_web_port": platform.tiers[balancing.web_tier].health.port,
        "thems_web_health_path": platform.tiers[balancing.web_tier].health.path,
    }
    return variables | _database_variables(platform, tier_name)


def _database_variables(platform: Platform, tier_name: str) -> dict[str, Any]:
    """Given a tier, return what it needs beside the others' variables if it is one of the database's two."""
    cluster = settings_of(platform)
    if platform.database is None or cluster is None or tier_name not in (cluster.tier, cluster.proxy_tier):
        return {}
    members = platform.tiers[cluster.tier]
    settings = {
        "flavour": cluster.flavour,
        "proxy": cluster.proxy,
        "port": cluster.port,
        "cluster_name": platform.name,
        "addresses": list(addresses_of(members.network)),
        "user": cluster.user,
        "application_user": cluster.application.user,
        "application_database": cluster.application.database,
        "proxysql_user": cluster.proxysql_user,
        "gcache_mib": cluster.gcache_mib,
        "max_connections": platform.database.max_connections,
        "memory_mib": members.memory_mib,
        "cores": members.cores,
    }
    if tier_name == cluster.tier:
        return {"thems_database": settings}
    return {
        "thems_database": settings,
        "thems_vrrp_address": cluster.address,
        "thems_vrrp_router_id": cluster.router_id,
        "thems_vrrp_machines": list(addresses_of(platform.tiers[cluster.proxy_tier].network)),
    }


def secret_files(platform: Platform, tier_name: str) -> dict[str, Any]:
    """Given a tier, return where its role finds the secrets that machines of it get, on the machine we run on.

    They are apart from the variables because another checkout has them elsewhere, and its roles are the same.
    """
    cluster = settings_of(platform)
    if cluster is None or tier_name not in (cluster.tier, cluster.proxy_tier):
        return {}
    files = {
        "ca_file": cluster.ca_file,
        "ca_key_file": cluster.ca_key_file,
        "password_file": cluster.password_file,
        "application_password_file": cluster.application.password_file,
        "proxysql_password_file": cluster.proxysql_password_file,
    }
    return {"thems_database_secrets": files}


def _check(platform: Platform, clients: Clients, facts: Facts, step: Step) -> Mapping[str, Any]:
    """Ask a machine how it is, directly, and warm it up before it gets visitors."""
    machine = facts.machines[step.target]
    health = platform.tiers[machine.tier].health
    if is_proxy(platform, machine.tier) and behind_proxysql(platform):  # it has no page
        databases.check_proxy(clients, machine)
    else:
        clients.web.check(machine.name, machine.address, health.port, health.path, health.status)
    if is_database(platform, machine.tier):
        databases.expect_data(platform, clients, facts, machine)
    elif balanced(platform, machine.tier):
        clients.web.warm(machine.name, machine.address, health.port)
    return {"warm": True, "health": "ok"}


def _give_weight(
    platform: Platform, clients: Clients, facts: Facts, steps: Sequence[Step], weight: int | None
) -> float | None:
    """Give the machines of the steps this weight on every balancer; None takes them out of the tables.

    Return for how many seconds at most the database took no write meanwhile, None if its writer stayed.
    """
    of_database = [step for step in steps if is_database(platform, tier_of(platform, step.target) or "")]
    stood_s = databases.change_table(platform, clients, facts, of_database, weight) if of_database else None
    web = {s.target: weight for s in steps if tier_of(platform, s.target) == platform.balancing.web_tier}
    if not web:
        return stood_s
    port = platform.tiers[platform.balancing.web_tier].health.port
    wanted = {
        name: (f"{facts.machines[name].address}:{port}" if name in facts.machines else "", weight) for name in web
    }
    hosts = {name: facts.machines[name].address for name in facts.balancers}
    least = platform.tiers[platform.balancing.web_tier].minimum if weight == 0 else 0
    seen = {name: view.generation for name, view in answering(facts).items()}
    clients.balancers.change(hosts, wanted, least_serving=least, generations=seen)
    return stood_s


def _admit(platform: Platform, clients: Clients, facts: Facts, steps: Sequence[Step]) -> dict[str, Done]:
    _give_weight(platform, clients, facts, steps, platform.balancing.admit_weight)
    return {step.key: Done() for step in steps}


def _serve(platform: Platform, clients: Clients, facts: Facts, steps: Sequence[Step]) -> dict[str, Done]:
    """Give machines their full share of the visitors; a balancer first takes over its peers' table."""
    _give_weight(platform, clients, facts, steps, FULL_WEIGHT)
    for machine in (facts.machines[step.target] for step in steps):
        if is_proxy(platform, machine.tier):
            databases.take_over_table(platform, clients, facts, machine)
        elif machine.tier == platform.balancing.balancer_tier:
            _take_over_table(platform, clients, facts, machine)
    if any(facts.machines[step.target].tier == platform.balancing.web_tier for step in steps):
        balancing = platform.balancing
        health = platform.tiers[balancing.web_tier].health
        clients.web.check("VRRP address", balancing.address, balancing.port, health.path, health.status)
    return _each(facts, steps, lambda machine: _enter_phase(platform, clients, facts, machine, Phase.SERVING))


def _restore(platform: Platform, clients: Clients, facts: Facts, steps: Sequence[Step]) -> dict[str, Done]:
    """Give machines their full share back on every balancer or proxy that answers; where none does, say so by failing.

    One that is silent keeps nobody waiting: it gets the table when it serves again, or its share when it answers again.
    """
    answers, cluster = answering(facts), facts.databases
    proxies = {name: view for name, view in (cluster.proxies if cluster else {}).items() if isinstance(view, Proxy)}
    facts = replace(facts, balancers=answers or facts.balancers)
    if cluster and proxies:
        facts = replace(facts, databases=replace(cluster, proxies=proxies))
    return _serve(platform, clients, facts, steps)


def _take_over_table(platform: Platform, clients: Clients, facts: Facts, balancer: Machine) -> None:
    port = platform.tiers[platform.balancing.web_tier].health.port
    weights = {Phase.SERVING: FULL_WEIGHT, Phase.DRAINING: 0}
    table = {
        machine.name: (f"{machine.address}:{port}", weights[machine.phase])
        for machine in facts.of_tier(platform.balancing.web_tier)
        if machine.phase in weights
    }
    clients.balancers.change({balancer.name: balancer.address}, table, least_serving=0)


def _withdraw(platform: Platform, clients: Clients, facts: Facts, steps: Sequence[Step]) -> dict[str, Done]:
    """Send new visitors elsewhere, then write down that the machines leave.

    Behind ProxySQL a database machine has a switch that anybody may set: that it was us is written down before.
    """

    def enter() -> dict[str, Done]:
        return _each(facts, steps, lambda machine: _enter_phase(platform, clients, facts, machine, Phase.DRAINING))

    tiers = {facts.machines[step.target].tier for step in steps}
    by_switch = behind_proxysql(platform) and any(is_database(platform, tier) for tier in tiers)
    entered = enter() if by_switch else {}
    if any(done.error for done in entered.values()):
        return entered
    try:
        stood_s = _give_weight(platform, clients, facts, steps, 0)
        for step in steps:
            _hand_over(platform, clients, facts, facts.machines[step.target])
    except ThemsError as error:
        return {step.key: Done(error, entered[step.key].learned if by_switch else {}) for step in steps}
    told = "" if stood_s is None else f"no write was taken for {phrases.duration(stood_s)} at most"
    return {key: replace(done, told=told) for key, done in (entered or enter()).items()}


def _hand_over(platform: Platform, clients: Clients, facts: Facts, machine: Machine) -> None:
    """Let a balancer or proxy give its VRRP address to a peer. One that does not answer holds nothing to hand over."""
    fronts = {**facts.balancers, **(facts.databases.proxies if facts.databases else {})}
    if balanced(platform, machine.tier) or isinstance(fronts.get(machine.name), Unknown):
        return
    if is_proxy(platform, machine.tier):
        databases.hand_over_address(platform, clients, machine)
    else:
        clients.balancers.hand_over(machine.name, machine.address)


def _retire(platform: Platform, clients: Clients, facts: Facts, steps: Sequence[Step]) -> dict[str, Done]:
    _give_weight(platform, clients, facts, steps, None)
    return {step.key: Done() for step in steps}


_RECORDED: Mapping[Action, Callable[[Platform, Clients, Facts, Step], Record]] = {
    Action.RESERVE: _reserve,
    Action.SETTLE: _settle,
}
_SINGLE: Mapping[Action, Effect] = {
    Action.CLONE: _clone,
    Action.CONFIGURE: _configure,
    Action.START: _start,
    Action.CHECK: _check,
    **databases.STEPS,
    Action.STOP: _stop,
    Action.DESTROY: _destroy,
}
_BATCHED: Mapping[Action, Callable[[Platform, Clients, Facts, Sequence[Step]], dict[str, Done]]] = {
    Action.CONVERGE: _converge,
    Action.ADMIT: _admit,
    Action.SERVE: _serve,
    Action.RESTORE: _restore,
    Action.WITHDRAW: _withdraw,
    Action.RETIRE: _retire,
}
