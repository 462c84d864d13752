"""jobs-sync against a server that speaks as Jenkins does: drift, errors of every kind, and being killed."""

import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

import pytest
import trustme
from jenkins_server import TOKEN, USER, Fault, JenkinsServer, read, serving

from thems_jobs import cli, resources
from thems_jobs.clients.job_builder import read_definitions
from thems_jobs.core import job_xml
from waiting import eventually

pytestmark = pytest.mark.timeout(120)
JOBS = (
    "event-calendar", "galera-health", "jobs-sync", "provision", "redeploy-machine", "return-to-baseline",
    "scale-for-event",
)  # fmt: skip
Sync = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture
def definitions(tmp_path: Path) -> Path:
    """Return a copy of our own definitions, with the address of a repository."""
    folder = tmp_path / "jobs"
    shutil.copytree(resources.jobs(), folder)
    common = folder / "defaults.yaml"
    common.write_text(common.read_text().replace("git.example.com", "git.shop.test"))
    return folder


@pytest.fixture
def jenkins() -> Iterator[JenkinsServer]:
    with serving(JenkinsServer()) as server:
        yield server


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    token = tmp_path / "jenkins-token"
    token.write_text(f"{TOKEN}\n")
    token.chmod(0o600)
    kept = {name: value for name, value in os.environ.items() if "JENKINS" not in name}
    return kept | {"THEMS_JENKINS_USER": USER, "THEMS_JENKINS_TOKEN_FILE": str(token), "COLUMNS": "200"}


def command(jenkins: JenkinsServer, definitions: Path, *arguments: str) -> list[str]:
    program = [str(Path(sys.executable).parent / "thems-jobs"), "jobs-sync", arguments[0]]
    return [*program, "--jenkins-url", jenkins.url, "--definitions", str(definitions), *arguments[1:]]


@pytest.fixture
def sync(
    jenkins: JenkinsServer, definitions: Path, environment: dict[str, str], tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Sync]:  # fmt: skip
    """Return what runs the command line in this process: exit code, report.json ({} if there is none), all printed."""
    signals = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for name in ("THEMS_JENKINS_URL", "JENKINS_URL", "THEMS_JENKINS_CA_FILE"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str, **changed: str) -> tuple[int, dict[str, Any], str]:
        folder = tmp_path / "report"
        shutil.rmtree(folder, ignore_errors=True)
        line = command(jenkins, definitions, *arguments, "--report-dir", str(folder))
        monkeypatch.setattr(sys, "argv", line)
        for name, value in (environment | changed).items():
            monkeypatch.setenv(name, value)
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        output = capsys.readouterr()
        printed = output.err + output.out
        written = "".join(path.read_text() for path in folder.glob("*"))
        assert TOKEN not in printed + written, "the token is shown"
        report = folder / "report.json"
        return int(ended.value.code or 0), json.loads(report.read_text()) if report.exists() else {}, printed

    yield run
    for number, handler in signals.items():
        signal.signal(number, handler)


def synced(sync: Sync) -> None:
    assert sync("apply", "--yes")[0] == 0


# An empty controller, and one that is in order


def test_an_empty_controller_gets_the_folder_and_every_job(sync: Sync, jenkins: JenkinsServer) -> None:
    code, report, printed = sync("apply", "--yes")
    assert code == 0, printed
    assert set(jenkins.items) == {"shop", *(f"shop/{job}" for job in JOBS)}
    assert [step["outcome"] for step in report["steps"]] == ["ok"] * 8
    assert report["steps"][0]["key"] == "make-folder shop"
    assert printed.splitlines()[-1].startswith("Done: 1 folder made, 7 created.")


def test_what_jenkins_rewrites_when_it_saves_is_no_drift(sync: Sync, jenkins: JenkinsServer) -> None:
    synced(sync)
    assert "workflow-job@" in jenkins.items["shop/provision"]
    before = len(jenkins.writes)
    assert sync("plan", "--detailed-exitcode")[0] == 0
    code, _, printed = sync("apply", "--yes")
    assert (code, len(jenkins.writes)) == (0, before)
    assert "Nothing to do: all jobs are as git says." in printed


