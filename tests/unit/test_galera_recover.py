"""galera-recover: what cannot be meant, and what a person and Jenkins are shown before anybody is named."""

import sys
from pathlib import Path

import pytest
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parent / "core"))
from platforms import make_platform
from test_recovery import PLATFORM, crashed, stopped

from thems_jobs import display
from thems_jobs.core.gate_list import OF_RECOVERY, gate_states
from thems_jobs.jobs.galera_recover import Parameters, mistakes, plan


@pytest.mark.parametrize("name", ["shop-web-1", "db-1", "shop-db-x", "other-db-1"])
def test_only_a_database_machine_can_be_named(name: str) -> None:
    (sentence,) = mistakes(PLATFORM, Parameters(name))
    assert sentence == f"--bootstrap {name}: a database machine's name is shop-db-NUMBER."


def test_a_platform_without_a_cluster_has_nothing_to_recover() -> None:
    assert "nothing to recover" in mistakes(make_platform(), Parameters("shop-db-1"))[0]
    assert mistakes(PLATFORM, Parameters("shop-db-1")) == mistakes(PLATFORM, Parameters()) == []


def test_the_order_is_shown_newest_first_and_whom_to_name() -> None:
    found = plan(PLATFORM, Parameters(), crashed(stopped(7), stopped(9), stopped(8)))
    console = Console(width=160, record=True)
    console.print(display.plan_view(found, {}, found.refusals))
    text = console.export_text()
    places = [text.index(f":{seqno}, {how}") for seqno, how in ((9, "newest"), (8, "1 behind"), (7, "2 behind"))]
    assert places == sorted(places), text
    assert "--bootstrap shop-db-2" in text
    assert "✗ a person named the machine" in text


def test_the_gates_of_a_recovery_are_no_other_jobs() -> None:
    found = plan(PLATFORM, Parameters("shop-db-2"), crashed(stopped(7), stopped(9), stopped(8)))
    states = {gate.reference: gate for gate in gate_states(found, found.refusals)}
    assert states.keys() >= OF_RECOVERY.keys()
    assert all(states[reference].asked for reference in OF_RECOVERY)
    sound = plan(PLATFORM, Parameters(), crashed())
    assert not {gate.reference for gate in gate_states(sound, ())} & OF_RECOVERY.keys()
