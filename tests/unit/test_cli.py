"""The command line: what it refuses, what it shows, how it ends."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import termios
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from model_world import ModelWorld
from thems_jobs import cli, resources
from thems_jobs.cli import running
from thems_jobs.clock import SystemClock
from thems_jobs.core.outcome import Exit
from thems_jobs.core.platform import Platform
from thems_jobs.core.record import Lease, Record
from thems_jobs.errors import UsageError
from thems_jobs.host import enter_network, who
from thems_jobs.jobs import provision, scale
from thems_jobs.platform_file import read_platform
from thems_jobs.private_folder import PREFIX
from thems_jobs.wish import Wish

pytestmark = pytest.mark.timeout(60)
LATER = (datetime.now(UTC) + timedelta(days=2)).isoformat(timespec="minutes")
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def platform_file(tmp_path: Path) -> Path:
    """Return a platform file with its secrets, of a cluster that nobody answers for."""
    text = resources.path("platforms", "lab.yaml").read_text()
    text = text.replace("10.77.0.1:8006", "127.0.0.1:9").replace("reach:\n  netns: netns\n", "")
    path = tmp_path / "platform.yaml"
    path.write_text(text.replace("api_s: 15", "api_s: 1"))
    (tmp_path / "token").write_text("c0ffee00-0000-4000-8000-000000000000\n")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "ssh_key")], check=True)
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ed25519", "-nodes", "-keyout", os.devnull, "-subj", "/CN=nobody",
         "-out", str(tmp_path / "ca.pem")],
        check=True, capture_output=True,
    )  # fmt: skip
    (tmp_path / "token").chmod(0o600)
    return path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Return what runs the command line in this process: exit code, stdout, stderr."""
    signals = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.delenv("THEMS_PLATFORM", raising=False)

    def run_cli(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["thems-jobs", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        output = capsys.readouterr()
        return int(ended.value.code or 0), output.out, output.err

    yield run_cli
    for number, handler in signals.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["provision", "wbe"], r"[Uu]nknown tier 'wbe'"),
        (["provision", "--replace", "web-1"], r"--replace web-1: a machine's name is shop-TIER-NUMBER"),
        (["scale"], r"found none of these, expected one of --tier, --extend, --end, --expire, --calendar"),
        (["scale", "--tier", "web=6"], r"--until is missing"),
        (["scale", "--tier", "web=0", "--until", LATER], r"web=0 is not from 2 to 12"),
        (["scale", "--tier", "web=13", "--until", LATER], r"web=13 is not from 2 to 12"),
        (["scale", "--tier", "wbe=6", "--until", LATER], r"unknown tier 'wbe'"),
        (["scale", "--tier", "web=six", "--until", LATER], r"found 'web=six', expected TIER=NUMBER"),
        (["scale", "--tier", "web=4", "--tier", "web=5", "--until", LATER], r"found web twice"),
        (["scale", "--tier", "web=6", "--until", "2020-01-01T00:00Z"], r"--until 2020-01-01 00:00 UTC is in the past"),
        (["scale", "--tier", "web=6", "--until", "2036-01-01T00:00"], r"has no zone"),
        (["scale", "--tier", "web=6", "--until", "9999-12-31T23:59-12:00"], r"found '9999.*expected a time with its"),
        (
            ["scale", "--tier", "web=6", "--until", "tonight"],
            r"--until: found 'tonight', expected a time with its zone",
        ),
        (["scale", "--tier", "web=6", "--until", LATER, "--event", "a b"], r"--event: found 'a b'"),
        (["scale", "--tier", "web=6", "--end", "gala", "--until", LATER], r"found --tier and --end, expected one of"),
        (["scale", "--end", "gala", "--until", LATER], r"--until: found with --end"),
        (["scale", "--extend", "gala"], r"--until is missing"),
        (["scale", "--tier", "web=6", "--until", LATER, "--reason", "x" * 201], r"found 201 characters"),
        (["scale", "--calendar", "/nowhere.yaml"], r"/nowhere.yaml: the calendar cannot be read"),
        (["scale", "--frobnicate"], r"No such option: --frobnicate"),
        (["template", "build", "wbe"], r"[Uu]nknown tier 'wbe'"),
    ],
)
def test_bad_input_is_a_clear_sentence_and_exit_2(
    run: Run, platform_file: Path, arguments: list[str], sentence: str
) -> None:
    code, out, err = run(*arguments, "--platform", platform_file)
    assert (code, out) == (2, "")
    assert re.search(sentence, err), err
    assert "Traceback" not in err
    assert err.count("✗") <= 1, err


