"""A template made of real machines, by runs of which all but the last are killed."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from real_lab import Lab

from waiting import eventually

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.timeout(900)]


def build(lab: Lab, log: Path) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-c",
        "from thems_jobs.cli import main; main()",
        "template",
        "build",
        "balancer",
        "--yes",
    ]
    with log.open("wb") as out:
        return subprocess.Popen(
            [*command, "--platform", str(lab.layout.directory / "platform.yaml")], stdout=out, stderr=out
        )


def test_a_build_that_is_killed_again_and_again_ends_with_one_template(fresh_lab: Lab, tmp_path: Path) -> None:
    lab = fresh_lab  # nobody else may have built the template
    for number, (line, how) in enumerate([("create ok", signal.SIGKILL), ("await-boot ok", signal.SIGTERM)]):
        log = tmp_path / f"{number}.log"
        run = build(lab, log)
        eventually(lambda log=log, line=line: line in log.read_text(), f"a run comes to {line}", 60)  # type: ignore[misc]
        run.send_signal(how)
        assert run.wait(20) == (-9 if how is signal.SIGKILL else 143), log.read_text()
    last = tmp_path / "last.log"
    assert build(lab, last).wait(280) == 0, last.read_text()
    assert "convert ok" in last.read_text()
    vms = [vm["vmid"] for vm in lab.client.call("GET", "/nodes/pve1/qemu") if vm.get("name") == "shop-balancer"]
    assert vms == [9010]
    assert lab.client.call("GET", "/nodes/pve1/qemu/9010/config")["template"] == 1  # the list says so later
    again = tmp_path / "again.log"
    assert build(lab, again).wait(60) == 0
    assert "Nothing to do" in again.read_text()
    pair = [lab.clone(9010, f"from-template-{number}").boot() for number in (1, 2)]
    try:
        assert all(machine.says("cat /etc/thems-baked").startswith("balancer ") for machine in pair)
        for secret in ("/etc/machine-id", "/etc/ssh/ssh_host_ed25519_key.pub"):
            assert len({machine.read(secret) for machine in pair}) == 2
    finally:
        for machine in pair:
            lab.remove(machine)
