"""Plans for the database tier, followed to their end in the model: one change at a time, and never without need."""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
from clusters import SETTINGS
from platforms import AT, ROLE, make_platform, serving, sound_facts

from thems_jobs.core import databases, model
from thems_jobs.core.facts import Backend, Facts, Machine, Member, Phase, Proxy, Unknown
from thems_jobs.core.fleet import plan_tiers
from thems_jobs.core.model_databases import _in_one_view, _synced
from thems_jobs.core.plan import Action, Plan, heads
from thems_jobs.core.platform import Database, Health, Network, Platform, Template, Tier

TEMPLATE = Template("debian", 900, "shared")


def platform_with_databases(nodes: tuple[str, ...] = ("pve1", "pve2", "pve3")) -> Platform:
    """A shop with a database cluster of three to seven and two proxies."""
    platform = make_platform(nodes=nodes, database=Database(1000, cluster=SETTINGS))
    db = Tier("database", TEMPLATE, 3, 3, 7, 1, 512, 4, "1300-1399", Network("vmbr0", "10.77.3.11-10.77.3.29", 16),
              Health(9200))  # fmt: skip
    proxy = Tier("proxy", TEMPLATE, 1, 2, 3, 1, 256, 4, "1400-1419", Network("vmbr0", "10.77.4.11-10.77.4.19", 16),
                 Health(8404))  # fmt: skip
    return replace(platform, tiers={**platform.tiers, "db": db, "proxy": proxy})


def facts_with_databases(platform: Platform, count: int = 3, proxies: int = 2) -> Facts:
    """Facts of a platform whose cluster and proxies are well."""
    facts, nodes = sound_facts(platform), platform.proxmox.nodes
    fleet = [serving(platform, "db", n + 1, nodes[n % len(nodes)]) for n in range(count)]
    fleet += [serving(platform, "proxy", n + 1, nodes[n % len(nodes)]) for n in range(proxies)]
    machines = {**facts.machines, **{machine.name: machine for machine in fleet}}
    facts = replace(facts, machines=machines, taken_vmids=frozenset(m.vmid for m in machines.values()))
    backends = {f"shop-db-{n + 1}": Backend(f"10.77.3.{11 + n}", "up", 0) for n in range(count)}
    fronts = {
        f"shop-proxy-{n + 1}": Proxy("shop-db-1" if count else "", backends, () if n else (SETTINGS.address,))
        for n in range(proxies)
    }
    answers = _in_one_view({name: _synced(0) for name in backends})
    return replace(facts, databases=databases.regrouped(platform, facts, answers, fronts))


def members(facts: Facts) -> set[str]:
    return {machine.name for machine in facts.of_tier("db") if databases.joined(facts, machine.name)}


def follow(
    platform: Platform, facts: Facts, plan_of: Callable[[Facts], Plan], chance: random.Random
) -> tuple[Facts, list[str]]:
    """Given facts, do any heads of the plan until nothing remains; return the facts and the steps in their order."""
    plan, done = plan_of(facts), list[str]()
    while plan.steps:
        assert not plan.refusals, [str(refusal) for refusal in plan.refusals]
        ready = heads(plan, frozenset())
        assert ready, "a plan that waits for itself"
        chosen = chance.sample(ready, chance.randint(1, len(ready)))
        for step in chosen:
            before = facts
            facts = model.after(platform, facts, plan, step)
            done.append(step.key)
            assert_one_at_a_time(before, facts)
        rest = plan_of(facts)
        gone = {step.key for step in chosen}
        expected = {step.key for step in plan.steps} - gone
        assert {step.key for step in rest.steps} == expected, f"after {sorted(gone)}"
        plan = rest
    assert not plan.refusals
    return facts, done


def assert_one_at_a_time(before: Facts, after: Facts) -> None:
    """Given the facts around a step, find that the cluster has changed by one at most and kept its writer."""
    assert len(members(before) ^ members(after)) <= 1
    if len(members(before)) >= 3:
        assert len(members(after)) >= 2
    for proxy in (after.databases.proxies if after.databases else {}).values():
        if isinstance(proxy, Proxy) and len(members(before)) > 1:
            assert not proxy.writer or proxy.writer in members(after), "writes go to one that has left"