def test_a_plan_changes_nothing_and_says_how_to_go_on(sync: Sync, jenkins: JenkinsServer) -> None:
    code, report, printed = sync("plan")
    assert (code, jenkins.writes, jenkins.items) == (0, [], {})
    assert report["next"].startswith("thems-jobs jobs-sync apply ")
    assert report["next"].endswith(f"--expect-plan {report['plan']['digest']}")
    assert "Drift: 1 to make the folder, 7 to create. Nothing was changed." in printed
    assert sync("plan", "--detailed-exitcode")[0] == 3


# Drift


@pytest.mark.parametrize(
    ("job", "old", "new", "shown"),
    [
        ("galera-health", "<spec>H/5 * * * *</spec>", "<spec>0 4 * * *</spec>", "+          <spec>H/5 * * * *</spec>"),
        ("provision", "<disabled>false</disabled>", "<disabled>true</disabled>", "-  <disabled>true</disabled>"),
        ("provision", "*/main", "*/größer", "-          <name>*/größer</name>"),
        ("provision", "<name>TIERS</name>", "<name>LEVELS</name>", "+          <name>TIERS</name>"),
        ("provision", "MAX_SURVIVABILITY", "PERFORMANCE_OPTIMIZED", "+      <hint>MAX_SURVIVABILITY</hint>"),
    ],
)
def test_what_somebody_changed_is_shown_and_taken_back(
    sync: Sync, jenkins: JenkinsServer, job: str, old: str, new: str, shown: str
) -> None:
    synced(sync)
    jenkins.edit(f"shop/{job}", old, new)
    code, report, printed = sync("plan", "--detailed-exitcode")
    assert code == 3
    assert list(report["differences"]) == [f"shop/{job}"]
    assert shown in report["differences"][f"shop/{job}"]
    assert shown.strip() in printed
    before = len(jenkins.writes)
    synced(sync)
    assert jenkins.writes[before:] == [f"POST /job/shop/job/{job}/config.xml"]
    assert sync("plan", "--detailed-exitcode")[0] == 0


def test_a_parameter_in_another_place_is_drift(sync: Sync, jenkins: JenkinsServer) -> None:
    synced(sync)
    text = jenkins.items["shop/scale-for-event"]
    root = read(text)
    (parameters,) = root.iter("parameterDefinitions")
    parameters[0], parameters[1] = parameters[1], parameters[0]
    jenkins.items["shop/scale-for-event"] = Xml.tostring(root, encoding="unicode")
    assert sync("plan", "--detailed-exitcode")[0] == 3


def test_secrets_that_people_put_into_a_job_are_not_shown(sync: Sync, jenkins: JenkinsServer) -> None:
    synced(sync)
    jenkins.edit(
        "shop/provision", "<disabled>false</disabled>", "<disabled>false</disabled><authToken>s3cr3t</authToken>"
    )
    code, report, printed = sync("plan", "--detailed-exitcode")
    assert code == 3
    assert "s3cr3t" not in printed + json.dumps(report)
    assert "<authToken>********</authToken>" in report["differences"]["shop/provision"]


# Jobs that left the code, and those of others


def test_a_job_that_left_the_code_is_reported_and_disabled_on_request_alone(
    sync: Sync, jenkins: JenkinsServer, definitions: Path
) -> None:
    synced(sync)
    (definitions / "redeploy-machine.yaml").unlink()
    code, report, _ = sync("plan", "--detailed-exitcode")
    assert (code, report["warnings"]) == (
        3,
        ["shop/redeploy-machine left the code and still runs; --disable-left stops it."],
    )
    code, report, _ = sync("apply", "--yes")
    assert code == 5
    assert "shop/redeploy-machine left the code and still runs." in report["message"]
    assert "<disabled>false" in jenkins.items["shop/redeploy-machine"]
    assert sync("apply", "--yes", "--disable-left")[0] == 0
    assert "<disabled>true" in jenkins.items["shop/redeploy-machine"]
    assert sync("plan", "--detailed-exitcode")[0] == 0, "a disabled job is at rest"
    assert not [request for request in jenkins.requests if "oDelete" in request]


