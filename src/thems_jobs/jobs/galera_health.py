"""galera-health: is the database cluster well, and would it bear what is to be done to it? It changes nothing."""

from dataclasses import dataclass
from functools import partial

from thems_jobs import phrases
from thems_jobs.core import galera
from thems_jobs.core.databases import settings_of
from thems_jobs.core.facts import Cluster, Facts
from thems_jobs.core.identity import tier_of
from thems_jobs.core.job import Job
from thems_jobs.core.plan import Plan
from thems_jobs.core.platform import Platform
from thems_jobs.core.rejoin import Rejoin, forecast, kept
from thems_jobs.jobs.clients import Clients
from thems_jobs.jobs.observe import observe

ACTIONS = ("remove", "restart", "add", "upgrade")
# How long a member is away, where nobody says: a clean stop and start, and one with packages and a boot between.
OUTAGE_S = {"restart": 60.0, "upgrade": 600.0}


@dataclass(frozen=True)
class Parameters:
    """What is to be done to which member; "" asks whether the cluster is well. None: as usual for the action."""

    action: str = ""
    name: str = ""
    outage_s: float | None = None
    target: int | None = None
    accept_sst: bool = False
    donors: tuple[str, ...] = ()  # members whose state 2 (Donor/Desynced) is known and accepted


def mistakes(platform: Platform, parameters: Parameters) -> list[str]:
    """Given parameters, return one sentence for each that cannot be meant."""
    cluster = settings_of(platform)
    if cluster is None:
        return ["The platform file names no database.cluster: there is nothing to look at."]
    wrong = []
    if parameters.action and parameters.action not in ACTIONS:
        wrong.append(f"--for {parameters.action}: found no action of {', '.join(ACTIONS)}.")
    form = f"{platform.name}-{cluster.tier}-NUMBER"
    named = [("--for", parameters.name)] if parameters.action else []
    named += [("--accept-donor", name) for name in parameters.donors]
    wrong += [
        f"{option} {name}: a member's name is {form}."
        for option, name in named
        if tier_of(platform, name) != cluster.tier
    ]
    if parameters.outage_s is not None and not 0 <= parameters.outage_s <= 7 * 86400:
        wrong.append(f"--outage {parameters.outage_s:g}: found no number of seconds up to a week.")
    if parameters.outage_s is not None and parameters.action not in OUTAGE_S:
        wrong.append("--outage: only what restarts or upgrades a member has an outage.")
    if parameters.target is not None and parameters.action not in ("add", "remove"):
        wrong.append("--target: only with --for add or --for remove.")
    return wrong


def plan(platform: Platform, parameters: Parameters, facts: Facts) -> Plan:
    """Given the facts, return a plan without steps: what was checked, what stands in the way, what would happen."""
    settings = settings_of(platform)
    if settings is None or facts.databases is None:
        raise ValueError("galera-health was asked of a platform without a database cluster")
    cluster, asked = facts.databases, asked_of(parameters)
    if asked.action == "add":
        cluster = galera.with_place(cluster, asked.name)
    allow = {("galera-not-synced", name) for name in parameters.donors}
    if parameters.accept_sst:
        allow.add(("galera-outage-needs-sst", asked.name))
    checks = galera.conditions(settings, cluster, asked, allow)
    rejoin = forecast(cluster, asked.name, asked.outage_s) if asked.action in ("restart", "upgrade", "add") else None
    refusals = galera.refusals(checks)
    return Plan(refusals=refusals, checks=checks, rejoin=rejoin, finding=_finding(asked, cluster, rejoin))


def asked_of(parameters: Parameters) -> galera.Asked:
    """Given parameters, return what is asked of the cluster."""
    action: galera.Action = "none"
    for known in galera.ACTIONS:
        if known == parameters.action:
            action = known
    outage_s = OUTAGE_S.get(action, 0.0) if parameters.outage_s is None else parameters.outage_s
    return galera.Asked(action, parameters.name, outage_s, parameters.target)


def _finding(asked: galera.Asked, cluster: Cluster, rejoin: Rejoin | None) -> str:
    """Return the sentences for a cluster of which nothing is wrong."""
    if asked.action == "none":
        well = f"The database cluster is well: {cluster.expected} members, every condition holds."
        return f"{well} {_gcache(cluster)}".rstrip()
    return f"Safe: {asked.action} {asked.name}. {comes_back(rejoin)}".rstrip()


def _gcache(cluster: Cluster) -> str:
    """Return how large the gcache should be so that an upgrade's outage fits it; "" where it does, or nobody knows."""
    outage_s = OUTAGE_S["upgrade"]
    cache = kept(cluster, outage_s)
    if cache is None or cache.seconds >= outage_s:
        return ""
    return (
        f"But its gcache keeps only {phrases.duration(cache.seconds)} of writes at the present rate, and an upgrade "
        f"takes {phrases.duration(outage_s)}: gcache_mib should be {cache.needed_mib} at least."
    )


def comes_back(rejoin: Rejoin | None) -> str:
    """Given a forecast, return it as a sentence; "" for none."""
    if rejoin is None:
        return ""
    seconds = f"about {phrases.duration(rejoin.seconds)}" if rejoin.seconds is not None else "nobody knows how long"
    return f"It comes in by {rejoin.by}, {seconds}: {rejoin.why}."


def job(platform: Platform, parameters: Parameters, clients: Clients) -> Job:
    """Given a platform and its clients, return the job for the runner."""

    return Job(
        name="galera-health",
        platform=platform,
        observe=partial(observe, platform, clients),
        plan=partial(plan, platform, parameters),
        perform=lambda _steps, _facts: {},  # a plan without steps performs nothing
        change_record=clients.proxmox.change_record,
        cancel=clients.ansible.cancel,
    )
