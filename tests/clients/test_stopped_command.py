"""A command that is asked to stop while the API takes its request and never answers, or the folder of its reports."""

import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from thems_jobs import resources
from waiting import eventually

JENKINS_S = 20.0  # then Jenkins kills
PROGRAM = (str(Path(sys.executable).parent / "thems-jobs"),)
# As on a share whose server is away: what was written does not get there, for a pipe that nobody writes into.
HANGING_SHARE = """
import os, sys
from thems_jobs.cli import main
pipe = sys.argv.pop(1)
os.fsync = lambda _: open(pipe).read()
main()
"""


class SilentServer:
    """Takes TLS connections and requests, and answers none."""

    def __init__(self, certificates: Path) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificates / "api.pem", certificates / "api.key")
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.requests = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                threading.Thread(target=self._listen, args=(self._socket.accept()[0],), daemon=True).start()

    def _listen(self, plain: socket.socket) -> None:
        with suppress(OSError), self._context.wrap_socket(plain, server_side=True) as connection:
            while connection.recv(4096):
                self.requests += 1

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def silent(certificates: Path) -> Iterator[SilentServer]:
    server = SilentServer(certificates)
    yield server
    server.close()


@pytest.fixture
def platform_file(silent: SilentServer, certificates: Path, tmp_path: Path) -> Path:
    text = resources.path("platforms", "lab-database.yaml").read_text().replace("reach:\n  netns: netns\n", "")
    text = text.replace('["https://10.77.0.1:8006"]', f'["https://127.0.0.1:{silent.port}"]')
    path = tmp_path / "platform.yaml"
    for name in ("ca.pem", "database-ca.pem"):
        text = text.replace(f"ca_file: {name}", f"ca_file: {certificates}/ca.pem")
    path.write_text(text.replace("api_s: 15", "api_s: 60"))
    for name in ("token", "database-ca.key", "database-password", "shop-database-password"):
        (tmp_path / name).write_text("c0ffee00-0000-4000-8000-000000000000\n")
        (tmp_path / name).chmod(0o600)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "ssh_key")], check=True)
    return path


def stop(silent: SilentServer, *command: str) -> str:
    """Run a command, ask it to stop while it waits for the API, and return what it printed; it has ended with 143."""
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        eventually(lambda: silent.requests, "the API is asked", 60)
        run.terminate()
        asked_at = time.monotonic()
        printed, _ = run.communicate(timeout=60)
        seconds = time.monotonic() - asked_at
    finally:
        run.kill()
    assert run.returncode == 143, printed
    assert seconds < JENKINS_S
    return printed


@pytest.mark.parametrize("how", ["--yes", "--plan"])
def test_a_stop_is_soon_and_leaves_a_report_when_the_api_hangs(
    silent: SilentServer, platform_file: Path, tmp_path: Path, how: str
) -> None:
    folder = tmp_path / "stopped"
    printed = stop(silent, *PROGRAM, "provision", how, "--platform", str(platform_file), "--report-dir", str(folder))
    assert "Aborted on request, nothing was changed." in printed
    report = json.loads((folder / "report.json").read_text())
    assert (report["exit"], report["steps"]) == (143, [])
    assert report["next"].startswith("thems-jobs provision")


def test_a_watch_that_has_seen_nothing_yet_is_stopped_as_soon(silent: SilentServer, platform_file: Path) -> None:
    stop(silent, *PROGRAM, "galera-health", "--watch", "--platform", str(platform_file))


@pytest.fixture
def on_hanging_share(tmp_path: Path) -> tuple[str, ...]:
    os.mkfifo(tmp_path / "pipe")
    return (sys.executable, "-c", HANGING_SHARE, str(tmp_path / "pipe"))


def test_a_stop_is_as_soon_if_the_report_s_folder_hangs_too(
    silent: SilentServer, platform_file: Path, on_hanging_share: tuple[str, ...], tmp_path: Path
) -> None:
    line = ("provision", "--yes", "--platform", str(platform_file), "--report-dir", str(tmp_path / "stopped"))
    printed = stop(silent, *on_hanging_share, *line)
    assert "The report could not be written: its folder does not answer" in printed
    assert "Aborted on request, nothing was changed." in printed


def test_a_refusal_is_said_if_the_report_s_folder_hangs(
    platform_file: Path, on_hanging_share: tuple[str, ...], tmp_path: Path
) -> None:
    line = ("provision", "wbe", "--platform", str(platform_file), "--report-dir", str(tmp_path / "refused"))
    done = subprocess.run([*on_hanging_share, *line], capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 2
    assert "unknown tier 'wbe'" in done.stderr.lower()
