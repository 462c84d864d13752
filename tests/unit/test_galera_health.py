"""galera-health: what is asked, the plan without steps, and how the terminal, JSON and Jenkins see it."""

import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

import pytest
from rich.console import Console, RenderableType

sys.path.insert(0, str(Path(__file__).parent / "core"))
from clusters import SETTINGS, make_cluster, make_member, with_member, with_switch
from platforms import AT, make_platform, sound_facts

from thems_jobs import cli, display, report, runner
from thems_jobs.clock import SystemClock
from thems_jobs.core.facts import Cluster, Facts, Unknown
from thems_jobs.core.galera import CONDITIONS
from thems_jobs.core.job import Job
from thems_jobs.core.outcome import Exit, Outcome
from thems_jobs.core.plan import Plan
from thems_jobs.core.platform import Database, Platform
from thems_jobs.errors import Unreachable
from thems_jobs.jobs.galera_health import Parameters, mistakes, plan


def platform() -> Platform:
    bare = make_platform(database=Database(151, 20, SETTINGS))
    template = replace(bare.tiers["lb"], role="database", minimum=3, baseline=3, maximum=5)
    return replace(bare, tiers={**bare.tiers, "db": template, "proxy": replace(bare.tiers["lb"], role="proxy")})


PLATFORM = platform()
WELL = "The database cluster is well: 3 members, every condition holds."


def found(cluster: Cluster, **parameters: Any) -> Plan:
    facts = replace(sound_facts(make_platform()), databases=cluster)
    return plan(PLATFORM, Parameters(**parameters), facts)


def carried_out(cluster: Cluster | None, **parameters: Any) -> Outcome:
    """Run it as any other job, on what was seen; None: the cluster's API does not answer."""

    def observe(*_: object) -> Facts:
        if cluster is None:
            raise Unreachable("pve1:8006", "it does not answer.")
        return replace(sound_facts(make_platform()), databases=cluster)

    job = Job(
        "galera-health", PLATFORM, observe, lambda facts: plan(PLATFORM, Parameters(**parameters), facts),
        lambda _steps, _facts: {}, lambda change: change(sound_facts(make_platform()).known_record), lambda: None,
    )  # fmt: skip
    options = runner.Options("thems-jobs galera-health", "anna", lambda _plan, _facts: False, "token")
    return runner.run(job, SystemClock(), options, lambda _run: None)


def shown(outcome: Outcome, width: int = 160) -> str:
    return printed(display.outcome_view(outcome), width)


def printed(view: RenderableType, width: int) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(view)
    return console.export_text()


