"""The same questions to the model world and to the lab's API through the real client: the model must not be kinder.

What is asked is what the planners and the runner rest on: ids, locks, digests, tasks, power, the agent, the record.
"""

import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "clients"))
from clock import VirtualClock
from lab_api import TEMPLATE, TOKEN_USER, Lab, make_certificates, running_lab
from schedules import make_platform
from session import ProxmoxOfRun, Session
from world import Vm, World

from thems_jobs.clients.proxmox import Proxmox, Task, VmRow
from thems_jobs.core.facts import Phase, Stamp, TemplateImage
from thems_jobs.core.identity import read_stamp, write_stamp
from thems_jobs.core.platform import Proxmox as Settings
from thems_jobs.core.record import Claim, Lease, Record, with_claim
from thems_jobs.errors import EffectFailed, Refused, Transient
from waiting import eventually

T = TypeVar("T")
RECORD, NEW, HOST_KEY = 1000, 1101, "/etc/ssh/ssh_host_ed25519_key.pub"
STAMP = write_stamp(Stamp("shop", "shop-web-1", NEW, "web", Phase.BUILDING))


@dataclass
class Subject:
    """A cluster with a template, a pool and a record VM, and how time passes there."""

    proxmox: Any  # Proxmox, or what the simulation has in its place
    image: TemplateImage
    wait: Callable[[float], None]
    make_foreign: Callable[[int], None]

    def until(self, check: Callable[[], T], message: str) -> T:
        """Let time pass until a check is true."""

        def look() -> T:
            self.wait(0.5)
            return check()

        return eventually(look, message, 30)

    def ended(self, upid: str) -> Task:
        return self.until(lambda: task if (task := self.proxmox.task(upid)).ended_at is not None else None, upid)

    def begin_clone(self, vmid: int = NEW, name: str = "shop-web-1") -> str:
        return str(self.proxmox.clone(
            self.image, vmid=vmid, name=name, pool="shop", description=STAMP, target_node=self.image.node
        ))  # fmt: skip

    def clone(self) -> None:
        assert self.ended(self.begin_clone()).error == ""

    def configure(self, **options: str | int) -> None:
        config = self.proxmox.config("pve1", NEW)
        self.proxmox.configure("pve1", NEW, config.digest, options)

    def start(self) -> None:
        self.configure(ipconfig0="ip=10.77.1.11/16")
        assert self.ended(self.proxmox.start("pve1", NEW)).error == ""

    def row(self, vmid: int = NEW) -> VmRow | None:
        return next((row for row in self.proxmox.resources().vms if row.vmid == vmid), None)


def model() -> Subject:
    chance = random.Random(5)
    clock = VirtualClock(chance)
    platform = make_platform(chance)
    platform = replace(platform, proxmox=replace(platform.proxmox, record_vmid=RECORD, nodes=("pve1", "pve2")))
    world = World(platform, clock, chance)
    long_ago = clock.now() - 86400
    world.vms[900] = Vm(900, "debian", "pve1", "shop", template=True, created_at=long_ago)
    world.vms[RECORD] = Vm(RECORD, "shop-record", "pve1", "shop", created_at=long_ago)

    def make_foreign(vmid: int) -> None:
        world.vms[vmid] = Vm(vmid, "postgres", "pve1", created_at=long_ago)

    image = TemplateImage("debian", 900, "pve1", long_ago)
    return Subject(ProxmoxOfRun(Session(world, chance)), image, clock.pass_by, make_foreign)


def lab_subject(lab: Lab) -> Subject:
    (lab.directory / "token").chmod(0o600)
    lab.root.access.acl.put(path="/", roles="PVEAuditor", users=TOKEN_USER, tokens=f"{TOKEN_USER}!jobs")
    qemu = lab.root.nodes("pve1").qemu
    assert lab.ended(qemu.post(vmid=RECORD, name="shop-record", memory=16, pool="shop")) == "OK"
    settings = Settings((f"https://127.0.0.1:{lab.port}",), f"{TOKEN_USER}!jobs", "token", "shop", RECORD,
                        ("pve1", "pve2"), "ca.pem")  # fmt: skip

    def make_foreign(vmid: int) -> None:
        assert lab.ended(qemu.post(vmid=vmid, name="postgres", memory=16)) == "OK"

    image = TemplateImage("debian-12", TEMPLATE, "pve1", 0.0)
    return Subject(Proxmox(settings, "shop", lab.directory, 10.0), image, lambda _seconds: None, make_foreign)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(params=["model", "lab"])
