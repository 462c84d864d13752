"""Claims of several people and of the calendar: whose word counts, and what a plan says of it."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parent / "core"))
from platforms import AT, make_platform, sound_facts

import examples
from thems_jobs.core.claims import CALENDAR, of_event
from thems_jobs.core.events import Event
from thems_jobs.core.facts import Node, Stranger
from thems_jobs.core.plan import Action, Plan
from thems_jobs.core.record import Claim, Record, live_claims
from thems_jobs.display import plan_view
from thems_jobs.jobs import provision, scale
from thems_jobs.jobs.scale import Parameters, claims_after
from thems_jobs.report import as_html, as_text
from thems_jobs.status import status_json, status_view

HOUR, DAY = 3600.0, 86400.0
PLATFORM = make_platform()
GALA = Event("gala", AT + HOUR, AT + 5 * HOUR, {"web": 6}, HOUR)


def by_calendar(record: Record, *events: Event, at: float = AT) -> Record:
    return claims_after(Parameters(calendar=events), record, at)[0]


def by(person: str, record: Record, at: float = AT, **asked: object) -> Record:
    return claims_after(Parameters(by=person, **asked), record, at)[0]  # type: ignore[arg-type]


def planned(parameters: Parameters, record: Record, web: int = 2, at: float = AT) -> Plan:
    facts = replace(sound_facts(PLATFORM, web=web, record=record), at=at)
    return scale.plan(PLATFORM, parameters, facts)


def live(record: Record, at: float = AT) -> dict[str, tuple[int, float]]:
    return {claim.name: (claim.tiers["web"], claim.until) for claim in live_claims(record, at)}


def printed(plan: Plan) -> str:
    console = Console(width=200, record=True)
    console.print(plan_view(plan, {}))
    return console.export_text()


# People


def test_claims_without_a_name_stand_side_by_side() -> None:
    anna = Parameters({"web": 6}, AT + HOUR, by="anna@agent-1")
    bert = Parameters({"web": 3}, AT + 9 * HOUR, by="bert@agent-1")
    record = claims_after(bert, claims_after(anna, Record(), AT)[0], AT)[0]
    assert sorted(live(record).values()) == [(3, AT + 9 * HOUR), (6, AT + HOUR)]
    plan = planned(bert, claims_after(anna, Record(), AT)[0], web=6)
    assert {step.action for step in plan.steps} == {Action.CLAIM}
    assert plan.refusals == ()
    (remains,) = plan.notes
    assert remains.endswith("web=6 until 2027-01-15 09:00 UTC by anna@agent-1 remains")
    assert remains in printed(plan)
    assert remains in as_text(replace(examples.done(), plan=plan))
    assert remains in as_html(replace(examples.done(), plan=plan))


def test_the_button_pressed_twice_is_one_claim_and_pressed_otherwise_another() -> None:
    once = claims_after(Parameters({"web": 6}, AT + HOUR, by="Änne Vogel@agent-1"), Record(), AT)[0]
    (claim,) = once.claims
    assert claim.name.startswith("nne-Vogel-20270115T0900Z-")
    assert len(claim.name) <= 40
    again = Parameters({"web": 6}, AT + HOUR, by="Änne Vogel@agent-2")
    assert claims_after(again, once, AT) == (once, [])
    more = claims_after(replace(again, tiers={"web": 8}), once, AT)[0]
    assert len(more.claims) == 2


def test_nobody_s_claim_is_made_less_by_somebody_else() -> None:
    record = by("anna@here", Record(), tiers={"web": 6}, until=AT + HOUR, event="gala")
    for less in (Parameters({"web": 3}, AT + 9 * HOUR, "gala", by="bert"),
                 Parameters({"web": 8}, AT + 60, "gala", by="bert"),
                 Parameters({"lb": 2}, AT + 9 * HOUR, "gala", by="bert")):  # fmt: skip
        plan = planned(less, record, web=6)
        assert [refusal.reference for refusal in plan.refusals] == ["claim-of-another"]
        assert "web=6 until 2027-01-15 09:00 UTC, by anna@here" in str(plan.refusals[0])
        assert plan.steps == ()
    raised = Parameters({"web": 7}, AT + 2 * HOUR, "gala", by="bert")
    plan = planned(raised, record, web=6)
    assert plan.refusals == ()
    (note,) = (step.note for step in plan.steps if step.action is Action.CLAIM)
    assert note == "web=7 until 2027-01-15 10:00 UTC, was web=6 until 2027-01-15 09:00 UTC by anna@here"


def test_one_s_own_claim_may_be_made_less_on_any_host_and_another_s_that_is_over() -> None:
    record = by("anna@agent-1", Record(), tiers={"web": 6}, until=AT + HOUR, event="gala")
    assert live(by("anna@agent-2", record, tiers={"web": 3}, until=AT + 60, event="gala")) == {"gala": (3, AT + 60)}
    later = AT + 2 * HOUR
    taken = by("bert", record, later, tiers={"web": 3}, until=later + 60, event="gala")
    assert live(taken, later) == {"gala": (3, later + 60)}


def test_the_same_claim_by_somebody_else_finishes_a_run_and_changes_nothing() -> None:
    record = by("anna@here", Record(), tiers={"web": 6}, until=AT + HOUR, event="gala")
    bert = Parameters({"web": 6}, AT + HOUR, "gala", by="bert@there")
    assert claims_after(bert, record, AT) == (record, [])
    assert {change.kind for change in planned(bert, record).changes} == {"make"}


def test_who_ends_a_claim_sees_whose_it_was_and_what_remains() -> None:
    record = by("anna", Record(), tiers={"web": 6}, until=AT + HOUR, event="gala")
    record = by("bert", record, tiers={"web": 4}, until=AT + 2 * HOUR, event="sale")
    plan = planned(Parameters(end="gala", by="carla"), record, web=6)
    assert plan.steps[0].note == "ended, was web=6 until 2027-01-15 09:00 UTC by anna"
    assert plan.notes == ("sale: web=4 until 2027-01-15 10:00 UTC by bert remains",)
    assert [change.kind for change in plan.changes] == ["remove", "remove"]


def test_who_ends_a_claim_that_is_not_there_is_told_so_and_may_run_it_again() -> None:
    record = by("anna", Record(), tiers={"web": 6}, until=AT + HOUR, event="gala")
    plan = planned(Parameters(end="gaaala", by="anna"), record, web=6)
    assert (plan.steps, plan.refusals, plan.warnings) == ((), (), ())
    assert plan.finding == (
        "Nothing to do: no claim gaaala is live, it has ended or another name was meant (there are gala)."
    )
    ended = by("anna", record, end="gala")
    assert ended.claims == ()
    rest = planned(Parameters(end="gala", by="anna"), ended, web=6)
    assert [change.kind for change in rest.changes] == ["remove"] * 4
    assert "no claim gala is live" in printed(rest)


def test_a_machine_to_be_replaced_that_is_not_there_is_named() -> None:
    plan = provision.plan(PLATFORM, provision.Parameters(replace=("shop-web-9",)), sound_facts(PLATFORM))
    assert plan.steps == ()
    assert plan.finding == (
        "Nothing to do: shop-web-9 is not there, it was replaced or another name was meant "
        "(web has shop-web-1, shop-web-2)."
    )
    there = provision.plan(PLATFORM, provision.Parameters(replace=("shop-web-2",)), sound_facts(PLATFORM))
    assert (there.finding, there.notes) == ("", ())


OUT_OF_REACH = Stranger(1109, "shop-web-9", "shop", "node pve3 is offline")


def test_a_machine_to_be_replaced_that_cannot_be_seen_is_not_taken_for_gone() -> None:
    """It was replaced half-way when its node went: the new one serves, and nothing remains but its removal."""
    facts = replace(sound_facts(PLATFORM), cut_off=(OUT_OF_REACH,))
    plan = provision.plan(PLATFORM, provision.Parameters(replace=("shop-web-9",)), facts)
    assert plan.steps == ()
    assert [(r.reference, r.subject, r.measured) for r in plan.refusals] == [
        ("node-offline", "VM 1109 (shop-web-9)", "node pve3 is offline")
    ]
    both = provision.Parameters(replace=("shop-web-2", "shop-web-9"))
    assert [r.reference for r in provision.plan(PLATFORM, both, facts).refusals] == ["node-offline"]


def test_what_cannot_be_seen_is_told_of_where_nothing_is_to_be_done() -> None:
    facts = replace(sound_facts(PLATFORM), cut_off=(OUT_OF_REACH,))
    plan = provision.plan(PLATFORM, provision.Parameters(), facts)
    assert (plan.steps, plan.refusals) == ((), ())
    assert plan.warnings == ("VM 1109 (shop-web-9) is out of reach: node pve3 is offline.",)


def test_what_ends_while_a_run_is_at_work_is_for_the_next_one() -> None:
    record = by("anna", Record(), tiers={"web": 6}, until=AT + 60, event="gala")
    begun = Parameters({"web": 4}, AT + HOUR, "sale", by="bert", at=AT)
    both = claims_after(begun, record, AT)[0]
    assert planned(begun, both, web=6, at=AT + 90).steps == ()
    later = planned(replace(begun, at=AT + 90), both, web=6, at=AT + 90)
    assert [change.kind for change in later.changes] == ["remove"] * 2


# The calendar


def test_an_event_is_claimed_from_its_lead_time_to_its_end() -> None:
    assert by_calendar(Record(), GALA, at=AT - 1) == Record()
    record = by_calendar(Record(), GALA)
    assert record.claims == (of_event(GALA),)
    assert by_calendar(record, GALA, at=GALA.ends_at - 1) == record
    assert by_calendar(record, GALA, at=GALA.ends_at) == Record()
    assert by("cron", record, GALA.ends_at) == Record()


@pytest.mark.parametrize(
    ("asked", "counts"),
    [
        ({"extend": "gala", "until": AT + 9 * HOUR}, {"gala": (6, AT + 9 * HOUR)}),
        ({"extend": "gala", "until": AT + 2 * HOUR}, {"gala": (6, AT + 2 * HOUR)}),
        ({"end": "gala"}, {}),
        ({"tiers": {"web": 8}, "until": GALA.ends_at, "event": "gala"}, {"gala": (8, GALA.ends_at)}),
    ],
    ids=["longer", "shorter", "ended", "more"],
)
def test_what_a_person_did_to_an_event_is_left_alone_until_its_end(
    asked: dict[str, object], counts: dict[str, tuple[int, float]]
) -> None:
    record = by("anna", by_calendar(Record(), GALA), **asked)
    for at in (AT + 60, AT + 2 * HOUR, GALA.ends_at - 1):
        after = by_calendar(record, GALA, at=at)
        assert after == record
        assert by("cron", after, at) == record
        assert live(after, at) == {name: claim for name, claim in counts.items() if claim[1] > at}
    plan = planned(Parameters(calendar=(GALA,)), record, web=6, at=AT + 60)
    assert [step for step in plan.steps if step.action is Action.CLAIM] == []
    assert "the calendar asks for web=6 until 2027-01-15 13:00 UTC" in plan.finding
    end = max([GALA.ends_at, *(until for _, until in counts.values())])
    assert by_calendar(record, GALA, at=end) == Record()


def test_what_the_calendar_asks_for_is_not_made_less_by_hand_under_its_name() -> None:
    fewer = Parameters({"web": 3}, GALA.ends_at, "gala", by="anna")
    plan = planned(fewer, by_calendar(Record(), GALA), web=6)
    assert [refusal.reference for refusal in plan.refusals] == ["claim-of-another"]


def test_an_event_nobody_touched_follows_the_file() -> None:
    record = by_calendar(Record(), GALA)
    assert live(by_calendar(record, replace(GALA, tiers={"web": 4}))) == {"gala": (4, GALA.ends_at)}
    assert live(by_calendar(record, replace(GALA, ends_at=AT + 2 * HOUR))) == {"gala": (6, AT + 2 * HOUR)}
    assert by_calendar(record) == Record()
    moved = replace(GALA, starts_at=GALA.starts_at + 7 * DAY, ends_at=GALA.ends_at + 7 * DAY)
    assert by_calendar(record, moved) == Record()
    assert live(by_calendar(record, replace(GALA, name="autumn-gala"))) == {"autumn-gala": (6, GALA.ends_at)}
    plan = planned(Parameters(calendar=()), record, web=6)
    assert plan.steps[0].note == "ended, was web=6 until 2027-01-15 13:00 UTC by calendar"


def test_what_the_file_says_anew_counts_again_and_only_adds() -> None:
    claimed = by_calendar(Record(), GALA)
    later = replace(GALA, starts_at=AT + 3 * HOUR, tiers={"web": 5})
    ended = by("anna", claimed, end="gala")
    assert live(by_calendar(ended, later, at=AT + 60), AT + 60) == {}
    assert live(by_calendar(ended, later, at=AT + 2 * HOUR), AT + 2 * HOUR) == {"gala": (5, GALA.ends_at)}
    extended = by("anna", claimed, extend="gala", until=AT + 9 * HOUR)
    for counts, expected in ((4, 6), (8, 8)):
        after = by_calendar(extended, replace(GALA, tiers={"web": counts}))
        assert live(after) == {"gala": (expected, AT + 9 * HOUR)}
        assert after.claims[0].by == "anna"
    assert by_calendar(extended) == extended  # cancelled: the claim is anna's to end


def test_a_claim_that_a_person_made_before_is_added_to_once() -> None:
    record = by("anna", Record(), tiers={"web": 3, "lb": 2}, until=AT + 2 * HOUR, event="gala", reason="a rehearsal")
    (both,) = by_calendar(record, GALA).claims
    assert (both.tiers, both.until, both.by, both.reason) == ({"web": 6, "lb": 2}, GALA.ends_at, "anna", "a rehearsal")
    less = by("anna", Record(claims=(both,)), tiers={"web": 4}, until=GALA.ends_at, event="gala")
    assert by_calendar(less, GALA) == less


def test_an_ended_event_is_brought_back_by_extending_it() -> None:
    ended = by("anna", by_calendar(Record(), GALA), end="gala")
    plan = planned(Parameters(extend="gala", until=AT + 9 * HOUR, by="bert"), ended)
    assert plan.refusals == ()
    assert {change.kind for change in plan.changes} == {"make"}


def test_a_record_from_before_is_taken_over() -> None:
    """The calendar's claims had no digest of their event then."""
    before = Record(claims=(Claim("gala", {"web": 6}, GALA.ends_at, CALENDAR),))
    after = by_calendar(before, GALA)
    assert after.claims == (of_event(GALA),)
    assert by("cron", before, GALA.ends_at) == Record()


