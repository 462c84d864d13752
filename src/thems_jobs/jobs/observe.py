"""Looking at a platform: at all of it once, then only at what was touched or is under way.

A request costs a cluster something, so tasks are asked for all machines at once and only when they can have ended.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from statistics import fmean

from thems_jobs.clients.proxmox import Resources, Task, VmConfig, VmRow
from thems_jobs.core import databases
from thems_jobs.core.databases import is_database, is_proxy
from thems_jobs.core.facts import (
    Balancer,
    Facts,
    Machine,
    Phase,
    Stranger,
    TemplateImage,
    Unknown,
)
from thems_jobs.core.identity import has_place, tags_of, tier_of
from thems_jobs.core.job import Look
from thems_jobs.core.machine import balanced
from thems_jobs.core.plan import ASSUMED_S, Action
from thems_jobs.core.platform import Platform, addresses_of
from thems_jobs.core.record import Record
from thems_jobs.errors import Refused, ThemsError
from thems_jobs.jobs.belonging import CLONE_LOST, nodes_besides, one_of_each, reserved, rows_of_interest, sort_out
from thems_jobs.jobs.clients import Clients
from thems_jobs.jobs.databases import look_at_databases, quiet
from thems_jobs.jobs.images import newest_template

TASKS_POLL_S = 2.0  # at most so often are the cluster's tasks asked for when one should be over
TASKS_IDLE_POLL_S = 10.0  # and so often when none can be over yet
CLONE_SHOWS_S = 10.0  # after so long a clone that was asked for is among the cluster's tasks, if it ever will be
TASKS = {  # what our waits wait for, by the kind of task in Proxmox
    "qmclone": Action.AWAIT_CLONE, "qmshutdown": Action.AWAIT_STOP, "qmdestroy": Action.AWAIT_DESTROY,
}  # fmt: skip
FOR_OTHERS = (Action.AWAIT_SYNC, Action.AWAIT_UP, Action.AWAIT_DRAIN)  # waits for what others tell
KNOCK_S = 0.5  # for a machine that boots to take our connection; it is asked again, and others wait meanwhile


def observe(platform: Platform, clients: Clients, previous: Facts | None, look: Look) -> Facts:
    """Given the facts before and what to look at again, return the facts now. None before: look at everything.

    Raise Unreachable if the cluster does not answer: nothing can be decided then.
    """
    if previous is None or look.anew:
        return _everything(platform, clients, previous)
    facts = replace(previous, at=clients.clock.now())
    if any(name not in facts.machines for name in look.touched):
        facts = _follow_record(platform, facts, look.record or _record(clients))
    facts = _follow_tasks(platform, clients, facts, look)
    facts = _follow_boots(clients, facts, look)
    facts = _follow_starts(platform, clients, facts, look)
    return _follow_balancers(platform, clients, facts, look)


# Everything


def _everything(platform: Platform, clients: Clients, before: Facts | None) -> Facts:
    """Ask for all there is to know, what is independent at the same time.

    Of what was seen `before`, a moment ago, only what the list of all VMs shows otherwise is asked again, and no empty
    address; that there is quorum was shown by the lease that was written since.
    """
    proxmox, at_once = clients.proxmox, clients.clock.at_once
    resources = proxmox.resources()  # tells where the record is, too
    if before is None or not before.quorate:
        quorate, known = at_once(lambda question: question(), (proxmox.quorate, lambda: _record(clients)))
    else:
        quorate, known = True, before.record
    rows, cut_off = rows_of_interest(platform, resources, known)
    same = _unchanged(platform, before, rows) if before else {}
    rows = [row for row in rows if row.vmid not in same]
    configs = dict(zip(rows, at_once(lambda row: _config(clients, row), rows), strict=True))
    templates = _templates(platform, clients, resources, before)
    machines, strangers, remains = sort_out(platform, known, configs)
    machines, seconds = one_of_each(platform, [*same.values(), *machines.values()])
    strangers += seconds
    facts = Facts(
        at=clients.clock.now(),
        record=known,
        machines=machines,
        strangers=tuple(strangers),
        cut_off=tuple(cut_off),
        remains=tuple(remains),
        nodes=nodes_besides(resources, machines.values()),
        storages=resources.storages,
        templates=templates,
        taken_vmids=frozenset(row.vmid for row in resources.vms),
        taken_addresses=before.taken_addresses if before else {},
        quorate=quorate,
        roles=clients.roles,
        history=before.history if before else _history(proxmox.tasks()),
    )
    if before:
        return _machines_themselves(platform, clients, facts)
    now: Facts
    now, taken = at_once(
        lambda question: question(),
        (lambda: _machines_themselves(platform, clients, facts), lambda: _taken(platform, clients, machines.values())),
    )
    return replace(now, taken_addresses=taken)


def _machines_themselves(platform: Platform, clients: Clients, facts: Facts) -> Facts:
    """Given what Proxmox tells, return it with what the machines tell that run."""
    known = list(facts.machines.values())
    knocks = clients.clock.at_once(lambda machine: clients.ssh.answers(machine.address), known)
    machines = {m.name: _awake(clients, m, ssh_open) for m, ssh_open in zip(known, knocks, strict=True)}
    clients.ssh.know({machine.address: machine.host_key for machine in machines.values() if machine.host_key})
    facts = look_at_databases(platform, clients, replace(facts, machines=machines))
    return _ask_balancers(platform, clients, facts)


def _taken(platform: Platform, clients: Clients, machines: Iterable[Machine]) -> dict[str, str]:
    """Return who answers at the addresses of our ranges that none of our machines has; silence takes two seconds."""
    ranges = {address for tier in platform.tiers.values() for address in addresses_of(tier.network)}
    free = sorted(ranges - {machine.address for machine in machines})
    found = clients.clock.at_once(clients.ssh.finds, free)
    return {address: "a machine answers there" for address, taken in zip(free, found, strict=True) if taken}


def _config(clients: Clients, row: VmRow) -> VmConfig | None:
    """Given a row, return the VM's configuration; None for a container, and for a VM that is gone."""
    return clients.proxmox.config(row.node, row.vmid) if row.kind == "qemu" else None


