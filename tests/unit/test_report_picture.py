"""The picture's colours: every kind of step has one, with and without a style."""

from collections import Counter

from thems_jobs import resources
from thems_jobs.core.plan import Action
from thems_jobs.report_picture import COLOURS, KINDS


def test_every_action_has_one_colour() -> None:
    counted = Counter(action for actions in KINDS.values() for action in actions)
    assert counted == Counter(Action)


def test_every_colour_is_there_by_day_and_by_night() -> None:
    style = resources.path("report", "report.css").read_text()
    assert COLOURS.keys() == {*KINDS, "failed"}
    for kind in COLOURS:
        assert f".k-{kind} {{ --colour: var(--bar-" in style, kind
        name = style.partition(f".k-{kind} {{ --colour: var(")[2].partition(")")[0]
        assert style.count(f"{name}: #") == 2, name