def test_a_job_of_somebody_else_in_our_folder_is_left_alone(sync: Sync, jenkins: JenkinsServer) -> None:
    synced(sync)
    jenkins.save("shop/theirs", "<project><description>mine</description><disabled>false</disabled></project>")
    theirs = jenkins.items["shop/theirs"]
    code, report, _ = sync("apply", "--yes", "--disable-left")
    assert (code, jenkins.items["shop/theirs"]) == (0, theirs)
    assert report["warnings"] == [
        "shop/theirs is in the folder, but neither in git nor marked as ours: it is left alone."
    ]


def test_a_folder_with_another_library_is_said_and_left_alone(sync: Sync, jenkins: JenkinsServer) -> None:
    synced(sync)
    assert sync("plan")[1]["warnings"] == []
    jenkins.edit("shop", "<defaultVersion>main</defaultVersion>", "<defaultVersion>old</defaultVersion>")
    code, report, _ = sync("apply", "--yes")
    assert (code, len(report["warnings"])) == (0, 1)
    assert report["warnings"][0].startswith("shop: its shared library is not as in jobs/folder.yaml")
    assert "<defaultVersion>old" in jenkins.items["shop"]


# Definitions that cannot be done


def test_a_broken_definition_stops_no_other_and_is_named(sync: Sync, jenkins: JenkinsServer, definitions: Path) -> None:
    broken = definitions / "provision.yaml"
    whole = broken.read_text()
    broken.write_text(whole.replace("- dry-run", "- dry-runn"))
    code, report, printed = sync("apply", "--yes")
    assert code == 5, printed
    assert set(jenkins.items) == {"shop", *(f"shop/{job}" for job in JOBS if job != "provision")}
    assert [refusal["reference"] for refusal in report["refusals"]] == ["definition-broken"]
    assert {gate["reference"]: gate["state"] for gate in report["gates"]} == {
        "definition-broken": "closed", "job-unreadable": "open", "job-of-other-kind": "open", "job-moved": "open",
    }  # fmt: skip
    assert "jobs/provision.yaml is skipped:" in report["message"]
    assert "dry-runn" in report["message"]
    broken.write_text(whole)
    synced(sync)
    broken.write_text("- job: [")
    assert sync("apply", "--yes", "--disable-left")[0] == 5
    assert "<disabled>false" in jenkins.items["shop/provision"], "broken is not gone from the code"


def test_without_the_common_part_nothing_is_asked(sync: Sync, jenkins: JenkinsServer, definitions: Path) -> None:
    (definitions / "defaults.yaml").write_text("- defaults: {name: global}\n")
    assert sync("apply", "--yes")[0] == 2
    (definitions / "defaults.yaml").unlink()
    code, _, printed = sync("apply", "--yes")
    assert (code, jenkins.requests) == (2, [])
    assert "defaults.yaml is missing" in printed


def test_the_example_address_is_no_address(sync: Sync, jenkins: JenkinsServer) -> None:
    code, _, printed = sync("apply", "--yes", "--definitions", str(resources.jobs()))
    assert (code, jenkins.requests) == (2, [])
    assert "git-url is still the example" in printed


def test_a_job_of_another_kind_is_skipped(sync: Sync, jenkins: JenkinsServer) -> None:
    jenkins.save("shop", "<com.cloudbees.hudson.plugins.folder.Folder/>")
    jenkins.save("shop/provision", "<project><description>old</description></project>")
    code, report, _ = sync("apply", "--yes")
    assert code == 5
    assert [refusal["reference"] for refusal in report["refusals"]] == ["job-of-other-kind"]
    assert len(jenkins.items) == 8


def test_what_jenkins_does_not_keep_is_said(sync: Sync, jenkins: JenkinsServer) -> None:
    hint = "org.jenkinsci.plugins.workflow.job.properties.DurabilityHintJobProperty"
    jenkins.missing_plugins.add(hint)
    code, report, _ = sync("apply", "--yes")
    assert code == 5
    assert "shop/provision is not as it was sent: Jenkins did not keep all of it." in report["message"]
    assert f"+    <{hint}>" in report["differences"]["shop/provision (not kept)"]