def _history(tasks: Iterable[Task]) -> dict[str, float]:
    """Given the cluster's latest tasks, return how many seconds those took, on average, that our waits are for."""
    seconds: dict[str, list[float]] = {}
    for task in tasks:
        if task.kind in TASKS and task.ended_at is not None and not task.error:
            seconds.setdefault(TASKS[task.kind], []).append(task.ended_at - task.started_at)
    return {action: fmean(values) for action, values in seconds.items()}


def _record(clients: Clients) -> Record | Unknown:
    try:
        return clients.proxmox.read_record()[0]
    except Refused as error:
        return Unknown(error.detail)


def _unchanged(platform: Platform, before: Facts, rows: Iterable[VmRow]) -> dict[int, Machine]:
    """Given what was seen a moment ago, return by id the machines of which the list of all VMs says the same now."""
    known = {machine.vmid: machine for machine in before.machines.values() if machine.configured}
    return {
        row.vmid: machine
        for row in rows
        if (machine := known.get(row.vmid))
        and machine.stamp
        and (row.name, row.node, row.pool, row.lock) == (machine.name, machine.node, platform.proxmox.pool, "")
        and not machine.locked
        and set(tags_of(machine.stamp)) <= set(row.tags)
    }


def _templates(
    platform: Platform, clients: Clients, resources: Resources, before: Facts | None
) -> dict[str, TemplateImage]:
    """Return by tier the template that its machines are cloned from."""
    listed = {(row.vmid, row.node, row.name) for row in resources.vms if row.template}
    if before and all((found.vmid, found.node, found.name) in listed for found in before.templates.values()):
        return dict(before.templates)
    found = {name: newest_template(platform, name, resources, clients.proxmox) for name in platform.tiers}
    return {name: template for name, template in found.items() if template is not None}


def _awake(clients: Clients, machine: Machine, ssh_open: bool) -> Machine:
    """Given whether its SSH port answers, return the machine with its power state; asked for only in doubt.

    The list of all VMs lags by up to ten seconds; an open port does not.
    """
    if not machine.exists or machine.locked:
        return machine
    running = ssh_open or clients.proxmox.running(machine.node, machine.vmid)
    machine = replace(machine, running=running, ssh_open=ssh_open)
    return _with_host_key(clients, machine) if ssh_open else machine


