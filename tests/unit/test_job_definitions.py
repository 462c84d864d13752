"""jobs/: what Jenkins gets from them. A change of any job's XML shows in its golden file; `make golden` writes them."""

import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from xml.etree import ElementTree as Xml

import pytest

from thems_jobs import resources
from thems_jobs.clients.job_builder import read_definitions
from thems_jobs.core.jenkins_jobs import MARK, Definition, Definitions
from thems_jobs.core.job_xml import read_xml

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "jobs"
WRITE = os.environ.get("GOLDEN") == "write"  # as `make golden` says
PROPERTIES = "properties/org.jenkinsci.plugins.workflow.job.properties."
JOBS = {
    "scale-for-event": (["WEB", "DB", "UNTIL", "EVENT", "REASON", "DRY_RUN"], "", "MAX_SURVIVABILITY"),
    "provision": (["TIERS", "DRY_RUN"], "", "MAX_SURVIVABILITY"),
    "redeploy-machine": (["MACHINE", "DRY_RUN"], "", "MAX_SURVIVABILITY"),
    "return-to-baseline": ([], "H/10 * * * *", "PERFORMANCE_OPTIMIZED"),
    "event-calendar": ([], "H/10 * * * *", "PERFORMANCE_OPTIMIZED"),
    "galera-health": ([], "H/5 * * * *", "PERFORMANCE_OPTIMIZED"),
    "jobs-sync": (["APPLY"], "H H(2-5) * * *", "PERFORMANCE_OPTIMIZED"),
}  # parameters, trigger, durability


@cache
def rendered() -> Definitions:
    return read_definitions(resources.jobs())


def job(name: str) -> Xml.Element:
    return read_xml(next(job.xml for job in rendered().jobs if job.source == name))


def test_every_job_is_there_and_whole() -> None:
    assert rendered().broken == {}
    assert rendered().folder.name == "shop"
    assert [job.name for job in rendered().jobs] == sorted(f"shop/{name}" for name in JOBS)


@pytest.mark.parametrize("definition", [rendered().folder, *rendered().jobs], ids=lambda job: job.source)
def test_the_xml_is_the_golden_one(definition: Definition) -> None:
    path = GOLDEN / f"{definition.source}.xml"
    if WRITE:
        path.write_text(definition.xml, encoding="utf-8")
    assert path.exists(), "there is no golden file: look at the XML and run: make golden"
    assert definition.xml == path.read_text(encoding="utf-8"), (
        "look at the difference; if it is meant, run: make golden"
    )


def test_no_golden_file_is_left_over() -> None:
    assert {path.stem for path in GOLDEN.glob("*.xml")} == {"folder", *JOBS}


def test_jenkins_job_builder_itself_renders_all_of_them_offline(tmp_path: Path) -> None:
    line = [sys.executable, "-W", "ignore", "-m", "jenkins_jobs", "test", "--config-xml", "-o", str(tmp_path), "jobs"]
    ended = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 0, ended.stderr
    made = {str(path.parent.relative_to(tmp_path)) for path in tmp_path.rglob("config.xml")}
    assert made == {"shop", *(f"shop/{name}" for name in JOBS)}


@pytest.mark.parametrize("name", JOBS)
def test_a_job_is_as_the_contract_says(name: str) -> None:
    root, (parameters, trigger, durability) = job(name), JOBS[name]
    assert [entry.findtext("name") for entry in root.findall(".//parameterDefinitions/*")] == parameters
    assert [entry.findtext("description", "")[-1:] for entry in root.findall(".//parameterDefinitions/*")] == [
        "." for _ in parameters
    ], "every parameter is explained, in sentences"
    assert [spec.text for spec in root.findall(".//hudson.triggers.TimerTrigger/spec")] == (
        [trigger] if trigger else []
    )
    assert root.findtext(f"{PROPERTIES}DurabilityHintJobProperty/hint") == durability
    assert root.find(f"{PROPERTIES}DisableConcurrentBuildsJobProperty") is not None
    assert int(root.findtext(".//jenkins.model.BuildDiscarderProperty/strategy/daysToKeep", "-1")) > 0
    assert root.findtext("definition/scriptPath") == f"jobs/{name}.Jenkinsfile"
    assert root.findtext("definition/lightweight") == "true"
    assert root.findtext("disabled") == "false"
    found = MARK.search(root.findtext("description", ""))
    assert found
    assert found.group(1) == name


@pytest.mark.parametrize("name", JOBS)
def test_every_cron_has_an_h(name: str) -> None:
    specs = [spec.text or "" for spec in job(name).iter("spec")]
    assert all(spec.startswith("H") for spec in specs), "or all controllers' jobs start in the same second"


@pytest.mark.parametrize("name", JOBS)
def test_the_jenkinsfile_is_there_and_declares_nothing_of_the_job(name: str) -> None:
    """What a Jenkinsfile declares itself it would write into the job: drift after every build."""
    text = (ROOT / "jobs" / f"{name}.Jenkinsfile").read_text()
    code = re.sub(r"(?m)^\s*(//|\*|/\*).*$", "", text)
    declared = re.findall(
        r"\b(properties\s*\(|parameters\s*\{|triggers\s*\{|buildDiscarder|disableConcurrentBuilds)", code
    )
    assert declared == []
