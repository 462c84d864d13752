"""Schedules on a platform with a database tier: what there is, what is asked for, and what goes wrong with it."""

import random
from collections.abc import Callable
from dataclasses import replace

from world import Odds, Vm, World

from thems_jobs.core.identity import address_of, machine_name, tier_of
from thems_jobs.core.platform import (
    Application,
    BackupFolder,
    Database,
    DatabaseCluster,
    Health,
    Network,
    Platform,
    Tier,
)

CLUSTER = DatabaseCluster(
    "db",
    "proxy",
    "10.77.0.20",
    52,
    "ca.pem",
    "ca.key",
    "password",
    Application("shop", "shop", "shop-password"),
    backup=BackupFolder("/srv/backups", fresh_s=300.0),
)
PROXIES = 2


def with_databases(platform: Platform, chance: random.Random) -> Platform:
    """Given a platform, return it with a database cluster of three or five behind two proxies."""
    template = platform.tiers["web"].template
    baseline = chance.choice((3, 3, 3, 5))
    database = Tier("database", template, 3, baseline, 7, 1, 1024, 16, "1300-1319",
                    Network("vmbr0", "10.77.3.11-10.77.3.20", 16), Health(9200))  # fmt: skip
    proxy = Tier("proxy", template, 1, PROXIES, PROXIES, 1, 512, 4, "1400-1409",
                 Network("vmbr0", "10.77.4.11-10.77.4.16", 16), Health(9201))  # fmt: skip
    tiers = {**platform.tiers, "db": database, "proxy": proxy}
    return replace(platform, tiers=tiers, database=Database(500, cluster=CLUSTER))


def furnish_databases(world: World) -> None:
    """Let the database machines that there are be one cluster that has been written to, all of them in every proxy."""
    members = machines(world, "db")
    for vm in members:
        vm.database = replace(
            vm.database, uuid="made-long-ago", seqno=1000, enabled=True, running=True, state=4,
            peers=tuple(other.address for other in members if other is not vm),
        )  # fmt: skip
    galera = world.galera
    galera.uuid, galera.members, galera.primary, galera.seqno = "made-long-ago", members, bool(members), 1000
    galera.acknowledged, galera.view = (1000 if members else 0), len(members)
    for proxy in machines(world, "proxy"):
        proxy.table = {vm.name: (f"{vm.address}:3306", 100) for vm in members}


def machines(world: World, tier: str) -> list[Vm]:
    """Return our machines of a tier, lowest id first."""
    pool = world.platform.proxmox.pool
    found = [vm for vm in world.vms.values() if vm.pool == pool and tier_of(world.platform, vm.name) == tier]
    return sorted((vm for vm in found if not vm.template), key=lambda vm: vm.vmid)


def database_odds(chance: random.Random, odds: Odds) -> Odds:
    """A third of the clusters copy slowly, or not to the end."""
    if chance.random() < 0.65:
        return odds
    return replace(odds, copy_slow=chance.uniform(0, 0.4), copy_fails=chance.uniform(0, 0.3))


def keeps_majority(world: World, lost: list[Vm]) -> bool:
    """True if the cluster goes on without these: no schedule takes more from it."""
    members = world.galera.members
    return not any(vm in members for vm in lost) or 2 * sum(vm not in lost for vm in members) > len(members)


def disturb(world: World, chance: random.Random, trace: Callable[[str], None]) -> float:
    """Let something that does not kill go wrong for a while, at some moment; return when it is over."""
    what = chance.choice((_silence, _empty_a_place, _bring_back_a_place, _reorder, _lead_astray, _slow_down))
    seconds, lasts_s = chance.uniform(0, 200), chance.uniform(2, 300)

    def begin() -> None:
        trace(f"{world.now():.1f} {what(world, chance, world.now() + lasts_s) or 'nothing'} for {lasts_s:.0f} s")
        world.changed()

    world.clock.later(seconds, begin)
    return world.now() + seconds + lasts_s


def _silence(world: World, chance: random.Random, until: float) -> str:
    proxies = machines(world, "proxy")
    if not proxies:
        return ""
    proxy = chance.choice(proxies)
    world.proxies.silent[proxy.vmid] = until
    return f"{proxy.name} does not answer"


def _empty_a_place(world: World, chance: random.Random, _until: float) -> str:
    """Somebody drains a server on one proxy by hand, or takes it out: not the last one."""
    tables = [vm for vm in machines(world, "proxy") if sum(weight > 0 for _, weight in vm.table.values()) > 2]
    if not tables:
        return ""
    proxy = chance.choice(tables)
    name = chance.choice([name for name, (_, weight) in proxy.table.items() if weight > 0])
    if chance.random() < 0.5:
        proxy.table[name] = (proxy.table[name][0], 0)
        return f"{proxy.name} drains {name}, by hand"
    del proxy.table[name]
    return f"{proxy.name} forgets {name}, by hand"


def _bring_back_a_place(world: World, chance: random.Random, _until: float) -> str:
    """Somebody gives one proxy an old copy of its list, in which is a machine that is gone."""
    proxies = machines(world, "proxy")
    if not proxies:
        return ""
    proxy, name = chance.choice(proxies), machine_name(world.platform, "db", 10)
    proxy.table = {name: (f"{address_of(world.platform, name)}:3306", 100), **proxy.table}
    return f"{proxy.name} lists {name}, by hand"


def _reorder(world: World, chance: random.Random, _until: float) -> str:
    tables = [vm for vm in machines(world, "proxy") if len(vm.table) > 1]
    if not tables:
        return ""
    proxy = chance.choice(tables)
    proxy.table = dict(reversed(proxy.table.items()))
    return f"{proxy.name} has another order, by hand"


def _lead_astray(world: World, chance: random.Random, until: float) -> str:
    if not world.galera.members:
        return ""
    vm = chance.choice(world.galera.members)
    vm.database.astray_until = until
    return f"{vm.name} tells of another view"


def _slow_down(world: World, chance: random.Random, until: float) -> str:
    if not world.galera.members:
        return ""
    vm = chance.choice(world.galera.members)
    vm.database.lags_until = until
    return f"{vm.name} cannot keep up"


def what_is_wrong(world: World, wanted: int) -> str:
    """Given how many members there shall be at the end, return what is not as it should be then, "" if all is well."""
    members = machines(world, "db")
    proxies = [vm for vm in machines(world, "proxy") if world.proxies.serves(vm)]
    if len(members) != wanted or not wanted % 2:
        return f"{len(members)} database machines, {wanted} are wanted"
    apart = [vm.name for vm in members if vm not in world.galera.members or vm.database.state != 4]
    if apart or len(world.galera.members) != wanted or not world.galera.primary:
        return f"{', '.join(apart)} not Synced, {len(world.galera.members)} are members"
    if any(not vm.database.enabled for vm in members):
        return "a member would not come back with its machine"
    table = {vm.name: (f"{vm.address}:3306", 100) for vm in members}
    for proxy in proxies:
        if proxy.table != table:
            return f"the table of {proxy.name} is {proxy.table}, expected {table}"
    writers = {world.proxies.writer_of(proxy) for proxy in proxies}
    return "" if len(writers) == 1 and "" not in writers else f"the proxies' writers are {writers}"