def _with_host_key(clients: Clients, machine: Machine) -> Machine:
    """Given a machine that answers, return it with its host key, read through the guest agent if not known yet."""
    if machine.host_key:
        return machine
    key = clients.proxmox.agent_read(machine.node, machine.vmid, "/etc/ssh/ssh_host_ed25519_key.pub")
    return replace(machine, host_key=" ".join(key.split()[:2]) if key else "")


# What is under way


def _follow_record(platform: Platform, facts: Facts, record: Record | Unknown) -> Facts:
    """Given the record of now, take it in; machines it has newly reserved, or another id for, become known."""
    intents = {} if isinstance(record, Unknown) else record.intents
    machines = dict(facts.machines)
    for name, intent in intents.items():
        known = machines.get(name)
        if has_place(platform, name) and (known is None or (not known.exists and known.vmid != intent.vmid)):
            attempt = known.clone_attempt + 1 if known else 1
            machines[name] = replace(reserved(platform, name, intent.vmid), clone_attempt=attempt)
    machines = {name: m for name, m in machines.items() if m.exists or m.task or name in intents}
    return replace(facts, record=record, machines=machines)


def _follow_tasks(platform: Platform, clients: Clients, facts: Facts, look: Look) -> Facts:
    """Look at machines whose clone, stop or removal was touched or is waited for."""
    waited = {
        step.target: step.action
        for step in look.waits
        if step.action in (Action.AWAIT_CLONE, Action.AWAIT_STOP, Action.AWAIT_DESTROY)
    }
    names = [name for name in waited if name in facts.machines]
    unclear = [
        name
        for name in look.touched
        if (machine := facts.machines.get(name)) and not machine.exists and not machine.task
    ]
    if not unclear and not _tasks_due(facts, waited):
        return facts
    facts = replace(facts, polled_at=facts.at)
    tasks = {task.upid: task for task in clients.proxmox.tasks()} if names else {}
    resources: Resources | None = None
    machines, remains = dict(facts.machines), list(facts.remains)
    for name in sorted({*names, *unclear}):
        machine = machines[name]
        task = _task_of(clients, tasks, machine)
        if task and task.ended_at is None:
            continue
        resources = resources or clients.proxmox.resources()
        error = task.error if task else _why_lost(platform, facts, machine, tasks.values())
        after = _after_task(platform, clients, facts, machine, error, resources)
        if after and after.locked == "clone" and not after.exists:
            remains.append(Stranger(after.vmid, name, "", error))
            after = replace(after, locked="")
        if after:
            machines[name] = after
        else:
            del machines[name]
    taken = frozenset(row.vmid for row in resources.vms) if resources else facts.taken_vmids
    return replace(facts, machines=machines, remains=tuple(remains), taken_vmids=taken)


def _why_lost(platform: Platform, facts: Facts, machine: Machine, tasks: Iterable[Task]) -> str:
    """Given a clone that another run began, return why it will never end, or "" while one of ours is under way."""
    intent = facts.known_record.intents.get(machine.name)
    if machine.locked != "clone" or intent is None or facts.at - intent.at < CLONE_SHOWS_S:
        return ""
    ours = [task for task in tasks if task.kind == "qmclone" and task.user == platform.proxmox.token_id]
    return "" if any(task.ended_at is None for task in ours) else CLONE_LOST


def _tasks_due(facts: Facts, waited: Mapping[str, Action]) -> bool:
    """True if a task that is waited for can be over by now, going by how long it takes as a rule."""
    since = facts.at - facts.polled_at
    seconds = facts.seconds
    for name, action in waited.items():
        machine = facts.machines.get(name)
        if machine is None:
            continue
        # Our own measure holds how late we asked, and would never come down.
        expected_s = facts.history.get(action, seconds.get(action, min(ASSUMED_S[action], 5.0)))
        over = facts.at - machine.task_at > 0.9 * expected_s
        if since >= (TASKS_POLL_S if over else TASKS_IDLE_POLL_S):
            return True
    return False