def test_status_says_what_was_ended_early() -> None:
    record = by("anna", by_calendar(Record(), GALA), end="gala")
    facts = replace(sound_facts(PLATFORM, record=record), at=AT + 60)
    console = Console(width=200, record=True)
    console.print(status_view(PLATFORM, facts, Plan()))
    assert "ended early: the calendar's event lasts until 2027-01-15 13:00 UTC, by anna" in console.export_text()
    (told,) = status_json(PLATFORM, facts, Plan())["claims"]
    assert (told["by"], told["event_until"]) == ("anna", "2027-01-15T13:00:00.000Z")


def test_an_event_that_is_over_may_have_any_tier() -> None:
    gone = Event("old", AT - 2 * DAY, AT - DAY, {"shop": 6, "web": 99}, HOUR)
    assert scale.mistakes(PLATFORM, Parameters(calendar=(gone, GALA)), AT) == []
    assert len(scale.mistakes(PLATFORM, Parameters(calendar=(gone, GALA)), AT - 1.5 * DAY)) == 2


# Ahead

SALE = Event("sale", AT + 3 * DAY, AT + 4 * DAY, {"web": 6}, HOUR)
WIDE = replace(PLATFORM, tiers=PLATFORM.tiers | {"lb": replace(PLATFORM.tiers["lb"], maximum=9)})
BALANCERS = Event("balancers", AT + 3.5 * DAY, AT + 5 * DAY, {"lb": 9}, HOUR)


