"""What the terminal shows: at 80 columns, without colour where none is wanted, and never what a text commands."""

import io
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from rich.console import Console

import examples
from thems_jobs import display, phrases
from thems_jobs.core.gate_list import gate_states
from thems_jobs.core.outcome import Outcome
from thems_jobs.core.plan import Plan
from thems_jobs.jobs.doctor import Check
from thems_jobs.progress import DOING, WORDS, Board, Lines


def printed(view: object, width: int = 80, terminal: bool = False) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=terminal, highlight=False)
    console.print(view, crop=False)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize("make", [examples.done, examples.refused, examples.halted, lambda: examples.done(40)])
def test_everything_fits_80_columns_but_commands_to_be_copied(make: Callable[[], Outcome]) -> None:
    outcome = make()
    text = printed(display.plan_view(outcome.plan, outcome.measured, outcome.refusals))
    text += printed(display.outcome_view(outcome))
    for line in text.splitlines():
        assert len(line) <= 80 or line.strip() == examples.COMMAND, line
    if outcome.next:
        assert f"\n  {examples.COMMAND}\n" in text


def test_a_plan_says_what_where_why_how_long_and_its_digest() -> None:
    outcome = examples.done()
    text = printed(display.plan_view(outcome.plan, outcome.measured))
    for change in outcome.plan.changes:
        row = next(line for line in text.splitlines() if line.startswith(change.machine))
        for part in (change.kind, change.node, change.why, "1 min 01 s assumed"):
            assert part in row
    assert "gala: web=6 until 2026-12-01 22:00 UTC" in text
    assert text.strip().splitlines()[-1] == f"43 steps, 1 min 16 s in all, partly assumed. Plan {outcome.plan.digest}"


def test_what_was_measured_is_not_called_assumed() -> None:
    plan = examples.scale_plan()
    measured = {step.action: 2.0 for step in plan.steps}
    assert "assumed" not in printed(display.plan_view(plan, measured))


def test_every_gate_has_a_tick_or_a_cross_and_every_refusal_its_remedy() -> None:
    outcome = examples.refused()
    text = printed(display.plan_view(outcome.plan, outcome.measured, outcome.refusals))
    assert "✗ the storage has room" in text
    assert "✗ one balancer holds the address" in text
    assert "✓ the template exists" in text
    folded = " ".join(text.split())
    for refusal in outcome.refusals:
        for part in (refusal.subject, refusal.measured, refusal.required, refusal.remedy):
            assert " ".join(part.split()) in folded


def test_a_gate_is_called_open_only_if_the_plan_asks_it() -> None:
    asked = {gate.reference for gate in gate_states(examples.scale_plan(), ()) if gate.asked}
    assert {"no-quorum", "storage-full", "vrrp-holder", "template-missing"} <= asked
    assert not {"below-minimum", "image-missing"} & asked
    assert not any(gate.asked for gate in gate_states(Plan(), ()))


def test_the_line_that_matters_is_the_last() -> None:
    for outcome in (examples.done(), examples.refused(), examples.halted()):
        last = printed(display.outcome_view(outcome), width=200).strip().splitlines()[-1]
        assert last.startswith(phrases.plain(outcome.message))


def test_strange_text_commands_neither_the_terminal_nor_the_markup() -> None:
    bad = "\x1b[2J\x07 [bold]x[/bold] [/nonsense]"
    refusal = replace(examples.REFUSALS[0], subject=bad, measured=bad, required=bad, remedy=bad)
    outcome = replace(examples.refused(), refusals=(refusal,), message=bad, next=bad, warnings=(bad,))
    text = printed(display.outcome_view(outcome), terminal=False)
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "[bold]x[/bold]" in text
    assert "\x1b" not in printed(display.mistakes_view(bad, [bad], bad))


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    text = printed(display.outcome_view(examples.refused()), terminal=True)
    assert "\x1b[1;33m" not in text
    monkeypatch.delenv("NO_COLOR")
    assert "\x1b[1;33m" in printed(display.outcome_view(examples.refused()), terminal=True)


def test_doctor_says_what_is_wrong_and_what_to_do() -> None:
    checks = [Check("quorum", True, "quorate", "a quorate cluster"),
              Check("pool shop", False, "not there", "it exists", "pveum pool add shop")]  # fmt: skip
    text = printed(display.checks_view(checks))
    assert "✓ quorum" in text
    assert "✗ pool shop" in text
    assert "to do: pveum pool add shop" in text
    assert text.strip().splitlines()[-1] == "1 of 2 checks not well."


def test_a_log_has_one_line_for_each_step_that_ended() -> None:
    lines: list[str] = []
    progress = Lines(lines.append)
    runs = examples.halted().steps
    for run in runs:
        progress.on_step(replace(run, ended_at=None, outcome="running"))
        progress.on_step(run)
    assert len(lines) == len(runs)
    assert lines[0] == "00:53:23 gala claim ok, 1.2 s (expected 1.0 s)"
    failed = next(line for line in lines if " failed" in line)
    assert failed.startswith("00:54:02 shop-web-5 await-boot failed, 10 s (expected 9.0 s): <script>")
    assert "\x1b" not in failed
    progress.on_step(replace(runs[0], told="no write was taken for 0.4 s at most"))
    assert lines[-1].endswith(" ok, 1.2 s (expected 1.0 s): no write was taken for 0.4 s at most")


def test_a_board_has_one_line_for_each_machine_and_never_more_than_the_screen() -> None:
    runs = examples.done(40).steps
    for height, room in ((60, 41), (12, 9)):
        console = Console(file=io.StringIO(), width=80, height=height, force_terminal=True, color_system=None)
        board = Board(console, len(runs), 76)
        for run in runs[:-8]:
            board.on_step(run)
        under_way = replace(runs[-8], started_at=time.time() - 7, ended_at=None, outcome="running", expected_s=14)
        board.on_step(under_way)
        console.print(board)
        lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
        assert len(lines) <= room + 1
        assert all(len(line) <= 80 for line in lines)
        row = next(line for line in lines if line.startswith(under_way.target))
        assert DOING[under_way.action] in row
        assert row.count("━") == 16
        assert lines[-1].startswith(f"{len(runs) - 8} of {len(runs)} steps")


def test_every_action_has_words_that_fit_the_board() -> None:
    from thems_jobs.core.plan import Action

    assert set(DOING) == set(Action)
    assert all(len(doing) < WORDS for doing in DOING.values())


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.6, "1 min 00 s"), (125, "2 min 05 s"), (3599.7, "1 h 00 min"),
     (3725, "1 h 02 min")],
)  # fmt: skip
def test_durations_read_well_at_every_size(seconds: float, text: str) -> None:
    assert phrases.duration(seconds) == text