def order(done: list[str], *keys: str) -> bool:
    """True if these steps were done in this order."""
    places = [done.index(key) for key in keys]
    return places == sorted(places)


@pytest.mark.parametrize("seed", range(10))
def test_a_cluster_is_made_by_the_first_and_joined_one_at_a_time(seed: int) -> None:
    platform = platform_with_databases()
    facts = facts_with_databases(platform, count=0, proxies=0)
    targets = {"db": 3, "proxy": 2}
    facts, done = follow(platform, facts, lambda f: plan_tiers(platform, f, targets), random.Random(seed))
    assert members(facts) == {"shop-db-1", "shop-db-2", "shop-db-3"}
    assert [key for key in done if key.startswith(("bootstrap", "join"))] == [
        "bootstrap shop-db-1", "join shop-db-2", "join shop-db-3",
    ]  # fmt: skip
    assert order(done, "serve shop-proxy-1", "admit shop-db-1", "serve shop-db-1", "join shop-db-2")
    assert order(done, "serve shop-db-2", "join shop-db-3")


@pytest.mark.parametrize("seed", range(10))
def test_an_event_takes_database_and_web_in_one_plan_and_gives_both_back(seed: int) -> None:
    platform, chance = platform_with_databases(), random.Random(seed)
    facts = facts_with_databases(platform)
    up, down = {"db": 5, "web": 4}, {"db": 3, "web": 2}
    facts, done = follow(platform, facts, lambda f: plan_tiers(platform, f, up), chance)
    assert len(members(facts)) == 5
    assert order(done, "serve shop-db-4", "join shop-db-5", "serve shop-db-5", "admit shop-web-3")
    facts, done = follow(platform, facts, lambda f: plan_tiers(platform, f, down), chance)
    assert len(members(facts)) == 3
    assert "shop-db-1" in members(facts), "the writer was not the last to go"
    leaves = [key for key in done if key.startswith("leave")]
    assert len(leaves) == 2
    first, second = (key.removeprefix("leave ") for key in leaves)
    assert order(done, f"withdraw {first}", f"await-drain {first}", f"retire {first}", f"leave {first}",
                 f"await-stop {first}", f"withdraw {second}", f"leave {second}")  # fmt: skip
    assert max(done.index(key) for key in done if key.startswith("retire shop-web")) < done.index(f"withdraw {first}")


def crowded(facts: Facts) -> set[str]:
    """Nodes with more than one database machine, if another node has none."""
    hosts = Counter(machine.node for machine in facts.of_tier("db"))
    return {node for node, count in hosts.items() if count > 1} if hosts.keys() < facts.nodes.keys() else set()


@pytest.mark.parametrize("nodes", [3, 4, 5])
@pytest.mark.parametrize(("count", "target"), [(5, 3), (7, 3), (7, 5)])
def test_whoever_is_the_writer_stays_and_the_others_stay_spread(count: int, target: int, nodes: int) -> None:
    platform = platform_with_databases(tuple(f"pve{n + 1}" for n in range(nodes)))
    for writer in range(1, count + 1):
        facts = with_writer(facts_with_databases(platform, count), f"shop-db-{writer}")
        assert not crowded(facts)
        facts, _ = follow(platform, facts, lambda f: plan_tiers(platform, f, {"db": target}), random.Random(writer))
        assert f"shop-db-{writer}" in members(facts)
        assert not crowded(facts), f"shop-db-{writer} is the writer"


def with_writer(facts: Facts, name: str) -> Facts:
    assert facts.databases is not None
    proxies = {n: replace(p, writer=name) for n, p in facts.databases.proxies.items() if isinstance(p, Proxy)}
    return replace(facts, databases=replace(facts.databases, proxies=proxies))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", ["shop-db-1", "shop-db-3", "shop-proxy-1", "shop-proxy-2"])
def test_a_member_or_a_proxy_is_replaced_by_a_new_one_first(name: str, seed: int) -> None:
    platform = platform_with_databases()
    facts, tier = facts_with_databases(platform), "db" if "db" in name else "proxy"
    targets = {tier: platform.tiers[tier].baseline}
    replaced = frozenset({name})
    facts, done = follow(platform, facts, lambda f: plan_tiers(platform, f, targets, replaced), random.Random(seed))
    new = "shop-db-4" if tier == "db" else "shop-proxy-3"
    assert name not in facts.machines
    assert facts.machines[new].phase is Phase.SERVING
    assert order(done, f"serve {new}", f"withdraw {name}", f"await-destroy {name}")