def test_several_mistakes_are_said_at_once(run: Run, platform_file: Path) -> None:
    code, _, err = run("scale", "--platform", platform_file, "--tier", "web=0", "--tier", "x", "--until", "never")
    assert code == 2
    assert err.count("✗") == 3


def test_a_malformed_calendar_names_each_mistake(run: Run, platform_file: Path) -> None:
    calendar = platform_file.with_name("events.yaml")
    calendar.write_text("- {name: a b, start: soon, end: 2036-01-01T00:00Z, tiers: {web: 6}}\n")
    code, _, err = run("scale", "--platform", platform_file, "--calendar", calendar)
    assert code == 2
    assert "[0].name: found 'a b'" in err
    assert "[0].start: found 'soon'" in err


def test_an_event_that_is_over_breaks_no_calendar(run: Run, platform_file: Path) -> None:
    calendar = platform_file.with_name("events.yaml")
    past = "- {name: old, start: 2020-01-01T00:00Z, end: 2020-01-02T00:00Z, tiers: {gone: 6}}\n"
    calendar.write_text(past + "- {name: gala, start: 2036-01-01T00:00Z, end: 2036-01-02T00:00Z, tiers: {web: 6}}\n")
    assert run("scale", "--platform", platform_file, "--calendar", calendar, "--plan")[0] == 4  # nobody answers
    calendar.write_text(calendar.read_text().replace("web: 6", "web: 99"))
    code, _, err = run("scale", "--platform", platform_file, "--calendar", calendar, "--plan")
    assert (code, err.count("✗")) == (2, 1)
    assert "event gala: web=99 is not from 2 to 12" in err


def test_missing_platform_and_secrets_are_usage(run: Run, platform_file: Path) -> None:
    assert run("status")[0] == 2
    assert "THEMS_PLATFORM" in run("status")[2]
    (platform_file.parent / "token").unlink()
    code, _, err = run("status", "--platform", platform_file)
    assert code == 2
    assert "token: the API token cannot be read (No such file or directory)" in err


def test_an_endpoint_that_does_not_answer_is_a_refusal(run: Run, platform_file: Path) -> None:
    for arguments in (["status"], ["provision", "--yes"], ["provision", "--plan"]):
        code, out, err = run(*arguments, "--platform", platform_file)
        assert code == 4, err
        assert "127.0.0.1:9" in out + err
        assert "c0ffee00" not in out + err


def test_every_run_removes_what_a_killed_one_left(
    run: Run, platform_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(platform_file.parent))
    left = platform_file.parent / f"{PREFIX}left"
    left.mkdir()
    assert run("status", "--platform", platform_file)[0] == 4
    assert list(platform_file.parent.glob(f"{PREFIX}*")) == []


def test_refusals_reach_the_report_and_json(run: Run, platform_file: Path, tmp_path: Path) -> None:
    code, out, _ = run("provision", "--yes", "--json", "--report-dir", tmp_path / "r", "--platform", platform_file)
    assert code == 4
    assert json.loads(out)["outcome"] == "refused"
    assert json.loads((tmp_path / "r" / "report.json").read_text()) == json.loads(out)
    assert (tmp_path / "r" / "gates.xml").exists()
    assert (tmp_path / "r" / "report.html").exists()


def test_parameters_come_from_a_file_and_the_command_line_wins(run: Run, platform_file: Path) -> None:
    parameters = platform_file.with_name("parameters.json")
    parameters.write_text(
        json.dumps({"tier": {"web": 99, "db": ""}, "until": LATER, "platform": str(platform_file), "end": ""})
    )
    assert "web=99 is not from" in run("scale", "--parameters", parameters)[2]
    assert "web=0 is not from" in run("scale", "--parameters", parameters, "--tier", "web=0")[2]
    parameters.write_text(json.dumps({"tiers": ["web=6"], "until": {"a": 1}}))
    code, _, err = run("scale", "--parameters", parameters, "--platform", platform_file)
    assert code == 2
    assert "did you mean tier?" in err
    assert "until: found" in err
    parameters.write_text("{")
    assert "is not JSON" in run("scale", "--parameters", parameters, "--platform", platform_file)[2]


