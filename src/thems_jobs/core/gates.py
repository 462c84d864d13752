"""Gates: facts in, refusals out. All that are closed are reported, and a missing fact closes its gate."""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime

from thems_jobs.core import databases
from thems_jobs.core.capacity import serves, storage_left_mib
from thems_jobs.core.facts import Balancer, Facts, Machine, Phase, Unknown
from thems_jobs.core.identity import choose_vmids, tier_of
from thems_jobs.core.plan import Action, Condition, Refusal, Step
from thems_jobs.core.platform import Platform, Tier
from thems_jobs.core.record import Lease

DAY_S = 86400
# So long after a machine or a balancer began to serve, balancers may not have checked it yet: they take some seconds.
CHECKED_S = 15.0


def closed(platform: Platform, facts: Facts, steps: Sequence[Step], checks: Sequence[Condition]) -> list[Refusal]:
    """Given the steps of a plan and the database's conditions, return every gate of the platform that is closed.

    Steps that give capacity back pass all gates but the one without which they can do nothing: a balancer.
    """
    tiers = {target: tier_of(platform, target) for target in {step.target for step in steps}}
    web = [step for step in steps if tiers[step.target] == platform.balancing.web_tier]
    touched = [step for step in steps if tiers[step.target] == platform.balancing.balancer_tier]
    refusals = some_balancer(facts, [step.target for step in touched if step.action is Action.SERVE]) if web else []
    if all(step.action is Action.RESTORE for step in steps):
        return refusals
    made = [step.target for step in steps if step.action is Action.CLONE]
    refusals += quorum(facts) + readable_record(platform, facts) + strangers(facts) + nodes(facts, steps)
    for name in sorted({tiers[machine] or "" for machine in made}):
        refusals += template(name, platform.tiers[name], facts)
    refusals += storages(platform, facts, made)
    refusals += databases.closed(platform, facts, databases.of_database(platform, steps), checks)
    if any(step.action is not Action.RESTORE for step in web):
        refusals += balancers(platform, facts, {step.target for step in touched})
        refusals += agreement(platform, facts, {step.target for step in steps})
        refusals += database_connections(platform, facts, made)
    return refusals


def quorum(facts: Facts) -> list[Refusal]:
    """Proxmox's own cluster must have quorum: without it /etc/pve is read-only."""
    if facts.quorate:
        return []
    return [
        Refusal(
            "no-quorum", "Proxmox cluster", "no quorum", "a quorate cluster",
            "Bring nodes back (pvecm status); nothing can be changed until then.",
        )
    ]  # fmt: skip


def readable_record(platform: Platform, facts: Facts) -> list[Refusal]:
    """The platform's record must be there and ours."""
    if not isinstance(facts.record, Unknown):
        return []
    return [
        Refusal(
            "record-unreadable", f"record VM {platform.proxmox.record_vmid}", facts.record.reason,
            f"a diskless VM {platform.name}-record in pool {platform.proxmox.pool} with a readable description",
            "Run doctor; it says how to make or mend the record.",
        )
    ]  # fmt: skip


def strangers(facts: Facts) -> list[Refusal]:
    """Nothing foreign may stand in our ranges, under our names or in our pool with our tag."""
    return [
        Refusal(
            "foreign-machine", f"VM {stranger.vmid} ({stranger.name})", stranger.why,
            "only machines of this platform in its VMID ranges, names and pool",
            "It was left alone. Move it, rename it, or change the ranges in the platform file.",
        )
        for stranger in facts.strangers
    ]  # fmt: skip


def template(name: str, tier: Tier, facts: Facts) -> list[Refusal]:
    """A tier's template must exist and not be older than allowed."""
    found = facts.templates.get(name)
    build = f"thems-jobs template build {name}"
    if not found:
        return [
            Refusal(
                "template-missing", f"tier {name}", f"no template {tier.template.name} ({tier.template.vmid})",
                "a template to clone from", f"Build it: {build}",
            )
        ]  # fmt: skip
    age_days = (facts.at - found.built_at) / DAY_S
    if age_days <= tier.template.max_age_days:
        return []
    return [
        Refusal(
            "template-too-old", f"template {found.name}", f"built {_day(found.built_at)}, {age_days:.0f} days ago",
            f"at most {tier.template.max_age_days} days", f"Build a new one: {build}",
        )
    ]  # fmt: skip


