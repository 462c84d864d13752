"""What `status` says of the database's newest copy."""

import sys
from pathlib import Path

import pytest
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parent / "core"))
from test_backup_steps import BARE, DOWN, PLATFORM, five, saved

from thems_jobs.core.facts import Backup, Unknown
from thems_jobs.core.fleet import plan_tiers
from thems_jobs.core.platform import Platform
from thems_jobs.status import status_json, status_view


def printed(platform: Platform, backup: Backup | Unknown | None) -> str:
    facts = five(backup=backup)
    console = Console(width=160, record=True)
    console.print(status_view(platform, facts, plan_tiers(platform, facts, DOWN)))
    return console.export_text()


@pytest.mark.parametrize(
    ("backup", "words"),
    [
        (saved(7200), "2 h 00 min old, of shop-db-2: /srv/backups/shop-db-2.tar.gz"),
        (None, "no backup of the database in /srv/backups"),
        (Unknown("it cannot be written to"), "/srv/backups: it cannot be written to"),
    ],
)
def test_the_age_of_the_newest_copy_is_said(backup: Backup | Unknown | None, words: str) -> None:
    assert words in printed(PLATFORM, backup)
    assert "backup" not in printed(BARE, None)


def test_programs_are_told_too() -> None:
    facts = five(backup=saved(7200))
    told = status_json(PLATFORM, facts, plan_tiers(PLATFORM, facts, DOWN))["backup"]
    assert (told["member"], told["seqno"], told["at"]) == ("shop-db-2", 1, "2027-01-15T06:00:00.000Z")
    assert status_json(PLATFORM, five(), plan_tiers(PLATFORM, five(), DOWN))["backup"] is None
