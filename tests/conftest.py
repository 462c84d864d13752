"""What all tests share: nothing of the caller's own settings reaches them, and no command that they run ends them."""

import os
import sys
from collections.abc import Iterator

import pytest

from thems_jobs import cli

for name in [name for name in os.environ if name.startswith("THEMS_")]:
    if name not in (
        "THEMS_LAB_CACHE",
        "THEMS_SEEDS",
        "THEMS_SEED",
        "THEMS_EVERY_CALL",
        "THEMS_KILL_SEED",
        "THEMS_TEST_LAB",
        "THEMS_JENKINS_USER",
        "THEMS_JENKINS_TOKEN_FILE",
        "THEMS_JENKINS_CA_FILE",
    ):
        del os.environ[name]

# Not every user's PATH has the folders where haproxy and ip are; tests of what is not found would be skipped.
os.environ["PATH"] = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"

# How a terminal shows things is what a test says of its own, or what it is without any of these.
TERMINAL = ("COLUMNS", "LINES", "NO_COLOR", "COLORTERM", "TTY_COMPATIBLE", "TTY_INTERACTIVE")
COLOURED = ("FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS")
for name in (*TERMINAL, *COLOURED):
    os.environ.pop(name, None)
os.environ["TERM"] = "xterm"

# Programs speak as they do where no language is installed; Ansible, run by a test itself, needs UTF-8.
os.environ.pop("LANGUAGE", None)
os.environ["LC_ALL"] = "C.UTF-8"

# The tests' own servers are on this machine: no proxy is asked for them.
for name in ("no_proxy", "NO_PROXY"):
    os.environ[name] = ",".join(filter(None, (os.environ.get(name), "127.0.0.1", "localhost")))


@pytest.fixture(scope="session", autouse=True)
def in_this_process() -> Iterator[None]:
    """A command in the tests' own process waits for no thread: those of other tests would look as if they hang."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "leave", sys.exit)
        yield