def subject(request: pytest.FixtureRequest, tmp_path: Path, certificates: Path) -> Iterator[Subject]:
    if request.param == "model":
        yield model()
        return
    with running_lab(tmp_path, certificates) as lab:
        lab.template()
        yield lab_subject(lab)


def test_a_clone_is_there_at_once_locked_and_joins_its_pool_last(subject: Subject) -> None:
    upid = subject.begin_clone()
    row = subject.until(subject.row, "the clone is listed")
    assert row is not None
    assert not row.template
    subject.ended(upid)
    config, row = subject.proxmox.config("pve1", NEW), subject.row()
    assert (config.name, config.lock, config.description) == ("shop-web-1", "", STAMP)
    assert read_stamp(config.description) == read_stamp(STAMP)
    assert row is not None
    assert row.pool == "shop"
    assert not subject.proxmox.running("pve1", NEW)


def why_not(begin: Callable[[], str], ended: Callable[[str], Task]) -> str:
    """Given how a clone begins and how its task ends, return why it failed, whichever of them said so."""
    try:
        return ended(begin()).error
    except EffectFailed as refused:
        return f"{refused.reference}: {refused.detail}"


def test_an_id_that_is_taken_is_said_to_be_taken_in_either_form(subject: Subject) -> None:
    subject.make_foreign(NEW)
    for _ in range(4):
        assert "config file already exists" in why_not(subject.begin_clone, subject.ended)
    assert subject.proxmox.config("pve1", NEW).name == "postgres"


def test_what_is_not_there_is_none(subject: Subject) -> None:
    assert subject.proxmox.config("pve1", NEW) is None
    assert not subject.proxmox.running("pve1", NEW)
    assert subject.row() is None
    assert subject.proxmox.destroy("pve1", NEW) == ""


def test_a_change_needs_the_newest_digest(subject: Subject) -> None:
    subject.clone()
    old = subject.proxmox.config("pve1", NEW)
    subject.proxmox.configure("pve1", NEW, old.digest, {"tags": "thems;tier-web", "protection": 1})
    new = subject.proxmox.config("pve1", NEW)
    assert new.digest != old.digest
    assert set(new.tags) == {"thems", "tier-web"}
    assert new.protection
    with pytest.raises(Transient):
        subject.proxmox.configure("pve1", NEW, old.digest, {"tags": "thems"})
    assert set(subject.proxmox.config("pve1", NEW).tags) == {"thems", "tier-web"}


def test_a_started_machine_runs_and_tells_its_host_key(subject: Subject) -> None:
    subject.clone()
    subject.start()
    assert subject.proxmox.running("pve1", NEW)
    key = subject.until(lambda: subject.proxmox.agent_read("pve1", NEW, HOST_KEY), "the agent answers")
    assert key.startswith("ssh-ed25519 ")
    assert key == subject.proxmox.agent_read("pve1", NEW, HOST_KEY)


def test_a_second_start_fails_in_its_task(subject: Subject) -> None:
    subject.clone()
    subject.start()
    assert subject.ended(subject.proxmox.start("pve1", NEW)).error == f"VM {NEW} already running"


def test_what_is_not_in_our_pool_is_not_ours_to_touch(subject: Subject) -> None:
    """Rights come with the pool, so what is gone answers as what is somebody else's."""
    for prepare in (lambda: None, lambda: subject.make_foreign(NEW)):
        prepare()
        for touch in (
            lambda: subject.proxmox.start("pve1", NEW),
            lambda: subject.proxmox.shutdown("pve1", NEW, 10),
            lambda: subject.proxmox.agent_read("pve1", NEW, HOST_KEY),
            lambda: subject.proxmox.configure("pve1", NEW, "0" * 40, {"tags": "thems"}),
        ):
            with pytest.raises(Refused, match="Permission check failed"):
                touch()
    with pytest.raises(Refused, match="Permission check failed"):
        subject.proxmox.destroy("pve1", NEW)


