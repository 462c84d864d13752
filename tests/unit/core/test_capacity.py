"""Targets, who leaves first, and where new machines find room."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from platforms import AT, make_platform, serving, sound_facts

from thems_jobs.core.capacity import Room, leaving_order, place, rooms, storage_left_mib, target, targets
from thems_jobs.core.facts import Machine, Node, Phase, Storage, Unknown
from thems_jobs.core.record import Claim, Record

PLATFORM = make_platform()
WEB = PLATFORM.tiers["web"]


def claim(name: str, count: int, ends_in_s: float = 60, tier: str = "web") -> Claim:
    return Claim(name, {tier: count}, AT + ends_in_s, "somebody")


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ((), 2),
        ((claim("show", 6),), 6),
        ((claim("show", 4), claim("sale", 6)), 6),
        ((claim("show", 6), claim("sale", 4)), 6),
        ((claim("show", 1),), 2),
        ((claim("show", 6, tier="db"),), 2),
    ],
)
def test_a_target_is_the_baseline_or_the_highest_claim(claims: tuple[Claim, ...], expected: int) -> None:
    assert target("web", WEB, claims) == expected


def test_a_claim_that_ended_counts_no_more() -> None:
    record = Record(claims=(claim("over", 8, -1), claim("now ending", 7, 0), claim("live", 5, 1)))
    assert targets(PLATFORM, sound_facts(PLATFORM, record=record)) == {"web": 5, "lb": 2}


def test_an_unknown_record_asks_for_no_more_than_the_baseline() -> None:
    assert targets(PLATFORM, sound_facts(PLATFORM, record=Unknown("gone"))) == {"web": 2, "lb": 2}


def order(*machines: Machine, last: tuple[str, ...] = ()) -> list[int]:
    return [int(machine.name.rpartition("-")[2]) for machine in leaving_order(machines, last)]


def web(number: int, node: str = "pve1", **changes: object) -> Machine:
    return serving(PLATFORM, "web", number, node, **changes)


def test_first_go_those_that_leave_then_the_half_made_then_the_unwell_then_the_well() -> None:
    machines = [
        web(1),
        web(2, health="the balancers find it down"),
        web(3, phase=Phase.BUILDING),
        web(4, phase=Phase.DRAINING),
        web(5, running=False),
        web(6, ssh_open=False),
    ]
    assert order(*machines) == [4, 3, 6, 5, 2, 1]


def test_of_those_that_serve_one_from_the_fullest_node_goes_first() -> None:
    assert order(web(1, "pve1"), web(2, "pve1"), web(3, "pve1"), web(4, "pve2")) == [3, 2, 4, 1]


def test_who_goes_last_crowds_its_node_all_the_same() -> None:
    five = [web(1, "pve2"), web(2, "pve3"), web(3, "pve1"), web(4, "pve2"), web(5, "pve3")]
    assert order(*five) == [5, 4, 3, 2, 1]
    assert order(*five, last=("shop-web-5",)) == [4, 2, 3, 1, 5]
    draining = [*five[:4], web(5, "pve3", phase=Phase.DRAINING)]
    assert order(*draining, last=("shop-web-5",))[-1] == 5


@given(st.lists(st.integers(0, 4), min_size=1, max_size=9), st.data())
def test_no_node_is_left_with_two_while_another_loses_its_last(nodes: list[int], data: st.DataObject) -> None:
    machines = [web(number, f"pve{node}") for number, node in enumerate(nodes, 1)]
    last = data.draw(st.sampled_from([(), *((machine.name,) for machine in machines)]))
    leaving = leaving_order(machines, last)
    staying = leaving[data.draw(st.integers(0, len(machines) - 1)) :]
    assert not last or staying[-1].name == last[0]
    crowd = Counter(machine.node for machine in staying)
    assert max(crowd.values()) == 1 or crowd.keys() == {machine.node for machine in machines}


def test_ten_is_higher_than_nine() -> None:
    assert order(web(9), web(10)) == [10, 9]


@given(st.permutations([web(n, f"pve{n % 3}") for n in range(1, 8)]))
def test_the_order_does_not_depend_on_how_the_machines_are_listed(machines: list[Machine]) -> None:
    assert order(*machines) == order(*[web(n, f"pve{n % 3}") for n in range(1, 8)])


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9000), st.integers(0, 12)), max_size=5), st.integers(0, 20))
def test_no_node_is_promised_more_than_it_has(sizes: list[tuple[int, int, int]], count: int) -> None:
    free = [Room(f"pve{n}", memory, cores, crowd) for n, (crowd, memory, cores) in enumerate(sizes)]
    chosen = place(WEB, count, free)
    assert len(chosen) <= count
    for room in free:
        mine = chosen.count(room.node)
        assert mine * WEB.memory_mib <= max(0, room.memory_mib)
        assert mine * WEB.cores <= max(0, room.cores)
    if len(chosen) < count:
        left = [Room(r.node, r.memory_mib - chosen.count(r.node) * WEB.memory_mib,
                     r.cores - chosen.count(r.node) * WEB.cores, 0) for r in free]  # fmt: skip
        assert not any(room.fits(WEB) for room in left), "there was room left"


@given(st.lists(st.integers(0, 3), min_size=1, max_size=5), st.integers(0, 12))
def test_machines_are_spread_evenly_where_there_is_room(crowds: list[int], count: int) -> None:
    free = [Room(f"pve{n}", 1 << 20, 1000, crowd) for n, crowd in enumerate(crowds)]
    chosen = place(WEB, count, free)
    after = [room.of_tier + chosen.count(room.node) for room in free]
    grown = [crowd for crowd, room in zip(after, free, strict=True) if chosen.count(room.node)]
    assert len(chosen) == count
    assert not grown or max(grown) - min(after) <= 1


def test_strict_spread_puts_no_two_on_a_node() -> None:
    tier = make_platform(placement="strict-spread").tiers["web"]
    free = [Room("pve1", 1 << 20, 100, 0), Room("pve2", 1 << 20, 100, 1), Room("pve3", 1 << 20, 100, 0)]
    assert sorted(place(tier, 3, free)) == ["pve1", "pve3"]


def test_room_is_what_nodes_have_less_what_is_promised_and_kept_for_proxmox() -> None:
    facts = sound_facts(PLATFORM, nodes={"pve1": Node("pve1", True, 8, 4, 10_000, 3_000)})
    (room,) = rooms(PLATFORM, facts, "web", {"pve1": [WEB]})
    there = 1_024 + 512  # a web machine and a balancer
    assert room == Room("pve1", 10_000 - 3_000 - 2_048 - there - 1_024, 8 * 4.0 - 4 - (2 + 1) - 2, 1)


@pytest.mark.parametrize(
    ("changes", "memory_mib", "cores"),
    [
        ({"memory_mib": 4_096, "cores": 6}, 4_096, 6),  # made when its tier was larger
        ({"stamp": None, "configured": False, "locked": "clone"}, 1_024, 2),
        ({"exists": False, "clone": "cloning"}, 1_024, 2),
        ({"exists": False, "clone": "no space left on device"}, 0, 0),
        ({"template": True}, 0, 0),
    ],
)
def test_a_machine_takes_what_it_has_or_will_have(changes: dict[str, object], memory_mib: int, cores: int) -> None:
    facts = sound_facts(PLATFORM, web=0, lb=0, nodes={"pve1": Node("pve1", True, 8, 0, 10_000, 0)})
    (empty,) = rooms(PLATFORM, facts, "web", {})
    (room,) = rooms(PLATFORM, replace(facts, machines={"shop-web-1": web(1, **changes)}), "web", {})
    assert (empty.memory_mib - room.memory_mib, empty.cores - room.cores) == (memory_mib, cores)


def test_no_room_is_seen_on_nodes_that_are_offline_foreign_or_without_the_storage() -> None:
    nodes = {name: Node(name, name != "pve2", 64, 0, 1 << 18, 0) for name in ("pve1", "pve2", "pve3", "pve4")}
    platform = make_platform(nodes=("pve1", "pve2", "pve3"))
    active = (Storage("shared", "pve1", True, True, 1), Storage("shared", "pve2", True, True, 1),
              Storage("shared", "pve3", True, False, 1), Storage("shared", "pve4", True, True, 1))  # fmt: skip
    seen = rooms(platform, sound_facts(platform, nodes=nodes, storages=active), "web", {})
    assert [room.node for room in seen] == ["pve1"]


def test_from_a_storage_that_is_not_shared_clones_stay_on_the_template_s_node() -> None:
    local = tuple(Storage("shared", name, False, True, 1) for name in ("pve1", "pve2"))
    seen = rooms(PLATFORM, sound_facts(PLATFORM, storages=local), "web", {})
    assert [room.node for room in seen] == ["pve1"]


def test_free_space_is_what_the_least_lucky_node_sees() -> None:
    seen = [Storage("shared", "pve1", True, True, 50), Storage("shared", "pve2", True, True, 40),
            Storage("shared", "pve3", True, False, 0), Storage("local", "pve1", False, True, 1)]  # fmt: skip
    assert storage_left_mib(seen, "shared") == 40
    assert storage_left_mib(seen, "gone") is None
