"""Which machine is ours: names, addresses, ids and stamps."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from platforms import make_platform, serving, sound_facts

from thems_jobs.core.facts import Balancer, Phase, Server, Stamp, Stranger
from thems_jobs.core.identity import (
    address_of,
    choose_vmids,
    doubts,
    free_names,
    read_stamp,
    resembles,
    tags_of,
    tier_of,
    write_stamp,
)
from thems_jobs.core.platform import Tier, addresses_of, vmids_of

PLATFORM = make_platform()
STAMP = Stamp("shop", "shop-web-3", 1102, "web", Phase.SERVING, "debian@1", "digest", 5.0, "ssh-ed25519 AAAA")
OURS: dict[str, Any] = {"vmid": 1102, "name": "shop-web-3", "pool": "shop", "stamp": STAMP}


@pytest.mark.parametrize(
    ("name", "tier"),
    [
        ("shop-web-1", "web"), ("shop-web-12", "web"), ("shop-lb-2", "lb"), ("shop-web-0", None),
        ("shop-web-01", None), ("shop-web-", None), ("shop-web", None), ("shop-db-1", None), ("other-web-1", None),
        ("shop-web-1-2", None), ("shop-web-²", None), ("shop-web-٣", None), ("", None), ("-1", None), ("web-1", None),
    ],
)  # fmt: skip
def test_a_name_tells_the_tier(name: str, tier: str | None) -> None:
    assert tier_of(PLATFORM, name) == tier


def test_addresses_follow_the_number() -> None:
    assert address_of(PLATFORM, "shop-web-1") == "10.77.1.11"
    assert address_of(PLATFORM, "shop-web-50") == "10.77.1.60"
    for name in ("shop-web-51", "shop-web-99999999999999999999", "somebody"):
        with pytest.raises(IndexError):
            address_of(PLATFORM, name)


def test_names_are_free_when_nobody_has_name_address_or_place_in_a_table() -> None:
    facts = sound_facts(PLATFORM, taken_addresses={"10.77.1.13": "a machine answers there"})
    table = Balancer({"shop-web-4": Server("10.77.1.14:80", 100, False, 0)}, "")
    facts = replace(facts, strangers=(Stranger(5, "shop-web-5", "", "no pool"),), balancers={"shop-lb-1": table})
    assert free_names(PLATFORM, "web", facts, 2, frozenset({"shop-web-6"})) == ["shop-web-7", "shop-web-8"]


@given(st.frozensets(st.integers(1090, 1210)), st.integers(0, 120))
def test_ids_are_free_different_and_of_the_tier(taken: frozenset[int], count: int) -> None:
    tier = PLATFORM.tiers["web"]
    chosen = choose_vmids(tier, taken, count)
    assert len(set(chosen)) == len(chosen) == min(count, len(set(vmids_of(tier)) - taken))
    assert not set(chosen) & taken
    assert set(chosen) <= set(vmids_of(tier))


@given(st.builds(Stamp, st.text(), st.text(), st.integers(), st.text(), st.sampled_from(Phase), st.text(), st.text(),
                 st.floats(allow_nan=False, allow_infinity=False), st.text()))  # fmt: skip
def test_a_stamp_survives_a_round_trip(stamp: Stamp) -> None:
    assert read_stamp(write_stamp(stamp)) == stamp


@given(st.text())
def test_no_description_makes_it_stumble(text: str) -> None:
    for candidate in (text, "{" + text, '{"phase": "serving", ' + text + "}"):
        read_stamp(candidate)


@pytest.mark.parametrize(
    "change", [{"vmid": "1102"}, {"phase": "retired"}, {"since": "soon"}, {"tier": None}, {"more": 1}, {"vmid": True}]
)
def test_a_stamp_of_the_wrong_shape_is_none(change: dict[str, Any]) -> None:
    data = json.loads(write_stamp(STAMP).partition("\n")[2]) | change
    assert read_stamp(json.dumps(data)) is None


@pytest.mark.parametrize("text", ["", "{", "[1]", "{}", "null", "[" * 8000, '{"a":' * 2000, "hello {world}"])
def test_what_is_no_stamp_is_none(text: str) -> None:
    assert read_stamp(text) is None


def test_our_own_machine_raises_no_doubt() -> None:
    assert doubts(PLATFORM, **OURS) == ""


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"vmid": 5000}, "its stamp is that of shop-web-3 (1102)"),
        ({"name": "shop-web-4"}, "its stamp is that of shop-web-3 (1102)"),
        ({"name": "Copy-of-VM-shop-web-3"}, "its stamp is that of shop-web-3 (1102)"),
        ({"stamp": None}, "it carries no stamp"),
        ({"pool": "lab"}, "it is in pool 'lab'"),
        ({"pool": ""}, "it is in no pool"),
        ({"stamp": replace(STAMP, platform="other")}, "its stamp says platform 'other'"),
        ({"stamp": replace(STAMP, tier="lb")}, "its stamp says tier 'lb'"),
        ({"name": "shop-db-3", "stamp": replace(STAMP, machine="shop-db-3")}, "the platform file has no place for it"),
        ({"name": "shop-web-51", "stamp": replace(STAMP, machine="shop-web-51")}, "has no place for it"),
    ],
)
def test_copies_namesakes_and_strangers_are_not_ours(changes: dict[str, Any], reason: str) -> None:
    assert reason in doubts(PLATFORM, **OURS | changes)


def test_what_stands_in_our_way_is_seen() -> None:
    assert resembles(PLATFORM, 1150, "postgres", "", ())
    assert resembles(PLATFORM, 5000, "shop-web-7", "", ())
    assert resembles(PLATFORM, 5000, "postgres", "shop", ("thems",))
    assert not resembles(PLATFORM, 5000, "postgres", "shop", ("db",))
    assert not resembles(PLATFORM, 5000, "postgres", "lab", ("thems",))


def test_tags_are_in_proxmox_order() -> None:
    assert tags_of(STAMP) == ("phase-serving", "thems", "tier-web")


def test_a_slip_of_the_pen_in_a_range_costs_no_memory() -> None:
    tier = PLATFORM.tiers["web"]
    with pytest.raises(ValueError, match="more than"):
        addresses_of(replace(tier.network, addresses="1.0.0.0-200.0.0.0"))
    for vmids in ("100-999999999", "100-" + "9" * 30):
        with pytest.raises(ValueError, match="more than"):
            vmids_of(replace(tier, vmids=vmids))


def test_numbers_and_ids_of_a_machine_are_its_own() -> None:
    tier: Tier = PLATFORM.tiers["web"]
    machine = serving(PLATFORM, "web", 3)
    assert (machine.vmid, machine.address) == (vmids_of(tier).start + 2, addresses_of(tier.network)[2])