def test_a_machine_shuts_down(subject: Subject) -> None:
    subject.clone()
    subject.start()
    subject.until(lambda: subject.proxmox.agent_read("pve1", NEW, HOST_KEY), "the agent answers")
    assert subject.ended(subject.proxmox.shutdown("pve1", NEW, 10)).error == ""
    assert not subject.proxmox.running("pve1", NEW)
    assert subject.proxmox.agent_read("pve1", NEW, HOST_KEY) is None


def test_what_runs_is_not_destroyed(subject: Subject) -> None:
    subject.clone()
    subject.start()
    with pytest.raises(EffectFailed, match="is running - destroy failed"):
        subject.proxmox.destroy("pve1", NEW)


def test_what_is_protected_is_not_destroyed(subject: Subject) -> None:
    subject.clone()
    subject.configure(protection=1)
    with pytest.raises(EffectFailed, match="protection mode enabled"):
        subject.proxmox.destroy("pve1", NEW)
    assert subject.proxmox.config("pve1", NEW) is not None


def test_a_destroyed_machine_is_gone_and_its_id_free(subject: Subject) -> None:
    subject.clone()
    assert subject.ended(subject.proxmox.destroy("pve1", NEW)).error == ""
    assert subject.proxmox.config("pve1", NEW) is None
    subject.until(lambda: subject.row() is None, "it leaves the list")
    subject.clone()


def test_a_locked_machine_cannot_be_configured(subject: Subject) -> None:
    upid = subject.begin_clone()
    config = subject.proxmox.config("pve1", NEW)
    if config is not None and config.lock:
        with pytest.raises((Transient, Refused)):  # locked, or not in our pool yet
            subject.proxmox.configure("pve1", NEW, config.digest, {"tags": "thems"})
    subject.ended(upid)
    subject.configure(tags="thems")


def test_tasks_are_listed_while_and_after_they_run(subject: Subject) -> None:
    upid = subject.begin_clone()
    subject.until(lambda: upid in {task.upid for task in subject.proxmox.tasks()}, "the task is listed")
    assert subject.ended(upid).vmid in (subject.image.vmid, NEW)


def test_the_record_is_changed_by_compare_and_swap(subject: Subject) -> None:
    claim = Claim("show", {"web": 4}, 2e9, "a test")
    assert subject.proxmox.read_record()[0] == Record()
    assert subject.proxmox.change_record(lambda record: with_claim(record, claim)).claims == (claim,)
    rounds = []

    def late(record: Record) -> Record:
        rounds.append(record)
        if len(rounds) == 1:  # somebody else is quicker
            digest = subject.proxmox.config("pve1", RECORD).digest
            subject.proxmox.configure("pve1", RECORD, digest, {"tags": "quicker"})
        return replace(record, lease=Lease("token", "holder", 1.0))

    assert subject.proxmox.change_record(late).lease == Lease("token", "holder", 1.0)
    assert len(rounds) == 2
    assert subject.proxmox.read_record()[0] == Record(Lease("token", "holder", 1.0), (claim,))


def test_a_record_that_somebody_wrote_over_is_refused(subject: Subject) -> None:
    digest = subject.proxmox.config("pve1", RECORD).digest
    subject.proxmox.configure("pve1", RECORD, digest, {"description": "please do not delete"})
    with pytest.raises(Refused, match="record"):
        subject.proxmox.read_record()
    with pytest.raises(Refused, match="record"):
        subject.proxmox.change_record(lambda record: record)


def test_nodes_and_storages_are_seen(subject: Subject) -> None:
    seen = subject.proxmox.resources()
    assert set(seen.nodes) == {"pve1", "pve2"}
    assert all(node.online and node.memory_mib > 0 and node.cores > 0 for node in seen.nodes.values())
    assert {s.node for s in seen.storages if s.name == "shared" and s.shared and s.active} == {"pve1", "pve2"}
    assert subject.proxmox.quorate()