def test_a_calendar_that_the_parameters_name_is_read_from_where_the_build_stands(
    run: Run, platform_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the step eventCalendar asks for it: by a file of parameters, in the checkout."""
    monkeypatch.chdir(platform_file.parent)
    wanted = {"calendar": "events.yaml", "yes": True, "report-dir": "report", "started-by": "Started by timer"}
    Path("parameters.json").write_text(json.dumps(wanted))
    gala = "- {name: gala, start: 2035-12-31T00:00Z, end: 2036-01-01T00:00Z, tiers: {web: 6}}"
    for text, code, sentence in (
        (None, 2, "events.yaml: the calendar cannot be read (No such file or directory). Nothing was changed."),
        ("", 2, "events.yaml: the calendar is empty. Nothing was changed."),
        (gala.replace("2035-12-31", "soon"), 2, "events.yaml: line 1, [0].start: found 'soonT00:00Z'"),
        ("[]", 4, "127.0.0.1:9"),  # understood: nobody answers
        (gala, 4, "127.0.0.1:9"),
    ):
        if text is not None:
            Path("events.yaml").write_text(text)
        assert run("scale", "--platform", platform_file, "--parameters", "parameters.json")[0] == code
        assert sentence in Path("report", "message.txt").read_text()
    assert json.loads(Path("report", "report.json").read_text())["started_by"] == "Started by timer"


def test_what_ends_a_command_early_reaches_the_build_page(run: Run, platform_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "r"
    code, _, err = run("scale", "--tier", "web=lots", "--report-dir", folder, "--platform", platform_file)
    assert code == 2
    message = (folder / "message.txt").read_text()
    assert "found 'web=lots', expected TIER=NUMBER" in message
    assert "Nothing was changed." in message
    assert message.count("\n") == 1
    assert "web=lots" in err
    assert (folder / "plan.txt").read_text() == ""


def test_a_bug_is_one_line_and_a_log_file(
    run: Run, platform_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(resources, "path", lambda *_: 1 / 0)
    code, out, err = run("status", "--platform", platform_file)
    assert (code, out) == (1, "")
    assert len(err.strip().splitlines()) == 1, err
    assert "ZeroDivisionError" in err
    log = next((tmp_path / "state" / "thems-jobs").glob("crash-*.log"))
    assert str(log) in err
    assert "Traceback" in log.read_text()


def test_help_needs_nothing_heavy() -> None:
    code = "import sys; import thems_jobs.cli; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"rich", "pydantic", "yaml", "jinja2", "requests", "proxmoxer", "ansible_runner"} & set(loaded)


def test_help_says_what_there_is(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    for command in ("provision", "scale", "status", "doctor", "template", "lab", "version", "Examples:"):
        assert command in out
    for command in ("provision", "scale"):
        code, out, _ = run(command, "--help")
        assert code == 0
        for option in ("--plan", "--yes", "--expect-plan", "--detailed-exitcode", "--report-dir", "--parameters"):
            assert option in out
    code, out, _ = run("lab", "--help")
    assert code == 0
    assert "down" in out


# A run that goes through, on the model of the world


def wished(*arguments: str, **changes: object) -> Wish:
    values: dict[str, object] = {
        "arguments": ("provision", *arguments), "plan_only": False, "yes": False, "expect_plan": "", "detailed": False,
        "as_json": False, "report_dir": None, "started_by": "test@here",
    }  # fmt: skip
    return Wish(**(values | changes))  # type: ignore[arg-type]


@pytest.fixture
def platform(platform_file: Path) -> Platform:
    return read_platform(platform_file, {})


def test_plan_approval_and_the_run_agree(platform: Platform, capsys: pytest.CaptureFixture[str]) -> None:
    world, clock = ModelWorld(platform, provision.Parameters()), SystemClock()
    shown = running.preview(world.job(), wished("--plan", plan_only=True, detailed=True), clock)
    assert shown.exit is Exit.CHANGES
    assert shown.next == f"thems-jobs provision --expect-plan {shown.plan.digest}"
    out = capsys.readouterr().out
    for text in ("shop-balancer-1", "shop-web-2", "make", "✓ the template exists", shown.plan.digest, "assumed"):
        assert text in out
    assert out.strip().splitlines()[-1].startswith(f"Plan {shown.plan.digest}")

    asked = running.run(world.job(), wished(), clock, scheduled=False)
    assert asked.exit is Exit.REFUSED
    assert asked.next == shown.next
    assert asked.next in capsys.readouterr().out

    other = running.run(world.job(), wished(expect_plan="0123456789ab"), clock, scheduled=False)
    assert other.exit is Exit.REFUSED
    assert [refusal.reference for refusal in other.refusals] == ["plan-changed"]

    done = running.run(world.job(), wished(expect_plan=shown.plan.digest), clock, scheduled=False)
    assert done.exit is Exit.OK, done.message
    output = capsys.readouterr()
    assert output.out.strip().splitlines()[-1].startswith("Done:")
    assert re.search(r"^\d\d:\d\d:\d\d shop-web-1 await-boot ok, ", output.err, re.MULTILINE)

    again = running.preview(world.job(), wished("--plan", plan_only=True, detailed=True), clock)
    assert (again.exit, again.plan.steps) == (Exit.OK, ())


def test_a_slip_in_a_name_is_said_by_the_plan_and_by_the_run(
    platform: Platform, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = SystemClock()
    world = ModelWorld(platform, provision.Parameters())
    assert running.run(world.job(), wished(yes=True), clock, scheduled=False).exit is Exit.OK
    world.parameters = provision.Parameters(replace=("shop-web-9",))
    for how in (running.preview(world.job(), wished("--plan", plan_only=True), clock),
                running.run(world.job(), wished(yes=True), clock, scheduled=False)):  # fmt: skip
        assert how.exit is Exit.OK
        assert how.message.startswith("Nothing to do: shop-web-9 is not there")
    assert capsys.readouterr().out.count("Nothing to do: shop-web-9 is not there") == 2


@pytest.mark.parametrize(
    ("asked", "code", "message"),
    [
        ({"calendar": "events.yaml"}, 0, "Skipped: the platform is held by anna@there"),
        ({"expire": True}, 0, "Skipped: the platform is held by anna@there"),
        ({"end": "gala"}, 4, "Refused, nothing was changed: the platform is held by anna@there"),
    ],
    ids=["calendar", "expire", "end"],
)
def test_what_a_timer_started_is_skipped_while_another_run_is_at_work(
    run: Run, platform_file: Path, platform: Platform, monkeypatch: pytest.MonkeyPatch,
    asked: dict[str, object], code: int, message: str,
) -> None:  # fmt: skip
    world = ModelWorld(platform, provision.Parameters())
    world.facts = replace(world.facts, record=Record(Lease("theirs", "anna@there", world.facts.at + 60)))
    monkeypatch.setattr(running, "opened_clients", lambda _platform: nullcontext((None, SystemClock())))
    monkeypatch.setattr(scale, "job", lambda *_: world.job())
    monkeypatch.chdir(platform_file.parent)
    Path("events.yaml").write_text("[]")
    Path("parameters.json").write_text(json.dumps(asked | {"yes": True, "report-dir": "report"}))
    assert run("scale", "--platform", platform_file, "--parameters", "parameters.json")[0] == code
    assert Path("report", "message.txt").read_text().startswith(message)


def test_sigterm_ends_a_run_with_143_and_a_report(platform: Platform, tmp_path: Path) -> None:
    """The signal comes while the first steps are under way; the same command then finishes the work."""
    world, clock = ModelWorld(platform, provision.Parameters(), step_s=0.05), SystemClock()
    handler = signal.getsignal(signal.SIGTERM)
    kill = [lambda: os.kill(os.getpid(), signal.SIGTERM)]

    def submit(call: Callable[[], object]) -> object:
        if kill:
            kill.pop()()
        return SystemClock.submit(clock, call)

    clock.submit = submit  # type: ignore[assignment, method-assign]
    outcome = running.run(world.job(), wished(yes=True, report_dir=tmp_path), clock, scheduled=False)
    assert signal.getsignal(signal.SIGTERM) is handler
    assert outcome.exit is Exit.ABORTED
    assert outcome.next
    assert json.loads((tmp_path / "report.json").read_text())["exit"] == 143
    resumed = running.run(world.job(), wished(yes=True), SystemClock(), scheduled=False)
    assert resumed.exit is Exit.OK, resumed.message


HANGING_RUN = """
import socket, sys, threading
from thems_jobs.cli import app, main

@app.command()
def broken():
    raise ZeroDivisionError

asked = socket.create_connection(("127.0.0.1", int(sys.argv.pop(1))))
threading.Thread(target=asked.recv, args=(1,)).start()
main()
"""


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["version"], 0, "thems-jobs "),
        (["status", "--platform", "/nowhere"], 2, "/nowhere"),
        (["broken"], 1, "thems-jobs has a bug: ZeroDivisionError"),
    ],
)
def test_an_answer_that_never_comes_keeps_no_command_from_ending(
    arguments: list[str], code: int, said: str, tmp_path: Path
) -> None:
    """Whichever way it ends: a thread still waits for a server that accepts and does not answer."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        done = subprocess.run(
            [sys.executable, "-c", HANGING_RUN, str(silent.getsockname()[1]), *arguments],
            env={**os.environ, "XDG_STATE_HOME": str(tmp_path)}, capture_output=True, text=True, timeout=30,
            check=False,
        )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert said in done.stdout + done.stderr


