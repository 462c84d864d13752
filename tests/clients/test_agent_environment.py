"""What an agent makes before it runs a command, with the real installer: once, by one of two, whole or not at all."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from thems_jobs import __version__
from waiting import eventually

CHECKOUT = Path(__file__).parent.parent.parent
SCRIPT = CHECKOUT / "resources" / "bootstrap" / "agent.sh"
MAKING = "making the environment"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkout that nobody changes meanwhile; its environments are made beside it."""
    here = tmp_path_factory.mktemp("agent") / "checkout"
    here.mkdir()
    for name in ("pyproject.toml", "uv.lock", "README.md"):
        shutil.copy(CHECKOUT / name, here)
    for name in ("jobs", "resources", "src"):
        shutil.copytree(CHECKOUT / name, here / name, ignore=shutil.ignore_patterns("__pycache__"))
    return here


def start(checkout: Path, *words: str, library: str = __version__) -> "subprocess.Popen[str]":
    environment = os.environ | {
        "THEMS_LIBRARY_VERSION": library,
        "THEMS_ENVIRONMENTS": str(checkout.parent / "environments"),
    }
    return subprocess.Popen(
        ["sh", SCRIPT, *words],
        cwd=checkout,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def end(run: "subprocess.Popen[str]") -> tuple[int, str, str]:
    out, err = run.communicate(timeout=500)
    return run.returncode, out, err


def test_one_of_two_makes_it_and_a_killed_one_is_made_again(checkout: Path) -> None:
    made = checkout.parent / "environments"
    killed = start(checkout, "version")
    eventually(lambda: list(made.glob("*/bin/python")), "it began to make the environment", 60)
    os.killpg(killed.pid, signal.SIGKILL)
    end(killed)
    assert not list(made.glob("*/complete"))

    both = [start(checkout, "version") for _ in range(2)]
    ends = [end(run) for run in both]
    assert [(code, out) for code, out, _ in ends] == [(0, f"thems-jobs {__version__}\n")] * 2, ends
    assert sum(MAKING in err for _, _, err in ends) == 1, ends

    code, out, err = end(start(checkout, "version"))
    assert (code, out, err) == (0, f"thems-jobs {__version__}\n", "")
    assert len(list(made.glob("*/complete"))) == 1


def test_arguments_and_exit_codes_pass_through(checkout: Path) -> None:
    code, _, err = end(start(checkout, "provision", "--platform", "no such file; echo x"))
    assert code == 2
    assert "no such file; echo x" in err


def test_the_installed_package_is_complete(checkout: Path) -> None:
    assert end(start(checkout, "version"))[0] == 0
    (installed,) = (checkout.parent / "environments").glob("*/lib/python3*/site-packages/thems_jobs")
    for part in ("resources/ansible/converge.yml", "resources/report/report.html.j2", "resources/jobs/defaults.yaml"):
        assert (installed / part).is_file(), part


def test_a_library_of_another_version_is_refused(checkout: Path) -> None:
    code, out, err = end(start(checkout, "version", library="9.9.9"))
    assert (code, out) == (4, "")
    assert f"the library is 9.9.9, the package is {__version__}" in err


def test_a_workspace_without_the_package_says_what_to_do(tmp_path: Path) -> None:
    code, _, err = end(start(tmp_path, "version"))
    assert code == 2
    assert "THEMS_REPOSITORY" in err


def test_a_package_with_another_hash_is_not_installed(checkout: Path, tmp_path: Path) -> None:
    forged = tmp_path / "checkout"
    shutil.copytree(checkout, forged)
    lock = (forged / "uv.lock").read_text()
    start_of_tenacity = lock.index('name = "tenacity"')
    head, tail = lock[:start_of_tenacity], lock[start_of_tenacity:]
    for kind in ("sdist = {", "wheels = ["):
        before, after = tail.split(kind, 1)
        digest = after.split('hash = "sha256:', 1)[1][:64]
        tail = before + kind + after.replace(digest, "0" * 64, 1)
    (forged / "uv.lock").write_text(head + tail)
    code, out, err = end(start(forged, "version"))
    assert code != 0
    assert out == ""
    assert "mismatch" in err.lower()
    assert not list((tmp_path / "environments").glob("*/complete"))
