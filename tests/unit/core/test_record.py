"""The record survives a round trip, refuses what it cannot read, and never grows beyond what Proxmox keeps."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from platforms import AT

from thems_jobs.core import record as records
from thems_jobs.core.record import Approved, Claim, Intent, Lease, Record

words = st.text(max_size=12)
times = st.integers(0, 2_000_000_000).map(float)
names = st.from_regex(r"shop-web-[1-9][0-9]?", fullmatch=True)
counts = st.dictionaries(words, st.integers(0, 99), max_size=2)
changes = st.dictionaries(words, st.lists(names, max_size=3).map(tuple), max_size=2)
known = st.builds(
    Record,
    lease=st.none() | st.builds(Lease, words, words, times),
    claims=st.lists(st.builds(Claim, words, counts, times, words, words, words, times), max_size=3).map(tuple),
    intents=st.dictionaries(names, st.builds(Intent, st.integers(100, 999), st.integers(1, 3), times), max_size=3),
    approved=st.none() | st.builds(Approved, words, words, times, changes),
    seconds=st.dictionaries(words, st.integers(0, 999).map(lambda tenths: tenths / 10), max_size=3),
)


@given(known)
def test_a_record_survives_a_round_trip(record: Record) -> None:
    assert records.read(records.write(record, "shop"), "shop") == record


@given(known)
def test_proxmox_may_add_a_line_end(record: Record) -> None:
    assert records.read(records.write(record, "shop") + "\n", "shop") == record


def test_nothing_written_is_an_empty_record() -> None:
    assert records.read("", "shop") == records.read(" \n", "shop") == Record()


@given(known)
def test_the_record_of_another_platform_is_not_taken_for_ours(record: Record) -> None:
    with pytest.raises(ValueError, match="of platform ware, not of shop"):
        records.read(records.write(record, "ware"), "shop")


def test_a_record_without_its_heading_is_read() -> None:
    """Somebody mended it by hand."""
    assert records.read('{"seconds":{"clone":3}}', "shop") == Record(seconds={"clone": 3})


HELD = {"token": "t", "holder": "h", "until": 1}


@pytest.mark.parametrize(
    "text",
    [
        "please do not delete, Anna", "{", "{}x", "{" * 9000, "[" * 8000 + "{", '{"lease": 5}', '{"lease": {}}',
        '{"claims": 7}', '{"claims": [{"name": "x"}]}', '{"intents": {"a": [1]}}', '{"intents": [1, 2]}',
        '{"approved": {"digest": 1}}', '{"seconds": 3}', '{"seconds": {"clone": "soon"}}', "{nonsense}",
        json.dumps({"lease": HELD | {"until": "tomorrow"}}), '{"lease": {"token": "t", "holder": "h", "until": NaN}}',
        '{"lease": {"token": "t", "holder": "h", "until": 1e999}}', '{"a": ' * 3000 + "1" + "}" * 3000,
    ],
)  # fmt: skip
def test_what_is_not_a_record_is_said_to_be_none(text: str) -> None:
    with pytest.raises(ValueError, match="record"):
        records.read(text, "shop")


@given(st.text())
def test_no_text_makes_it_stumble(text: str) -> None:
    for candidate in (text, "{" + text, '{"claims": [' + text + "]}"):
        try:
            records.read(candidate, "shop")
        except ValueError:
            continue


def test_a_record_that_grew_too_long_is_not_written() -> None:
    claims = tuple(Claim(f"show-{n}", {"web": 6}, AT, "somebody", "x" * 100) for n in range(60))
    with pytest.raises(ValueError, match="8192"):
        records.write(Record(claims=claims), "shop")
    assert len(records.write(Record(claims=claims[:30]), "shop")) <= records.LIMIT


def test_a_reason_takes_as_many_characters_as_it_has() -> None:
    claims = tuple(Claim(f"show-{n}", {"web": 6}, AT, "Анна", "показ " * 33) for n in range(24))
    assert len(records.write(Record(claims=claims), "shop")) <= records.LIMIT


def test_half_a_character_is_replaced() -> None:
    """An argument, or JSON, may hold one; it has no UTF-8."""
    (claim,) = records.read(records.write(Record(claims=(Claim("a", {}, AT, "b", "\udcff"),)), "shop"), "shop").claims
    assert claim.reason == "?"


def test_claims_of_earlier_versions_are_read() -> None:
    text = '{"claims":[{"by":"anna","name":"gala","reason":"","tiers":{"web":6},"until":1800000000.0}]}'
    assert records.read(text, "shop") == Record(claims=(Claim("gala", {"web": 6}, AT, "anna"),))


def test_a_lease_is_held_by_its_token_until_it_ends() -> None:
    record = Record(lease=Lease("ours", "us", AT))
    assert records.holds_lease(record, "ours", AT - 1)
    assert not records.holds_lease(record, "ours", AT)
    assert not records.holds_lease(record, "theirs", AT - 1)
    assert not records.holds_lease(Record(), "ours", AT)


def test_only_our_own_lease_is_given_back() -> None:
    record = Record(lease=Lease("ours", "us", AT))
    assert records.release_lease(record, "ours").lease is None
    assert records.release_lease(record, "theirs") == record


def test_a_claim_takes_the_place_of_its_namesake_alone() -> None:
    show, sale = Claim("show", {"web": 4}, AT, "a"), Claim("sale", {"web": 6}, AT, "b")
    longer = Claim("show", {"web": 4}, AT + 60, "a")
    record = records.with_claim(Record(claims=(show, sale)), longer)
    assert sorted(record.claims, key=lambda claim: claim.name) == [sale, longer]
    assert records.without_claims(record, frozenset({"sale"})).claims == (longer,)
    assert records.live_claims(record, AT) == (longer,)


def test_measurements_move_half_the_way() -> None:
    assert records.smooth(None, 8.0) == 8.0
    assert records.smooth(4.0, 8.0) == 6.0