def _day(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d")


def nodes(facts: Facts, steps: Sequence[Step]) -> list[Refusal]:
    """A machine can be changed only while its node is there."""
    touched = {step.target for step in steps if step.action is not Action.RETIRE}
    gone = [
        (machine.name, f"node {machine.node} is offline")
        for machine in facts.machines.values()
        if machine.exists
        and machine.name in touched
        and (machine.node not in facts.nodes or not facts.nodes[machine.node].online)
    ]
    gone += [(f"VM {vm.vmid} ({vm.name or 'its name is not known'})", vm.why) for vm in facts.cut_off]
    return [
        Refusal(
            "node-offline", subject, why, "its node online",
            "Bring the node back (or remove the machine by hand if the node never comes back), then run again.",
        )
        for subject, why in gone
    ]  # fmt: skip


def storages(platform: Platform, facts: Facts, made: Sequence[str]) -> list[Refusal]:
    """Each template's storage must have room for the new disks of all tiers at their full size."""
    wanted: dict[str, list[Tier]] = {}
    for machine in made:
        tier = platform.tiers[tier_of(platform, machine) or ""]
        wanted.setdefault(tier.template.storage, []).append(tier)
    refusals = []
    for name, tiers in wanted.items():
        needed_mib = sum(tier.disk_gib for tier in tiers) * 1024
        free_mib = storage_left_mib(facts.storages, name) or 0  # 0: no node sees it
        if free_mib < needed_mib:
            refusals.append(
                Refusal(
                    "storage-full", f"storage {name}", f"{free_mib // 1024} GiB free",
                    f"{needed_mib // 1024} GiB for {len(tiers)} new machines", "Free space or enlarge the storage.",
                )
            )  # fmt: skip
    return refusals


def some_balancer(facts: Facts, coming: Collection[str]) -> list[Refusal]:
    """Web machines need a balancer that answers, or one that the same plan makes first."""
    if coming or any(isinstance(view, Balancer) for view in facts.balancers.values()):
        return []
    return [
        Refusal(
            "no-balancer", "balancers", "none answers", "at least one, or one that is made first",
            "Make or mend the balancers first: thems-jobs provision.",
        )
    ]  # fmt: skip


def balancers(platform: Platform, facts: Facts, touched: Collection[str]) -> list[Refusal]:
    """Every balancer answers, knows no stranger, and exactly one that serves holds the VRRP address.

    One that the same plan brings up or removes (`touched`) need not answer, and may hold the address: the tables are
    changed only after that. While none answers, nobody need hold the address either.
    """
    refusals, some_answer = [], any(isinstance(view, Balancer) for view in facts.balancers.values())
    for name, view in facts.balancers.items():
        if isinstance(view, Unknown):
            if name in touched:
                continue
            refusals.append(
                Refusal(
                    "balancer-unreachable", name, view.reason, "an answer from every balancer",
                    f"Look at it (thems-jobs status); replace it with: thems-jobs provision --replace {name}",
                )
            )  # fmt: skip
            continue
        unknown = sorted(server for server in view.servers if tier_of(platform, server) != platform.balancing.web_tier)
        if unknown:
            refusals.append(
                Refusal(
                    "unknown-server", name, f"its table has {', '.join(unknown)}", "only machines of this platform",
                    "Somebody added it by hand: take it out, or bring it under the platform's names.",
                )
            )  # fmt: skip
    if len(facts.holders) > 1 or (some_answer and not facts.holders):
        refusals.append(
            Refusal(
                "vrrp-holder", platform.balancing.address,
                f"held by {' and '.join(facts.holders) or 'nobody'}", "exactly one holder",
                "Look at keepalived on the balancers (journalctl -u keepalived) and at the network between them.",
            )
        )  # fmt: skip
    return refusals + [
        Refusal(
            "vrrp-holder", platform.balancing.address, f"held by {name}, which does not serve",
            "a holder that serves, so that its table is changed and its connections are waited for",
            "Finish what was begun with the balancers: thems-jobs provision.",
        )
        for name in facts.holders
        if name not in facts.balancers and name not in touched
    ]  # fmt: skip


def agreement(platform: Platform, facts: Facts, touched: Collection[str]) -> list[Refusal]:
    """All balancers find the same machines well: else whoever has the address may have fewer than it seems.

    What the plan has steps for (`touched`) is left out: other names, weights and addresses in one table than in
    another are what it mends itself, and who leaves need not be well. So is who has only just begun to serve.
    """
    settled = {
        machine.name
        for machine in facts.machines.values()
        if machine.stamp and machine.phase is Phase.SERVING and machine.name not in touched
        and facts.at - machine.stamp.since >= CHECKED_S
    }  # fmt: skip
    views = {name: view for name, view in facts.balancers.items() if isinstance(view, Balancer) and name in settled}
    refusals = []
    for machine in facts.of_tier(platform.balancing.web_tier):
        seen = {name: view.servers.get(machine.name) for name, view in views.items()}
        down = [name for name, server in seen.items() if server is None or not server.up]
        if machine.name in settled and 0 < len(down) < len(seen):
            refusals.append(
                Refusal(
                    "balancers-disagree", machine.name,
                    f"down for {' and '.join(down)}, up for {' and '.join(sorted(seen.keys() - set(down)))}",
                    "all balancers find it up, or all find it down",
                    "Look at the network between them; or replace who is wrong: thems-jobs provision --replace NAME.",
                )
            )  # fmt: skip
    return refusals


def database_connections(platform: Platform, facts: Facts, made: Sequence[str]) -> list[Refusal]:
    """All PHP workers together must fit the database's connections, also while old and new machines overlap."""
    web = platform.balancing.web_tier
    if not platform.database:
        return []
    there = {machine.name for machine in facts.of_tier(web) if machine.exists or machine.clone == "cloning"}
    count = len(there | {name for name in made if tier_of(platform, name) == web})
    workers = platform.tiers[web].php_workers
    room = platform.database.max_connections - platform.database.reserved_connections
    if count * workers <= room:
        return []
    return [
        Refusal(
            "database-connections", f"tier {web}", f"{count} machines × {workers} PHP workers = {count * workers}",
            f"at most {room} ({platform.database.max_connections} connections less "
            f"{platform.database.reserved_connections} kept free)",
            "Lower php_workers, ask for fewer machines, or raise the database's max_connections.",
        )
    ]  # fmt: skip


def identifiers(platform: Platform, facts: Facts, names: Sequence[str]) -> list[Refusal]:
    """The tier's VMID range must have a free id for every machine to be made."""
    refusals = []
    for name in sorted({tier_of(platform, machine) or "" for machine in names}):
        count = sum(tier_of(platform, machine) == name for machine in names)
        free = len(choose_vmids(platform.tiers[name], facts.taken_vmids, count))
        if free < count:
            refusals.append(
                Refusal(
                    "vmids-used-up", f"tier {name}", f"{free} free ids in {platform.tiers[name].vmids}",
                    f"{count}", "Widen the tier's vmids in the platform file.",
                )
            )  # fmt: skip
    return refusals


def free_addresses(platform: Platform, name: str, wanted: int, free: int) -> list[Refusal]:
    """The tier's address range must have a silent address for every machine to be made."""
    if free >= wanted:
        return []
    return [
        Refusal(
            "addresses-used-up", f"tier {name}", f"{free} free addresses in {platform.tiers[name].network.addresses}",
            f"{wanted}", "Find out who answers there, or widen the tier's addresses in the platform file.",
        )
    ]  # fmt: skip


def size(name: str, tier: Tier, target: int) -> list[Refusal]:
    """A tier's target is within its limits; old claims may ask for more than a changed platform file allows."""
    if target <= tier.maximum:
        return []
    return [
        Refusal(
            "above-maximum", f"tier {name}", f"claims ask for {target} machines", f"at most {tier.maximum}",
            "End or lower the claim (thems-jobs status names them), or raise the tier's maximum.",
        )
    ]  # fmt: skip


def survivors(name: str, tier: Tier, staying: Sequence[Machine], target: int) -> list[Refusal]:
    """Machines may leave only if those that stay, once brought up, are at least the minimum."""
    if max(len(staying), target) >= tier.minimum:
        return []
    return [
        Refusal(
            "below-minimum", f"tier {name}", f"{sum(serves(m) for m in staying)} would still serve",
            f"at least {tier.minimum}", "Ask for more machines.",
        )
    ]  # fmt: skip


def lease(held: Lease, now: float) -> Refusal:
    """Given a lease that somebody else holds, return the refusal that names them."""
    return Refusal(
        "lease-held", "platform", f"held by {held.holder} for another {max(0.0, held.until - now):.0f} s",
        "no other run", "Wait for it to end; a run that died is taken over when its lease has ended.",
    )  # fmt: skip