def _task_of(clients: Clients, tasks: Mapping[str, Task], machine: Machine) -> Task | None:
    if not machine.task:
        return None
    return tasks.get(machine.task) or clients.proxmox.task(machine.task)


def _after_task(
    platform: Platform, clients: Clients, facts: Facts, machine: Machine, error: str, resources: Resources
) -> Machine | None:
    """Given a machine whose task ended (or was begun by an earlier run), return it as it is now; None if it is gone.

    A clone whose task was lost stays locked, and only root can unlock or remove it: another one is made.
    """
    row = next((row for row in resources.vms if row.vmid == machine.vmid), None)
    config = clients.proxmox.config(row.node, row.vmid) if row else None
    if row is None or config is None:
        if machine.name in facts.known_record.intents and machine.power != "destroying":
            return replace(machine, exists=False, clone=error, task="", locked="", running=False)
        return None
    if config.lock == "clone":
        cloning = replace(machine, exists=True, locked="clone", clone="", node=row.node)
        return replace(cloning, exists=False, task="", clone=error) if error else cloning
    record = Record(intents={machine.name: facts.known_record.intents[machine.name]}) if not machine.stamp else Record()
    seen = sort_out(platform, record, {row: config})[0].get(machine.name)
    if seen is None:
        return None
    if not seen.exists:
        return replace(seen, clone_attempt=machine.clone_attempt)
    if error and seen.locked == "clone":  # lost before it was put into our pool
        return replace(seen, exists=False, clone=error, clone_attempt=machine.clone_attempt)
    running = clients.proxmox.running(row.node, row.vmid) if machine.power else seen.running
    attempt = machine.power_attempt + (1 if error else 0)
    return replace(
        seen, running=running, power=error if machine.power else "", power_attempt=attempt, clone="",
        clone_attempt=machine.clone_attempt, host_key=seen.host_key or machine.host_key,
        ssh_open=running and machine.ssh_open, converged=machine.converged, health=machine.health,
        renewed=machine.renewed, warm=machine.warm,
    )  # fmt: skip


def _follow_boots(clients: Clients, facts: Facts, look: Look) -> Facts:
    """Knock at the machines that boot; read the host key of those that open."""
    booting = [
        facts.machines[step.target]
        for step in look.waits
        if step.action is Action.AWAIT_BOOT and step.target in facts.machines
    ]
    if not booting:
        return facts
    seen = clients.clock.at_once(lambda machine: _knock(clients, machine), booting)
    clients.ssh.know({machine.address: machine.host_key for machine in seen if machine.host_key})
    return replace(facts, machines={**facts.machines, **{machine.name: machine for machine in seen}})


def _follow_starts(platform: Platform, clients: Clients, facts: Facts, look: Look) -> Facts:
    """Find out which of the machines that boot do not run (any more): their start failed, or they died meanwhile."""
    waited = [step.target for step in look.waits if step.action is Action.AWAIT_BOOT]
    booting = [machine for name in waited if (machine := facts.machines.get(name)) and not machine.ssh_open]
    due = [m for m in booting if facts.at - max(m.task_at, facts.listed_at) >= TASKS_IDLE_POLL_S]
    if not due:
        return facts
    resources = clients.proxmox.resources()
    listed = {row.vmid for row in resources.vms if row.status == "running"}
    machines = dict(facts.machines)
    for machine in due:
        if machine.vmid in listed:
            continue
        task = _task_of(clients, {}, machine)
        if task and task.error:
            if after := _after_task(platform, clients, facts, machine, task.error, resources):
                machines[machine.name] = after
            else:
                del machines[machine.name]
        elif not task or task.ended_at is not None:  # the list lags: that one runs is believed, the contrary is asked
            running = clients.proxmox.running(machine.node, machine.vmid)
            machines[machine.name] = replace(machine, power="", task="", running=running)
    return replace(facts, machines=machines, listed_at=facts.at)


def _knock(clients: Clients, machine: Machine) -> Machine:
    if not clients.ssh.answers(machine.address, KNOCK_S):
        return replace(machine, ssh_open=False)
    try:
        return _with_host_key(clients, replace(machine, ssh_open=True, running=True, power="", task=""))
    except ThemsError:
        return machine  # the agent is not there yet, or the VM is not any more: the wait has a deadline


