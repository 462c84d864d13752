"""galera-recover: after a full crash, make one cluster again of the machine with the newest data. Never by itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from thems_jobs.core import recovery
from thems_jobs.core.databases import settings_of
from thems_jobs.core.facts import Facts, Standing
from thems_jobs.core.identity import tier_of
from thems_jobs.core.job import Done, Job, Look
from thems_jobs.core.plan import Action, Plan, Step
from thems_jobs.core.platform import Platform
from thems_jobs.errors import ThemsError
from thems_jobs.jobs.clients import Clients, DatabaseClients
from thems_jobs.jobs.databases import read_standings, save
from thems_jobs.jobs.observe import observe
from thems_jobs.jobs.perform import perform


@dataclass(frozen=True)
class Parameters:
    """The machine that a person lets make the cluster; "" only shows what there is."""

    bootstrap: str = ""


def mistakes(platform: Platform, parameters: Parameters) -> list[str]:
    """Given parameters, return one sentence for each that cannot be meant."""
    settings = settings_of(platform)
    if settings is None:
        return ["The platform file names no database.cluster: there is nothing to recover."]
    if parameters.bootstrap and tier_of(platform, parameters.bootstrap) != settings.tier:
        form = f"{platform.name}-{settings.tier}-NUMBER"
        return [f"--bootstrap {parameters.bootstrap}: a database machine's name is {form}."]
    return []


def look(platform: Platform, clients: Clients, previous: Facts | None, asked: Look) -> Facts:
    """Given the facts before, return those of now; at a whole look the machines themselves tell where each stands."""
    facts = observe(platform, clients, previous, asked)
    settings = settings_of(platform)
    if settings is None or not (previous is None or asked.anew):
        return facts
    told = read_standings(clients, recovery.unasked(facts, settings.tier))
    return replace(facts, standings={**facts.standings, **told, **recovery.silent(facts, settings.tier)})


def plan(platform: Platform, parameters: Parameters, facts: Facts) -> Plan:
    """Given the facts, return what remains until all machines are members again."""
    return recovery.plan(platform, facts, parameters.bootstrap)


def do(platform: Platform, clients: Clients, steps: Sequence[Step], facts: Facts) -> Mapping[str, Done]:
    """Given a batch of steps of one action, do them and return what became of each."""
    effects = {Action.FORBID_BOOTSTRAP: _forbid, Action.BACKUP: _save, Action.BOOTSTRAP: _bootstrap}
    if steps[0].action not in effects or clients.databases is None:
        return perform(platform, clients, steps, facts)
    effect, databases = effects[steps[0].action], clients.databases

    def one(step: Step) -> Done:
        try:
            return effect(databases, facts, step)
        except ThemsError as error:
            return Done(error)

    done = clients.clock.at_once(one, list(steps))
    return {step.key: each for step, each in zip(steps, done, strict=True)}


def _forbid(databases: DatabaseClients, facts: Facts, step: Step) -> Done:
    databases.machines.forbid_bootstrap(step.target, facts.machines[step.target].address)
    return Done(learned={"barred": True})


def _save(databases: DatabaseClients, facts: Facts, step: Step) -> Done:
    save(databases, facts, step, stopped=True)
    return Done()


def _bootstrap(databases: DatabaseClients, facts: Facts, step: Step) -> Done:
    """Make the cluster of exactly what was read and approved; the machine refuses if it stands elsewhere by now."""
    machine = facts.machines[step.target]
    uuid, _, seqno = step.note.partition(":")
    others = [other.address for other in facts.of_tier(machine.tier) if other.exists and other.name != machine.name]
    stood = Standing(running=False, uuid=uuid, seqno=int(seqno), view="none")
    databases.machines.bootstrap(machine.name, machine.address, stood, others)
    return Done()


def job(platform: Platform, parameters: Parameters, clients: Clients) -> Job:
    """Given a platform and its clients, return the job for the runner."""
    return Job(
        name="galera-recover",
        platform=platform,
        observe=partial(look, platform, clients),
        plan=partial(plan, platform, parameters),
        perform=partial(do, platform, clients),
        change_record=clients.proxmox.change_record,
        cancel=clients.cancel,
    )