# A Jenkins that will not


@pytest.mark.parametrize(
    ("fault", "code", "sentence"),
    [
        (Fault("GET /me", 9, 503, "<h1>Jenkins is getting ready to work</h1>"), 4, "Jenkins is getting ready to work"),
        (Fault("GET /me", 9, 502, "Bad Gateway", {"X-Jenkins": ""}), 4, "answers 502: Bad Gateway"),
        (Fault("GET /me", 9, 200, "<html>Sign in</html>", {"X-Jenkins": ""}), 4, "200, and not as Jenkins does"),
        (Fault("GET /me", 9, 200, "<html>Sign in</html>"), 4, "makes no sense"),
        (Fault("GET /me", 9, 404, "nginx", {"X-Jenkins": ""}), 4, "404, and not as Jenkins does"),
        (Fault("GET /me", 9, 302, "", {"Location": "https://sso.test/login"}), 4, "that it is at https://sso.test"),
        (Fault("GET /me", 9, cut="before"), 4, "broke the connection off"),
        (Fault("GET /job/shop/api", 9, 200, "<html>"), 4, "a page for people where data was asked for"),
        (Fault("GET /job/shop/api", 9, 403, "jobs is missing the Overall/Read permission"), 4, "Overall/Read"),
    ],
    ids=lambda value: value.match + str(value.status) if isinstance(value, Fault) else None,
)  # fmt: skip
def test_a_jenkins_that_cannot_be_asked_is_a_refusal(
    sync: Sync, jenkins: JenkinsServer, fault: Fault, code: int, sentence: str
) -> None:
    jenkins.faults.append(fault)
    ended, report, printed = sync("apply", "--yes")
    assert (ended, jenkins.writes) == (code, []), printed
    assert sentence in report["message"], printed
    assert "nothing was changed" in printed


def test_a_jenkins_that_is_down_is_a_refusal(sync: Sync) -> None:
    code, report, _ = sync("plan", "--jenkins-url", "http://127.0.0.1:9/")
    assert code == 4
    assert "it cannot be reached" in report["message"]


def test_a_wrong_token_is_a_refusal_that_says_so(sync: Sync, environment: dict[str, str]) -> None:
    Path(environment["THEMS_JENKINS_TOKEN_FILE"]).write_text("another")
    code, report, _ = sync("apply", "--yes")
    assert code == 4
    assert report["refusals"][0]["reference"] == "jenkins-token-refused"


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"THEMS_JENKINS_USER": ""}, "THEMS_JENKINS_USER is missing"),
        ({"THEMS_JENKINS_TOKEN_FILE": "/nowhere"}, "it cannot be read"),
        ({"THEMS_JENKINS_CA_FILE": "/etc/hostname"}, "no CA certificate can be read"),
    ],
)
def test_credentials_that_are_not_there_are_usage(
    sync: Sync, jenkins: JenkinsServer, changed: dict[str, str], sentence: str
) -> None:
    code, _, printed = sync("apply", "--yes", **changed)
    assert (code, jenkins.requests) == (2, [])
    assert sentence in printed


@pytest.mark.parametrize(
    "url", ["jenkins", "ftp://jenkins/", "http://jobs:secret@jenkins/", "http://[::1/", "https://"]
)
def test_an_address_that_is_none_is_usage(sync: Sync, url: str) -> None:
    assert sync("plan", "--jenkins-url", url)[0] == 2


def test_a_token_that_goes_in_the_clear_is_warned_of(sync: Sync) -> None:
    code, _, printed = sync("plan", "--jenkins-url", "http://127.0.0.2:9/")
    assert code == 4
    assert "anybody on the way can read the API token" in " ".join(printed.split())


def test_one_permission_missing_is_named(sync: Sync, jenkins: JenkinsServer) -> None:
    jenkins.denied.add("create")
    code, report, _ = sync("apply", "--yes")
    assert (code, jenkins.items) == (4, {})
    assert "jobs is missing the Job/Create permission" in report["message"]
    assert report["refusals"][0]["reference"] == "jenkins-permission-missing"