def warnings(*events: Event, record: Record | None = None, web: int = 2, free_mib: int = 5000) -> tuple[str, ...]:
    """Return what is said when one node has so much room left beside what is there."""
    used = 1024 * web + 512 * 2
    node = Node("pve1", True, 64, 0, 2048 + used + free_mib, 0)
    facts = sound_facts(WIDE, web=web, record=record or Record(), nodes={"pve1": node})
    machines = {name: replace(machine, node="pve1") for name, machine in facts.machines.items()}
    return scale.plan(WIDE, Parameters(calendar=events), replace(facts, machines=machines)).warnings


def test_events_that_fit_alone_may_not_fit_together() -> None:
    assert warnings(SALE) == warnings(BALANCERS) == ()
    (warning,) = warnings(SALE, BALANCERS)
    assert warning.startswith("Event balancers (2027-01-18 20:00 UTC) would not fit beside sale: tier web")


def test_an_event_is_only_beside_what_is_live_when_its_machines_are_made() -> None:
    assert warnings(SALE, replace(BALANCERS, starts_at=SALE.ends_at + HOUR, ends_at=AT + 6 * DAY)) == ()
    (warning,) = warnings(SALE, replace(BALANCERS, starts_at=SALE.ends_at + HOUR - 1, ends_at=AT + 6 * DAY))
    assert "balancers" in warning


def test_a_claim_that_ends_between_lead_and_start_is_in_the_way() -> None:
    claim = Claim("show", {"lb": 9}, SALE.starts_at - 60, "anna")
    (warning,) = warnings(SALE, record=Record(claims=(claim,)))
    assert "beside show" in warning
    assert warnings(SALE, record=Record(claims=(replace(claim, until=SALE.begins_at),))) == ()


def test_what_is_gone_by_then_is_not_in_the_way() -> None:
    """Six web machines serve a claim that ends today: their room is free on the day of the balancers."""
    claim = Claim("show", {"web": 6}, AT + HOUR, "anna")
    assert warnings(BALANCERS, record=Record(claims=(claim,)), web=6, free_mib=1000) == ()
    longer = replace(claim, until=AT + 9 * DAY)
    assert len(warnings(BALANCERS, record=Record(claims=(longer,)), web=6, free_mib=1000)) == 1
