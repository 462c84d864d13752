"""Installing Debian's packages starts no service, and leaves the host's own rule for that as it was."""

import os
import subprocess
from pathlib import Path

import pytest

from thems_jobs import resources

pytestmark = pytest.mark.lab

SCRIPT = resources.path("bootstrap", "debian-packages.sh")
POLICY = "/usr/sbin/policy-rc.d"
OWN = "#!/bin/sh\\nexit 104\\n"  # what this host says, in words of its own

APT = """#!/bin/sh
# apt as far as it matters here: it asks whether a service may be started.
{policy} apache2 start >>{said} 2>&1
echo "$1 $2: $?" >>{said}
{end}
"""


def install(folder: Path, host: str | None, end: str = ":") -> tuple[list[str], str]:
    """Install a package that is missing, by a pretended apt, on a host with such a policy; "" means none, and None the
    one that the last run left. Return what apt was told, by line, and the policy afterwards.

    /usr/sbin is a layer of our own.
    """
    said, above, work, apt = folder / "said", folder / "above", folder / "work", folder / "bin" / "apt-get"
    for made in (above, work, apt.parent):
        made.mkdir(exist_ok=True)
    apt.write_text(APT.format(policy=POLICY, said=said, end=end))
    apt.chmod(0o755)
    said.write_text("")
    before = f"printf '{host}' >{POLICY}; chmod 755 {POLICY};" if host else f"rm -f {POLICY};" if host == "" else ""
    script = (
        f"mount -t overlay -o lowerdir=/usr/sbin,upperdir={above},workdir={work} overlay /usr/sbin && {before}"
        f"sh {SCRIPT} no-such-package; cat {POLICY} 2>/dev/null; true"
    )
    command = ["unshare", "--mount", "sh", "-c", script]
    environment = {**os.environ, "PATH": f"{apt.parent}:{os.environ['PATH']}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return said.read_text().splitlines(), done.stdout


@pytest.mark.parametrize("host", ["", OWN], ids=["no policy", "one of its own"])
def test_no_service_may_be_started_meanwhile(tmp_path: Path, host: str) -> None:
    told, left = install(tmp_path, host)
    assert told == ["-q update: 101", "-q -y: 101"]
    assert left == host.replace("\\n", "\n")


@pytest.mark.parametrize("host", ["", OWN], ids=["no policy", "one of its own"])
def test_what_a_killed_run_left_goes_with_the_next(tmp_path: Path, host: str) -> None:
    _, left = install(tmp_path, host, end="kill -KILL $PPID")
    assert "exit 101" in left, "nothing was left: nothing is tested"
    told, left = install(tmp_path, None)
    assert told == ["-q update: 101", "-q -y: 101"]
    assert left == host.replace("\\n", "\n")