# The balancers


def _follow_balancers(platform: Platform, clients: Clients, facts: Facts, look: Look) -> Facts:
    """Ask the balancers again when a step changed them, or a wait is for them."""
    waits = [step for step in look.waits if step.action in FOR_OTHERS]
    touched = [facts.machines[name] for name in look.touched if name in facts.machines]
    seen = [m for m in touched if m.warm or m.phase is not Phase.BUILDING or not balanced(platform, m.tier)]
    gone = [name for name in look.touched if name not in facts.machines and tier_of(platform, name)]  # strays
    tiers = {tier_of(platform, name) or "" for name in (*look.touched, *(step.target for step in waits))}
    if any(is_database(platform, tier) or is_proxy(platform, tier) for tier in tiers):
        facts = look_at_databases(platform, clients, facts)
    if not (waits or seen or gone):
        return facts
    return _ask_balancers(platform, clients, facts)


def _ask_balancers(platform: Platform, clients: Clients, facts: Facts) -> Facts:
    """Ask every balancer that may be configured, at the same time; note who has been quiet since when.

    One that a run died over may hold the VRRP address although its stamp knows nothing of it yet.
    """
    hosts = {
        machine.name: machine
        for machine in facts.of_tier(platform.balancing.balancer_tier)
        if machine.exists and (machine.converged or machine.ssh_open) and machine.host_key and not machine.power
    }
    views = clients.balancers.show({name: machine.address for name, machine in hosts.items()})
    serving = {name: view for name, view in views.items() if hosts[name].phase is Phase.SERVING}
    quiet_since = {
        name: facts.quiet_since.get(name, facts.at)
        for name, machine in facts.machines.items()
        if machine.phase is Phase.DRAINING and _is_quiet(platform, facts, machine, serving, views)
    }
    machines = {
        name: replace(machine, health=_health(platform, facts, machine, views) or machine.health)
        for name, machine in facts.machines.items()
    }
    address = platform.balancing.address
    holders = tuple(name for name, view in views.items() if isinstance(view, Balancer) and address in view.holds)
    return replace(facts, balancers=serving, holders=holders, quiet_since=quiet_since, machines=machines)


def _is_quiet(
    platform: Platform,
    facts: Facts,
    machine: Machine,
    serving: Mapping[str, Balancer | Unknown],
    views: Mapping[str, Balancer | Unknown],
) -> bool:
    """True if nobody has a connection to a leaving machine. A balancer that cannot say so says no.

    Beside those that serve, one counts that has the VRRP address, whatever its phase: visitors come to it.
    """
    if is_database(platform, machine.tier):
        return quiet(facts, machine.name)
    if is_proxy(platform, machine.tier):  # sessions do not outlive the address on it
        return facts.databases is not None and machine.name not in facts.databases.holders
    if not balanced(platform, machine.tier):
        view = views.get(machine.name)
        return isinstance(view, Balancer) and view.connections == 0 and not view.holds
    holding = [view for view in views.values() if isinstance(view, Balancer) and view.holds]
    seen: Iterable[Balancer | Unknown] = [*serving.values(), *holding]
    return all(
        isinstance(view, Balancer) and (machine.name not in view.servers or view.servers[machine.name].connections == 0)
        for view in seen
    )


def _health(platform: Platform, facts: Facts, machine: Machine, views: Mapping[str, Balancer | Unknown]) -> str:
    """Given what the balancers see, return "ok", what is wrong, or "" if they cannot tell."""
    if machine.phase is not Phase.SERVING:
        return ""
    if is_database(platform, machine.tier) and databases.joined(facts, machine.name):
        return "ok"  # while it gives its data to another, the proxies leave it alone: it is well all the same
    if is_database(platform, machine.tier) or is_proxy(platform, machine.tier):
        views = databases.views(facts)
    if not balanced(platform, machine.tier):
        view = views.get(machine.name)
        return "ok" if isinstance(view, Balancer) else view.reason if view else ""
    seen = [
        view.servers[machine.name]
        for view in views.values()
        if isinstance(view, Balancer) and machine.name in view.servers
    ]
    if not seen:
        return ""
    return "ok" if any(server.up for server in seen) else "the balancers find it down"