@pytest.mark.parametrize("seed", range(5))
def test_a_member_whose_database_or_machine_died_comes_back(seed: int) -> None:
    platform, chance = platform_with_databases(), random.Random(seed)
    for crashed in (lambda m: replace(m, health="the proxies find it down"),
                    lambda m: replace(m, running=False, ssh_open=False)):  # fmt: skip
        facts = without(platform, facts_with_databases(platform), "shop-db-2", crashed)
        facts, done = follow(platform, facts, lambda f: plan_tiers(platform, f, {"db": 3}), chance)
        assert "shop-db-2" in members(facts)
        assert order(done, "converge shop-db-2", "join shop-db-2", "await-sync shop-db-2", "serve shop-db-2")


def without(platform: Platform, facts: Facts, name: str, change: Callable[[Machine], Machine]) -> Facts:
    """Given facts, return them with one member gone from the cluster, as the others and the proxies see it."""
    cluster = facts.databases
    assert cluster is not None
    facts = replace(facts, machines={**facts.machines, name: change(facts.machines[name])})
    answers = {other: answer for other, answer in {**cluster.members, **cluster.arriving}.items() if other != name}
    fronts = {
        key: replace(proxy, backends={**proxy.backends, name: replace(proxy.backends[name], status="down")})
        for key, proxy in cluster.proxies.items()
        if isinstance(proxy, Proxy)
    }
    answers = {**_in_one_view(answers), name: Unknown("connection refused")}
    return replace(facts, databases=databases.regrouped(platform, facts, answers, fronts))


def refusals(facts: Facts, targets: dict[str, int]) -> set[str]:
    return {refusal.reference for refusal in plan_tiers(platform_with_databases(), facts, targets).refusals}


def test_a_cluster_of_which_nobody_is_left_is_not_made_anew() -> None:
    platform = platform_with_databases()
    facts = facts_with_databases(platform)
    for number in (1, 2, 3):
        facts = without(platform, facts, f"shop-db-{number}", lambda m: replace(m, health="down"))
    plan = plan_tiers(platform, facts, {"db": 3})
    assert "galera-all-down" in {refusal.reference for refusal in plan.refusals}
    assert not [step for step in plan.steps if step.action is Action.BOOTSTRAP]


def test_gates_of_the_cluster_close_what_touches_it_and_nothing_else() -> None:
    platform = platform_with_databases()
    facts = facts_with_databases(platform)
    cluster = facts.databases
    assert cluster is not None
    slow = replace(cluster.members["shop-db-3"], receive_queue=50.0)  # type: ignore[type-var]
    facts = replace(facts, databases=replace(cluster, members={**cluster.members, "shop-db-3": slow}))
    assert refusals(facts, {"db": 5}) == {"galera-lagging"}
    assert refusals(facts, {"web": 4}) == set()
    assert refusals(facts, {"db": 3}) == set(), "nothing is to be done"
    assert refusals(replace(facts, databases=None), {"db": 5}) >= {"database-unreachable"}


def test_two_halves_that_both_claim_to_be_primary_are_left_alone() -> None:
    platform = platform_with_databases()
    facts = facts_with_databases(platform, count=5)
    cluster = facts.databases
    assert cluster is not None
    halves = {
        name: replace(member, size=3 if number < 3 else 2, view=8 if number < 3 else 9)
        for number, (name, member) in enumerate(cluster.members.items())
        if isinstance(member, Member)
    }
    facts = replace(facts, databases=replace(cluster, members=halves))
    assert {"galera-views-differ", "galera-size"} <= refusals(facts, {"db": 3})


def test_the_facts_of_these_tests_are_sound() -> None:
    platform = platform_with_databases()
    facts = facts_with_databases(platform)
    assert (facts.at, facts.roles["db"]) == (AT, ROLE)
    plan = plan_tiers(platform, facts, {"db": 3, "proxy": 2, "web": 2, "lb": 2})
    assert not plan.steps
    assert not plan.refusals