def test_a_command_that_goes_on_is_the_one_that_was_approved() -> None:
    wish = wished("web", "--plan", "--expect-plan", "old", "--detailed-exitcode", "--expect-plan=old", "--yes")
    assert wish.approved_command("new") == "thems-jobs provision web --yes --expect-plan new"
    assert wished("--started-by", "a b").command == "thems-jobs provision --started-by 'a b'"


def test_who_asks_is_the_person_where_one_is_known() -> None:
    assert who({"BUILD_USER": "Anna", "SUDO_USER": "bob", "USER": "root"}).startswith("Anna@")
    assert who({"SUDO_USER": "bob", "USER": "root"}).startswith("bob@")
    assert "@" in who({})


def test_a_network_that_cannot_be_entered_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be opened"):
        enter_network(str(tmp_path / "missing"))
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"no network namespace|only root"):
        enter_network(str(tmp_path / "file"))


def test_only_root_may_enter_a_network() -> None:
    """As another user, where this runs as root; the sentence says what to do."""
    program = (
        "import os; from thems_jobs.host import enter_network\n"  # before: another user may not read this checkout
        "os.geteuid() == 0 and os.setuid(65534)\n"
        "try: enter_network('/proc/self/ns/net')\nexcept Exception as error: print(error)"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "run it as root (sudo)" in answer.stdout, answer.stderr


TERMINAL_RUN = """
import fcntl, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # Ctrl-C comes from here
from pathlib import Path
from model_world import ModelWorld
from thems_jobs.cli import running
from thems_jobs.clock import SystemClock
from thems_jobs.jobs import provision
from thems_jobs.platform_file import read_platform
from thems_jobs.wish import Wish
world = ModelWorld(read_platform(Path(sys.argv[1]), {}), provision.Parameters(), step_s=0.05)
wish = Wish(("provision",), False, False, "", False, False, None, "test@here")
sys.exit(int(running.run(world.job(), wish, SystemClock(), False).exit))
"""


@pytest.mark.parametrize(("answer", "code"), [("yes\n", 0), ("no\n", 4), ("\x04", 4), ("\x03", 143)])
def test_at_a_terminal_the_plan_is_shown_and_asked_for(platform_file: Path, answer: str, code: int) -> None:
    """At a real pseudo-terminal: the question comes after the plan, and the board ends in its last state."""
    controller, terminal = os.openpty()
    termios.tcsetwinsize(terminal, (40, 80))
    environment = {**os.environ, "TERM": "xterm", "PYTHONPATH": str(Path(__file__).parents[1]), "COLUMNS": "80"}
    process = subprocess.Popen(
        [sys.executable, "-c", TERMINAL_RUN, str(platform_file)],
        stdin=terminal, stdout=terminal, stderr=terminal, env=environment, start_new_session=True,
    )  # fmt: skip
    os.close(terminal)
    shown = b""
    try:
        with suppress(OSError):  # the other end is closed when the run has ended
            while chunk := os.read(controller, 4096):
                shown += chunk
                if b"Type yes:" in shown and answer:
                    os.write(controller, answer.encode())
                    answer = ""
        assert process.wait() == code, shown.decode()
    finally:
        process.kill()
        os.close(controller)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert text.index("shop-web-1") < text.index("Plan ") < text.index("Do this? Type yes:")
    if code == 0:
        assert "✓ serves" in text
        assert text.strip().splitlines()[-1].startswith("Done:")
    else:
        assert text.strip().splitlines()[-1].startswith("Not approved" if code == 4 else "Aborted")
        assert ("--expect-plan" in text) is (code == 4)
