"""One lab with real machines for all tests here, brought up by its own command line and taken down at the end."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest
from real_lab import BASE_VMID, CACHE, Lab, NewMachine, connect, run_lab
from shop import Shop

from thems_jobs.lab.layout import LabLayout


@pytest.fixture(autouse=True)
def _needs_root(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("lab") and os.geteuid() != 0:
        pytest.skip("lab machines need root: mounts, network namespaces, control groups")


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab with a template VM 9100, for all tests together."""
    with a_lab(tmp_path_factory.mktemp("lab")) as lab:
        yield lab


@pytest.fixture
def fresh_lab(tmp_path: Path) -> Iterator[Lab]:
    """A lab of the test's own, without anything that another test made."""
    with a_lab(tmp_path / "lab") as lab:
        yield lab


@contextmanager
def a_lab(directory: Path) -> Iterator[Lab]:
    """Bring up a lab with a template VM 9100, and take it down after use."""
    layout = LabLayout(directory)
    up = run_lab("up", "--dir", directory, "--cache", CACHE)
    assert up.returncode == 0, up.stderr
    try:
        lab = Lab(layout, connect(layout))
        key = layout.ssh_key.with_suffix(".pub").read_text().strip()
        config: dict[str, str | int] = {
            "vmid": BASE_VMID, "name": "base", "memory": 512, "cores": 1, "agent": 1, "ciuser": "thems",
            "scsi0": "shared:0,import-from=local:import/debian-12.qcow2", "ide2": "shared:cloudinit",
            "net0": "virtio,bridge=vmbr0", "sshkeys": quote(key, safe=""),
        }  # fmt: skip
        lab.client.finish(lab.client.call("POST", "/nodes/pve1/qemu", **config))
        lab.client.finish(lab.client.call("POST", f"/nodes/pve1/qemu/{BASE_VMID}/template"))
        yield lab
    finally:
        for file in layout.directory.glob("known-*"):
            file.unlink()
        down = run_lab("down", "--dir", directory)
        assert down.returncode == 0, down.stderr


@pytest.fixture
def new_machine(lab: Lab) -> Iterator[NewMachine]:
    """Makes linked clones of the template (or of what is given) and removes them after the test."""
    made = NewMachine(lab)
    yield made
    for machine in reversed(made.machines):
        lab.remove(machine)


@pytest.fixture(scope="session")
def provisioned(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """The lab's platform, provisioned once. THEMS_TEST_LAB names the folder of one that is up already."""
    folder = tmp_path_factory.mktemp("shop")
    if up := os.environ.get("THEMS_TEST_LAB"):
        layout = LabLayout(Path(up))
        return Shop(layout, connect(layout), folder)
    lab: Lab = request.getfixturevalue("lab")
    shop = Shop(lab.layout, lab.client, folder)
    for tier in ("balancer", "web"):
        shop.run("template", "build", tier, "--yes")
    shop.run("provision", "--yes")
    return shop


@pytest.fixture
def shop(provisioned: Shop) -> Iterator[Shop]:
    """The provisioned platform with two web machines and nothing wrong, whatever the test before left."""
    try:
        provisioned.expect_settled(web=2)
    except AssertionError as trouble:
        print(f"mending what an earlier test left: {trouble}")
        provisioned.recover()
        provisioned.expect_settled(web=2)
    yield provisioned
    provisioned.end_runs()