def test_a_job_that_is_not_shown_to_us_is_not_made_twice(sync: Sync, jenkins: JenkinsServer) -> None:
    synced(sync)
    jenkins.hidden.add("shop/provision")
    code, report, _ = sync("apply", "--yes")
    assert code == 6
    assert "It may be there, but not shown to us: give Job/Read." in report["message"]


def test_one_job_that_jenkins_cannot_read_stops_no_other(sync: Sync, jenkins: JenkinsServer) -> None:
    synced(sync)
    jenkins.edit("shop/galera-health", "H/5", "H/7")
    jenkins.faults.append(Fault("GET /job/shop/job/provision/config.xml", 9, 500, "<h2>Oops!</h2>"))
    code, report, _ = sync("apply", "--yes")
    assert code == 5
    assert [refusal["reference"] for refusal in report["refusals"]] == ["job-unreadable"]
    assert "H/5" in jenkins.items["shop/galera-health"]


def test_one_job_that_jenkins_does_not_take_stops_no_other(sync: Sync, jenkins: JenkinsServer) -> None:
    jenkins.faults.append(Fault("POST .*name=provision", 9, 500, "<h2>Oops!</h2> java.io.IOException: disk full"))
    code, report, printed = sync("apply", "--yes")
    assert code == 6
    assert len(jenkins.items) == 7
    assert report["message"].startswith("Halted, 7 of 8 done: shop/provision: Jenkins answers 500: Oops! java.io.IO")
    assert "Go on with:" in printed
    jenkins.faults.clear()
    synced(sync)


# Answers that are slow or lost, crumbs, other hands


@pytest.mark.parametrize("cut", ["before", "after"])
def test_a_write_whose_answer_is_lost_is_looked_at(sync: Sync, jenkins: JenkinsServer, cut: str) -> None:
    jenkins.faults += [Fault("POST .*createItem", 2, cut=cut)]
    synced(sync)
    assert len(jenkins.items) == 8
    jenkins.edit("shop/provision", "MAX_S", "MIN_S")
    jenkins.faults += [Fault("POST .*config.xml", 1, cut=cut)]
    synced(sync)


def test_a_slow_answer_is_waited_for(sync: Sync, jenkins: JenkinsServer) -> None:
    jenkins.faults += [Fault("GET /me", 1, slow_s=1.5), Fault("POST .*createItem", 1, slow_s=1.5)]
    synced(sync)


def test_reads_are_asked_again(sync: Sync, jenkins: JenkinsServer) -> None:
    jenkins.faults += [Fault("GET /me", 1, cut="before"), Fault("GET .*config.xml", 1, 503), Fault("GET .*api", 1, 504)]
    synced(sync)


def test_a_crumb_is_sent_and_an_old_one_replaced(sync: Sync, jenkins: JenkinsServer) -> None:
    jenkins.crumbs_required = True

    def restart() -> None:
        jenkins.crumb = "of another session"

    jenkins.faults.append(Fault("GET /job/shop/api", 1, act=restart))
    synced(sync)


def test_a_job_that_somebody_saves_meanwhile_is_left_as_it_is(sync: Sync, jenkins: JenkinsServer) -> None:
    synced(sync)
    jenkins.edit("shop/galera-health", "H/5", "H/7")
    jenkins.edit("shop/provision", "MAX_S", "MIN_S")

    def save() -> None:
        jenkins.edit("shop/provision", "MIN_S", "SOME_S")

    jenkins.faults.append(Fault("POST .*galera-health/config.xml", 1, act=save))
    code, report, _ = sync("apply", "--yes")
    assert code == 6
    assert report["refusals"][0]["reference"] == "job-moved"
    assert "SOME_SURVIVABILITY" in jenkins.items["shop/provision"]


# Approval


def test_without_a_yes_nothing_is_done(sync: Sync, jenkins: JenkinsServer) -> None:
    code, report, _ = sync("apply")
    assert (code, jenkins.writes) == (4, [])
    assert "--expect-plan" in report["next"]


