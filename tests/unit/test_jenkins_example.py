"""The example of a controller has what the steps and jobs ask for, and nothing secret."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from thems_jobs import resources

CHECKOUT = Path(__file__).parent.parent.parent
TEXT = resources.path("jenkins", "casc.yaml").read_text()
STEP = (CHECKOUT / "vars" / "themsJob.groovy").read_text()
PIPELINES = [*sorted((CHECKOUT / "jobs").glob("*.Jenkinsfile")), CHECKOUT / "Jenkinsfile"]
# The root elements that the plugins of plugins.txt give configuration-as-code, and of those the parts used here.
KNOWN = {
    "jenkins": {
        "authorizationStrategy", "globalNodeProperties", "nodes", "numExecutors", "primaryView", "securityRealm",
        "systemMessage", "views",
    },
    "credentials": {"system"},
    "unclassified": {"location", "lockableResourcesManager", "timestamper"},
}  # fmt: skip


@pytest.fixture(scope="module")
def controller() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(TEXT)
    return loaded


def test_only_what_the_plugins_know(controller: dict[str, Any]) -> None:
    assert controller.keys() == KNOWN.keys()
    for root, parts in KNOWN.items():
        assert controller[root].keys() <= parts
    for node in controller["jenkins"]["nodes"]:
        assert node["permanent"].keys() == {"name", "labelString", "mode", "numExecutors", "remoteFS", "launcher"}


def test_every_credential_that_a_pipeline_names_is_there(controller: dict[str, Any]) -> None:
    (domain,) = controller["credentials"]["system"]["domainCredentials"]
    files = [each["file"] for each in domain["credentials"]]
    assert all(each.keys() == {"id", "scope", "fileName", "description", "secretBytes"} for each in files)
    named = set[str]()
    for pipeline in PIPELINES:
        named |= set(re.findall(r"THEMS_\w+_FILE: '([^']+)'", pipeline.read_text()))
    assert named == {each["id"] for each in files}


def test_every_secret_is_read_from_a_file() -> None:
    values = re.findall(r"(?:password|secretBytes): (.*)", TEXT)
    assert values
    assert all(re.fullmatch(r'"\$\{readFile(Base64)?:/run/secrets/[\w-]+\}"', value) for value in values)


def test_labels_locks_and_variables_are_those_of_the_steps(controller: dict[str, Any]) -> None:
    assert {node["permanent"]["labelString"] for node in controller["jenkins"]["nodes"]} == set(
        re.findall(r"node\(env.THEMS_AGENT \?: '([^']+)'\)", STEP)
    )
    locks = {each["name"] for each in controller["unclassified"]["lockableResourcesManager"]["declaredResources"]}
    asked = set(re.findall(r"env.THEMS_LOCK \?: '([^']+)'", STEP))
    for step in (CHECKOUT / "vars").glob("*.groovy"):
        asked |= set(re.findall(r"lock: '([^']+)'", step.read_text()))
    assert locks == asked
    variables = set(re.findall(r"key: (THEMS_\w+)", TEXT))
    assert variables <= set(re.findall(r"THEMS_\w+", STEP)) | {"THEMS_PLATFORM", "THEMS_CALENDAR", "THEMS_JENKINS_USER"}


def test_the_view_shows_the_jobs(controller: dict[str, Any]) -> None:
    (view,) = (each["list"] for each in controller["jenkins"]["views"] if "list" in each)
    defaults = (CHECKOUT / "jobs" / "defaults.yaml").read_text()
    folder = re.search(r"jenkins-folder: (\S+)", defaults)
    assert folder
    assert re.fullmatch(view["includeRegex"], f"{folder[1]}/scale-for-event")