# What is asked


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"action": "kill", "name": "shop-db-1"}, "--for kill: found no action of remove, restart, add, upgrade"),
        ({"action": "remove", "name": "shop-web-1"}, "--for shop-web-1: a member's name is shop-db-NUMBER"),
        ({"action": "remove", "name": "db-1"}, "--for db-1: a member's name is"),
        ({"action": "restart", "name": "shop-db-1", "outage_s": -1.0}, "--outage -1: found no number of seconds"),
        ({"action": "restart", "name": "shop-db-1", "outage_s": float("nan")}, "--outage nan: found no number"),
        ({"action": "remove", "name": "shop-db-1", "outage_s": 9.0}, "--outage: only what restarts or upgrades"),
        ({"action": "restart", "name": "shop-db-1", "target": 5}, "--target: only with --for add"),
        ({"donors": ("shop-web-1",)}, "--accept-donor shop-web-1: a member's name is"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(parameters: dict[str, Any], sentence: str) -> None:
    wrong = mistakes(PLATFORM, Parameters(**parameters))
    assert len(wrong) == 1
    assert sentence in wrong[0]


def test_a_platform_without_a_database_cluster_has_nothing_to_look_at() -> None:
    assert "names no database.cluster" in mistakes(make_platform(), Parameters())[0]
    assert mistakes(PLATFORM, Parameters()) == []


def test_the_plan_has_no_steps_and_every_condition() -> None:
    well = found(make_cluster())
    assert (well.steps, well.refusals) == ((), ())
    assert {check.reference for check in well.checks} == set(CONDITIONS) - {"galera-writer", "galera-outage-needs-sst"}
    assert well.finding == WELL


def test_it_is_told_how_large_the_gcache_must_be() -> None:
    small = found(with_member(make_cluster(), "shop-db-2", gcache_bytes=32 << 20))
    assert small.finding == (
        f"{WELL} But its gcache keeps only 4 min 28 s of writes at the present rate, and an upgrade takes 10 min 00 s: "
        "gcache_mib should be 72 at least."
    )
    assert "gcache" not in found(with_member(make_cluster(), "shop-db-2", gcache_bytes=None)).finding
    idle = replace(make_cluster(), members={name: make_member(write_bytes_s=0.0) for name in ("shop-db-1",)})
    assert "gcache" not in found(idle).finding


def test_it_is_told_how_a_member_comes_back() -> None:
    short = found(make_cluster(), action="restart", name="shop-db-3", outage_s=30.0)
    assert short.rejoin is not None
    assert short.rejoin.by == "IST"
    assert short.finding.startswith("Safe: restart shop-db-3. It comes in by IST, about 10 s: 2.9 MiB written in 30 s")
    new = found(make_cluster(), action="add", name="shop-db-4", target=5)
    assert new.rejoin is not None
    assert (new.rejoin.by, new.refusals) == ("SST", ())
    assert "by SST, about 50 s" in new.finding
    assert found(make_cluster(), action="remove", name="shop-db-3", target=3).rejoin is None


def test_a_full_copy_is_refused_with_seconds_and_bytes_until_it_is_accepted() -> None:
    asked = {"action": "upgrade", "name": "shop-db-3", "outage_s": 3600.0}
    refused = found(make_cluster(), **asked)
    assert [refusal.reference for refusal in refused.refusals] == ["galera-outage-needs-sst"]
    assert "a copy of 2,000 MiB" in refused.refusals[0].measured
    assert found(make_cluster(), **asked, accept_sst=True).refusals == ()


def test_a_donor_is_accepted_by_name() -> None:
    donor = with_member(make_cluster(), "shop-db-2", state=2)
    assert [refusal.reference for refusal in found(donor).refusals] == ["galera-not-synced"]
    assert found(donor, donors=("shop-db-2",)).refusals == ()
    assert len(found(donor, donors=("shop-db-3",)).refusals) == 1


def test_usual_outages_are_taken_where_none_is_given() -> None:
    restart, upgrade = (
        found(make_cluster(), action=action, name="shop-db-3").rejoin for action in ("restart", "upgrade")
    )
    assert restart is not None
    assert upgrade is not None
    assert "in 60 s" in restart.why
    assert "in 600 s" in upgrade.why


# How it is seen


def test_it_runs_as_any_other_job_and_ends_0_or_4() -> None:
    well, ill = carried_out(make_cluster()), carried_out(with_member(make_cluster(), "shop-db-2", state=1))
    assert (well.exit, ill.exit) == (Exit.OK, Exit.REFUSED)
    assert well.message == WELL
    assert ill.message == "Refused, nothing was changed: 1 gate is closed."
    assert carried_out(None).exit == Exit.REFUSED


def test_the_terminal_has_a_table_of_conditions_and_machines() -> None:
    cluster = with_switch(make_cluster(), "shop-db-2", wsrep_desync="ON")
    text = shown(carried_out(replace(cluster, holders=())))
    lines = {title: line for title in CONDITIONS.values() for line in text.splitlines() if line.startswith(title)}
    assert "shop-db-1" in text.splitlines()[0]
    assert "shop-db-3" in text.splitlines()[0]
    assert lines["synced"].count("✓ Synced (4)") == 3
    assert lines["in service"].count("✓ in service") == 2
    assert "✗ wsrep_desync ON" in lines["in service"]
    assert "✗ held by nobody  10.77.0.20" in lines["one holds the address"]
    assert lines["one holds the address"].rstrip().endswith("exactly one holder")
    assert "Refused, nothing was changed: 2 gates are closed." in text.splitlines()[-1]


def test_of_nine_members_only_what_is_not_well_is_written_out() -> None:
    text = shown(carried_out(with_member(make_cluster(9), "shop-db-7", state=1)))
    line = next(line for line in text.splitlines() if line.startswith("synced"))
    assert line.count("✓") == 8
    assert "✗" in line
    assert "Synced (4)" in line  # required


def test_a_silent_member_has_a_row_of_dashes() -> None:
    silent = replace(make_cluster(), members={**make_cluster().members, "shop-db-2": Unknown("timed out")})
    text = shown(carried_out(silent))
    assert "timed out" in text
    assert "–" in next(line for line in text.splitlines() if line.startswith("synced"))


def test_nothing_a_machine_says_drives_the_terminal() -> None:
    evil = with_member(make_cluster(), "shop-db-2", busy=("backup (\x1b[2J\x07[red]x[/])",))
    text = shown(carried_out(evil))
    assert "\x1b[2J" not in text
    assert "[red]x[/]" in text.replace("\n", "")


def test_programs_get_measured_and_required_of_every_condition() -> None:
    told = json.loads(json.dumps(report.as_json(carried_out(make_cluster(), action="restart", name="shop-db-3"))))
    synced = [check for check in told["plan"]["checks"] if check["reference"] == "galera-not-synced"]
    assert [(check["subject"], check["measured"], check["required"], check["ok"]) for check in synced] == [
        (f"shop-db-{number}", "Synced (4)", "Synced (4)", True) for number in (1, 2, 3)
    ]
    assert told["plan"]["rejoin"]["by"] == "IST"
    assert set(told["plan"]["rejoin"]) == {"by", "seconds", "bytes", "why"}


def junit(outcome: Outcome) -> Xml.Element:
    return Xml.fromstring(report.as_junit(outcome))  # noqa: S314 - our own


def test_jenkins_gets_the_history_of_every_condition() -> None:
    suite = junit(carried_out(with_member(make_cluster(), "shop-db-2", view=6)))
    cases = {str(case.get("name")): case for case in suite}
    assert set(CONDITIONS) <= set(cases)
    assert {name for name, case in cases.items() if case.find("failure") is not None} == {"galera-views-differ"}
    failure = cases["galera-views-differ"].find("failure")
    assert failure is not None
    assert "shop-db-2" in str(failure.text)
    assert "docs/runbooks/galera-views-differ.md" in str(failure.text)
    assert cases["galera-outage-needs-sst"].find("skipped") is not None
    assert cases["galera-not-synced"].find("skipped") is None
    assert {case.get("classname") for case in cases.values()} == {"gates"}


def test_the_page_for_people_has_every_measurement() -> None:
    page = report.as_html(carried_out(with_member(make_cluster(), "shop-db-2", busy=("<script>alert(1)</script>",))))
    assert "What was measured" in page
    assert page.count("✓ Synced (4)") == 3
    assert "✗ &lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "What was measured" not in report.as_html(replace(carried_out(make_cluster()), plan=Plan()))


def test_other_jobs_do_not_speak_of_the_database() -> None:
    other = replace(carried_out(make_cluster()), plan=Plan())
    assert not {case.get("name") for case in junit(other)} & (set(CONDITIONS) - {"vrrp-holder"})


def test_a_look_of_the_watch_is_a_line_for_programs_and_a_table_for_people() -> None:
    ill = found(with_member(make_cluster(), "shop-db-2", size=2))
    line = report.health_as_json(ill, AT)
    assert (line["safe"], line["at"]) == (False, "2027-01-15T08:00:00.000Z")
    assert [refusal["reference"] for refusal in line["refusals"]] == ["galera-size"]
    assert (
        printed(display.health_view(ill, AT), 120).splitlines()[-1].startswith("Not safe: 1 condition does not hold.")
    )


def test_the_command_refuses_what_cannot_be_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from thems_jobs import resources

    path = tmp_path / "platform.yaml"
    path.write_text(resources.path("platforms", "lab-database.yaml").read_text())
    monkeypatch.setattr(
        sys, "argv", ["thems-jobs", "galera-health", "--platform", str(path), "--for", "stop", "shop-db-1"]
    )
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