def test_an_approval_is_for_what_was_shown(sync: Sync, jenkins: JenkinsServer) -> None:
    synced(sync)
    jenkins.edit("shop/provision", "MAX_S", "MIN_S")
    digest = sync("plan")[1]["plan"]["digest"]
    jenkins.edit("shop/provision", "MIN_S", "SOME_S")  # somebody's change that nobody agreed to lose
    before = len(jenkins.writes)
    code, report, _ = sync("apply", "--expect-plan", digest)
    assert (code, len(jenkins.writes)) == (4, before)
    assert report["refusals"][0]["reference"] == "plan-changed"
    assert report["next"] == "", "nobody has seen the new plan yet"
    digest = sync("plan")[1]["plan"]["digest"]
    assert sync("apply", "--expect-plan", digest)[0] == 0


def test_options_come_as_a_file_from_jenkins(sync: Sync, jenkins: JenkinsServer, tmp_path: Path) -> None:
    asked = tmp_path / "asked.json"
    asked.write_text(json.dumps({"detailed-exitcode": True, "started-by": "anna"}))
    code, report, _ = sync("plan", "--parameters", str(asked))
    assert (code, report["started_by"]) == (3, "anna")
    asked.write_text(json.dumps({"yes": True, "disable-left": True}))
    assert sync("apply", "--parameters", str(asked), THEMS_JENKINS_URL=jenkins.url)[0] == 0


# TLS


def test_the_certificate_is_verified(definitions: Path, environment: dict[str, str], tmp_path: Path) -> None:
    authority, stranger = trustme.CA(), trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    stranger.cert_pem.write_to_path(tmp_path / "other.pem")
    for arguments, code in (
        (("--ca-file", str(tmp_path / "ca.pem")), 0),
        (("--ca-file", str(tmp_path / "other.pem")), 4),
        ((), 4),
    ):
        with serving(JenkinsServer(), tls) as server:
            ended = subprocess.run(
                command(server, definitions, "plan", *arguments),
                env=environment | {"PYTHONHTTPSVERIFY": "0"}, capture_output=True, text=True, timeout=60,
            )  # fmt: skip
            assert ended.returncode == code, ended.stdout + ended.stderr
            assert code == 0 or "a certificate that is not valid" in ended.stdout
            assert code == 0 or not server.requests


# Being killed


@pytest.mark.parametrize(("index", "moment"), [(0, "before"), *((index, "after") for index in range(7))])
def test_killed_at_any_write_the_next_run_finishes(
    sync: Sync, jenkins: JenkinsServer, definitions: Path, environment: dict[str, str], index: int, moment: str
) -> None:
    running: list[subprocess.Popen[bytes]] = []

    def kill() -> None:
        eventually(lambda: running, "the run is known", 10)
        running[0].kill()

    jenkins.faults += [Fault("POST", index), Fault("POST", 1, cut=moment, act=kill)]
    running.append(subprocess.Popen(
        command(jenkins, definitions, "apply", "--yes"), env=environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ))  # fmt: skip
    assert running[0].wait(60) == -signal.SIGKILL
    jenkins.faults.clear()
    synced(sync)
    assert len(jenkins.items) == 8
    wanted = read_definitions(definitions)
    assert all(job_xml.meaning(jenkins.items[job.name]) == job_xml.meaning(job.xml) for job in wanted.jobs)


def test_a_stop_is_soon_and_leaves_a_report(
    sync: Sync, jenkins: JenkinsServer, definitions: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    jenkins.faults.append(Fault("POST .*name=provision", 1, slow_s=60))
    line = command(jenkins, definitions, "apply", "--yes", "--report-dir", str(tmp_path / "stopped"))
    run = subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    eventually(lambda: any("name=provision" in write for write in jenkins.writes), "the write is under way", 30)
    run.terminate()
    printed, _ = run.communicate(timeout=15)
    assert run.returncode == 143, printed
    report = json.loads((tmp_path / "stopped" / "report.json").read_text())
    assert report["message"].startswith("Aborted on request, 4 of 8 done.")
    jenkins.faults.clear()
    synced(sync)
