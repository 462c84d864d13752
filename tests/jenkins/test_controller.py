"""What Jenkins does with the jobs, on a real controller, seen from outside: `make test-jenkins JENKINS_URL=…`.

The controller is set up as docs/jenkins.md says, up to its step 4; it has no folder of the jobs yet, or an old one. Its
agent is where `thems-jobs lab up` was run and provisioned, is root, and its THEMS_PLATFORM names the lab's platform
file. THEMS_JENKINS_USER is an administrator (the controller is restarted), THEMS_JENKINS_TOKEN_FILE holds its token.
"""

import json
import os
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests

import jenkins
from waiting import eventually

URL = os.environ.get("JENKINS_URL", "")
BUTTON = "shop/scale-for-event"
PAGE = "job/shop/job/scale-for-event"
WAITS = "Do it or Abort"  # what the step input prints when it begins to wait

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
if not URL:
    pytest.skip("NOT RUN: no controller; run: make test-jenkins JENKINS_URL=https://…", allow_module_level=True)


class Controller:
    """A real controller, asked by its own API."""

    def __init__(self) -> None:
        user, token = os.environ["THEMS_JENKINS_USER"], Path(os.environ["THEMS_JENKINS_TOKEN_FILE"]).read_text().strip()
        self.token = token
        self.api = jenkins.Jenkins(URL, user, token, timeout=30)
        self.user = user

    def post(self, path: str) -> None:
        self.api.jenkins_open(requests.Request("POST", f"{URL.rstrip('/')}/{path}"))

    def ask(self, path: str) -> Any:
        return json.loads(self.api.jenkins_open(requests.Request("GET", f"{URL.rstrip('/')}/{path}")))

    def press(self, web: int, event: str, dry_run: bool = False) -> int:
        """Press the button; return the build's number."""
        until = (datetime.now(UTC) + timedelta(minutes=30)).isoformat(timespec="seconds")
        wanted = {"WEB": web, "DB": "", "UNTIL": until, "EVENT": event, "REASON": f"it's a $(test) of {event}"}
        item = self.api.build_job(BUTTON, wanted | {"DRY_RUN": str(dry_run).lower()})
        started = eventually(lambda: self.api.get_queue_item(item).get("executable"), f"{event} starts", 900)
        return int(started["number"])

    def log(self, number: int) -> str:
        return str(self.api.get_build_console_output(BUTTON, number))

    def waits(self, number: int) -> None:
        eventually(lambda: WAITS in self.log(number), f"#{number} waits for an approval", 600)

    def result(self, number: int) -> str:
        """Wait for a build's end and return its result; whatever it is, no secret is in its log."""
        info = eventually(
            lambda: (i := self.api.get_build_info(BUTTON, number)) and not i["building"] and i, f"#{number} ends", 1500
        )
        assert self.token not in self.log(number)
        return str(info["result"])

    def report(self, number: int, folder: str = "report") -> Any:
        return self.ask(f"{PAGE}/{number}/artifact/{folder}/report.json")


@pytest.fixture(scope="module")
def controller() -> Controller:
    return Controller()


def sync(*words: str) -> int:
    command = [".venv/bin/thems-jobs", "jobs-sync", *words, "--jenkins-url", URL]
    return subprocess.run(command, check=False, timeout=300).returncode


def test_the_jobs_are_made_from_git(controller: Controller) -> None:
    assert sync("apply", "--yes") == 0
    assert sync("plan", "--detailed-exitcode") == 0
    assert controller.api.job_exists(BUTTON)
    parameters = [p for p in controller.api.get_job_info(BUTTON)["property"] if p.get("parameterDefinitions")]
    assert parameters, "parameters exist before the first build"


def test_a_dry_run_shows_and_changes_nothing(controller: Controller) -> None:
    number = controller.press(3, "dry", dry_run=True)
    assert controller.result(number) == "SUCCESS"
    report = controller.report(number, "plan")
    assert report["outcome"] in ("changes", "ok")
    assert controller.user.lower() in report["started_by"].lower()
    assert "nothing was changed" in controller.api.get_build_info(BUTTON, number)["description"]


def test_a_yes_does_the_plan_and_no_agent_is_held_before(controller: Controller) -> None:
    number = controller.press(3, "first")
    controller.waits(number)
    busy = controller.ask("computer/api/json?tree=computer[executors[currentExecutable[url]]]")
    assert f"scale-for-event/{number}/" not in json.dumps(busy)
    controller.post(f"{PAGE}/{number}/input/Approval/proceedEmpty")
    assert controller.result(number) == "SUCCESS"
    planned, done = controller.report(number, "plan"), controller.report(number)
    assert done["plan"]["digest"] == planned["plan"]["digest"]
    assert done["outcome"] == "ok"


def test_a_no_changes_nothing(controller: Controller) -> None:
    number = controller.press(4, "refused")
    controller.waits(number)
    controller.post(f"{PAGE}/{number}/input/Approval/abort")
    assert controller.result(number) == "ABORTED"
    with pytest.raises(jenkins.NotFoundException):
        controller.report(number)


def test_an_abort_in_the_middle_is_finished_by_the_next_build(controller: Controller) -> None:
    number = controller.press(4, "middle")
    controller.waits(number)
    controller.post(f"{PAGE}/{number}/input/Approval/proceedEmpty")
    eventually(lambda: " clone ok" in controller.log(number), "a machine is cloned", 300)
    controller.api.stop_build(BUTTON, number)
    asked_at = time.monotonic()
    assert controller.result(number) == "ABORTED"
    assert time.monotonic() - asked_at < 60, "Jenkins gives up after 20 s, and the report is kept"
    assert controller.report(number)["outcome"] == "aborted"
    again = controller.press(4, "middle")
    controller.waits(again)
    controller.post(f"{PAGE}/{again}/input/Approval/proceedEmpty")
    assert controller.result(again) == "SUCCESS"


def test_twice_at_once_is_one_after_the_other(controller: Controller) -> None:
    numbers = [controller.press(4, "one", dry_run=True), controller.press(4, "two", dry_run=True)]
    assert [controller.result(number) for number in numbers] == ["SUCCESS", "SUCCESS"]
    first, second = (controller.api.get_build_info(BUTTON, number) for number in numbers)
    assert second["timestamp"] >= first["timestamp"] + first["duration"]


def test_a_restart_while_it_waits_changes_nothing(controller: Controller) -> None:
    number = controller.press(5, "restart")
    controller.waits(number)
    controller.post("restart")
    eventually(lambda: not answers(controller), "it goes down", 120)
    eventually(lambda: answers(controller), "it comes back", 600)
    controller.post(f"{PAGE}/{number}/input/Approval/proceedEmpty")
    assert controller.result(number) == "SUCCESS"
    assert controller.report(number)["outcome"] == "ok"


def answers(controller: Controller) -> bool:
    try:
        controller.api.get_whoami()
    except (jenkins.JenkinsException, requests.RequestException):
        return False
    return True
