"""A provisioned shop on the tests' lab: worked on through the command line as an operator would, judged past it."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from real_lab import lab_command

from thems_jobs.lab import faults
from thems_jobs.lab.client import RootClient
from thems_jobs.lab.errors import LabError
from thems_jobs.lab.hypervisor import HOST_KEY_PATH
from thems_jobs.lab.layout import LabLayout
from waiting import eventually

POOL, RECORD, OUR_IDS = "shop", 9000, range(1000, 1200)
BALANCERS = ("shop-balancer-1", "shop-balancer-2")
MARK = "THEMS_TEST_RUN"  # in the environment of a run and of all that it starts
RUN_S = 480  # no run of these tests takes so long, on two busy cores
STOP_S = 20  # Jenkins kills what has not ended so long after SIGTERM
SETTLE_S = 20  # the list of all VMs lags by 10 s, a server leaves a table when its last request has ended

_STEP = re.compile(r"\d\d:\d\d:\d\d (\S+) (\S+) (ok|failed|aborted), ")


def later(hours: float) -> str:
    """Return a time from now as --until takes it."""
    return (datetime.now(UTC) + timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%MZ")


@dataclass
class Run:
    """A `thems-jobs` under way or over. `steps` are those that ended, as (action, target), in that order."""

    arguments: tuple[str, ...]
    process: subprocess.Popen[str]
    mark: str
    report_dir: Path | None
    on_step: Callable[["Run"], None]
    errors: list[str] = field(default_factory=list)
    output: str = ""
    steps: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._threads = [threading.Thread(target=read, daemon=True) for read in (self._read_errors, self._read_output)]
        for thread in self._threads:
            thread.start()

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.errors.append(line)
            if step := _STEP.match(line):
                self.steps.append((step[2], step[1]))
                self.on_step(self)

    def _read_output(self) -> None:
        assert self.process.stdout is not None
        self.output = self.process.stdout.read()

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process itself, not to what it started: as Jenkins, or the kernel, would."""
        with suppress(ProcessLookupError):
            os.kill(self.process.pid, number)

    def wait(self, within_s: float = RUN_S) -> "Run":
        """Wait for its end. Whatever happened: a person never gets a traceback, nor is told of a bug."""
        try:
            self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"not over after {within_s:g} s: {self}") from None
        for thread in self._threads:
            thread.join(5)  # a connection kept open by ssh may hold the pipe
        assert "Traceback" not in self.said, self
        assert self.code != 1, self
        return self

    @property
    def code(self) -> int:
        """Its exit code, as a shell would tell it."""
        assert self.process.returncode is not None
        return self.process.returncode

    @property
    def said(self) -> str:
        """All that it printed."""
        return "".join(self.errors) + self.output

    @property
    def report(self) -> dict[str, Any]:
        """The report.json it left."""
        assert self.report_dir is not None
        report: dict[str, Any] = json.loads((self.report_dir / "report.json").read_text())
        return report

    def let_run(self, seconds: float) -> "Run":
        """Return after so many seconds, or when it is over: where the moment itself is what is tested."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        return self

    def until_step(self, action: str, target: str = "", within_s: float = 120) -> "Run":
        """Wait until such a step has ended."""

        eventually(
            lambda: self._has(action, target) or self.process.poll() is not None, f"no {action} {target}", within_s
        )
        assert self._has(action, target), f"over too soon: {self.wait()}"
        return self

    def _has(self, action: str, target: str) -> bool:
        return any(done == action and target in ("", of) for done, of in self.steps)

    def processes(self) -> dict[int, str]:
        """Return all living processes that it started, itself included: id and command line."""
        found = {}
        for environment in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                if f"{MARK}={self.mark}".encode() in environment.read_bytes():
                    line = environment.with_name("cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    if line:  # a zombie has none
                        found[int(environment.parent.name)] = line
        return found

    def __str__(self) -> str:
        return f"thems-jobs {' '.join(self.arguments)} ended with {self.process.returncode}:\n{self.said}"


def kill_when(due: Callable[[Run], bool]) -> Callable[[Run], None]:
    """Return what kills a run, at the end of a step, when it is due."""

    def look(run: Run) -> None:
        if due(run):
            run.send(signal.SIGKILL)

    return look


def kill_in_turn(start: Callable[[Callable[[Run], None]], Run], every_step: bool = False) -> set[tuple[str, str]]:
    """Given what starts a run, kill it after each kind of step in turn until one comes to its end.

    With `every_step`, kill it after each step of each machine. Return the steps, as (action, target).
    """
    seen: set[tuple[str, str]] = set()

    def is_new(run: Run) -> bool:
        action, target = run.steps[-1]
        new = (action, target) not in seen if every_step else action not in {known for known, _ in seen}
        seen.add((action, target))
        return new

    while (run := start(kill_when(is_new)).wait()).code == -signal.SIGKILL:
        pass
    assert run.code == 0, str(run)
    return seen


@dataclass(frozen=True)
class Vm:
    """A VM of the lab as its configuration tells."""

    vmid: int
    node: str
    name: str
    listed_as: str  # its name in the list of all VMs, which lags
    pool: str
    address: str
    tags: frozenset[str]
    status: str
    template: bool
    digest: str
    config: Mapping[str, Any]


@dataclass
class Shop:
    """The platform under test."""

    layout: LabLayout
    client: RootClient
    folder: Path  # for platform files and reports
    foreign: dict[int, str] = field(default_factory=dict)  # digests of VMs that nobody of us may touch
    runs: list[Run] = field(default_factory=list)  # of the test that goes on

    # The operator

    def start(
        self,
        *arguments: str,
        platform: Path | None = None,
        on_step: Callable[[Run], None] = lambda _: None,
        before: tuple[str, ...] = (),
    ) -> Run:
        """Start `thems-jobs …` with a report folder of its own. `before` is what to start it by, such as unshare."""
        mark = uuid.uuid4().hex
        command = [*before, str(Path(sys.executable).with_name("thems-jobs")), *arguments]
        report_dir = None
        if arguments[0] in ("provision", "scale", "galera-health", "galera-recover"):
            report_dir = self.folder / mark
            command += ["--report-dir", str(report_dir)]
        environment = {**os.environ, MARK: mark, "THEMS_PLATFORM": str(platform or self.layout.platform)}
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, errors="replace", start_new_session=True,
        )  # fmt: skip
        run = Run(arguments, process, mark, report_dir, on_step)
        self.runs.append(run)
        return run

    def run(self, *arguments: str, platform: Path | None = None, exit_code: int = 0) -> Run:
        """Run `thems-jobs …` to its end, which must be of this code."""
        run = self.start(*arguments, platform=platform).wait()
        assert run.code == exit_code, f"exit {exit_code} expected\n{run}"
        return run

    def end_runs(self) -> None:
        """End whatever a test started and did not wait for."""
        for run in self.runs:
            if run.process.poll() is None:
                run.process.kill()
                run.process.wait()
        self.runs.clear()

    def platform_with(self, *, reach: bool = True, ca_file: Path | None = None, **timeouts: float) -> Path:
        """Return a platform file like the lab's with other timeouts, another authority for the API, or for a process
        that is in the lab's network already."""
        document = yaml.safe_load(self.layout.platform.read_text())
        document["timeouts"].update(timeouts)
        home = self.layout.directory
        document["proxmox"].update(token_file=str(home / "token"), ca_file=str(ca_file or home / "ca.pem"))
        document["reach"]["netns"] = str(home / "netns") if reach else None
        document["ssh"]["key_file"] = str(home / "ssh_key")
        path = self.folder / f"platform-{uuid.uuid4().hex}.yaml"
        path.write_text(yaml.safe_dump(document))
        return path

    def scale_to(self, web: int, platform: Path | None = None) -> Run:
        """Scale the web tier as an event would, or back to the baseline of two by its end."""
        wish = ("--end", "test") if web == 2 else ("--tier", f"web={web}", "--event", "test", "--until", later(2))
        return self.run("scale", *wish, "--yes", platform=platform)

    def recover(self) -> None:
        """Whatever a failed test left: no faults, and back to two web machines."""
        self.fault(do="clear")
        for vm in self.vms():
            if vm.config.get("lock") == "clone":
                self.unlock_and_destroy(vm)
            if vm.pool == POOL and vm.status == "running":
                self.fault(do="freeze", vm=vm.vmid, frozen=False)
                self.fault(do="cut", vm=vm.vmid, cut=False)
        for arguments in (("provision", "--yes"), ("scale", "--end", "test", "--yes")):
            eventually(partial(self._succeeds, *arguments), f"{arguments} does not recover", 180)

    def _succeeds(self, *arguments: str) -> bool:
        run = self.start(*arguments).wait()
        assert run.code == 0, run
        return True

    def fault(self, **command: Any) -> None:
        """Arm a fault, or make something happen that is nobody's intention, as `thems-jobs lab fault` does."""
        faults.ask(self.layout.control, command)

    # Past the product: the API as root, the machines by ssh

    def vms(self) -> list[Vm]:
        """Return every VM of the lab; one that disappears meanwhile is not among them."""
        found = []
        for row in self.client.call("GET", "/cluster/resources", type="vm"):
            path = f"/nodes/{row['node']}/qemu/{row['vmid']}"
            with suppress(LabError):
                config = self.client.call("GET", f"{path}/config")
                status = self.client.call("GET", f"{path}/status/current")["status"]
                address = re.search(r"ip=([0-9.]+)", config.get("ipconfig0", ""))
                found.append(
                    Vm(
                        int(row["vmid"]), row["node"], config.get("name", ""), row.get("name", ""), row.get("pool", ""),
                        address[1] if address else "", frozenset(config.get("tags", "").split(";")), status,
                        bool(config.get("template")), config["digest"], config,
                    )
                )  # fmt: skip
        return found

    def vm(self, name: str) -> Vm | None:
        """Return the VM of our pool with this name."""
        return next((vm for vm in self.vms() if vm.pool == POOL and vm.name == name), None)

    def tier(self, tier: str) -> list[Vm]:
        """Return the machines of a tier, in order of their names."""
        wanted = f"tier-{tier}"
        return sorted((vm for vm in self.vms() if vm.pool == POOL and wanted in vm.tags), key=lambda vm: vm.name)

    def ssh(self, vm: Vm, *command: str) -> str:
        """Run a command on a machine as the operators' user, its host key known through the guest agent."""
        key = self.client.call("GET", f"/nodes/{vm.node}/qemu/{vm.vmid}/agent/file-read", file=HOST_KEY_PATH)
        known = self.folder / f"known-{uuid.uuid4().hex}"
        known.write_text(f"{vm.address} {' '.join(key['content'].split()[:2])}\n")
        login = [
            "nsenter", f"--net={self.layout.netns}", "ssh", "-F", "none", "-i", str(self.layout.ssh_key),
            "-o", "StrictHostKeyChecking=yes", "-o", f"UserKnownHostsFile={known}", "-o", "ConnectTimeout=5",
            f"thems@{vm.address}", *command,
        ]  # fmt: skip
        done = subprocess.run(login, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, f"{vm.name}: {command}: {done.stderr}"
        return done.stdout

    def table(self, balancer: Vm) -> dict[str, Any]:
        """Return what a balancer tells of itself."""
        view: dict[str, Any] = json.loads(self.ssh(balancer, "sudo", "thems-balancer", "show"))
        return view

    def record(self) -> dict[str, Any]:
        """Return what the platform's record holds."""
        text = str(next(vm for vm in self.vms() if vm.vmid == RECORD).config.get("description", ""))
        record: dict[str, Any] = json.loads(text[text.index("{") :])
        return record

    def plant(self, vmid: int, name: str, **more: str) -> None:
        """Make a VM of somebody else, to be found as it was at every later look."""
        self.fault(do="foreign-vm", vmid=vmid, name=name, **more)
        self.foreign[vmid] = next(vm for vm in self.vms() if vm.vmid == vmid).digest

    def uproot(self, vmid: int) -> None:
        """Remove a VM of somebody else again."""
        vm = next(vm for vm in self.vms() if vm.vmid == vmid)
        assert vm.digest == self.foreign.pop(vmid)
        self.client.finish(self.client.call("DELETE", f"/nodes/{vm.node}/qemu/{vmid}?purge=1"))

    def unlock_and_destroy(self, vm: Vm) -> None:
        """Do what only root may: remove a VM that a lost task left locked."""
        path = f"/nodes/{vm.node}/qemu/{vm.vmid}"
        self.client.call("PUT", f"{path}/config", delete="lock", skiplock=1)
        self.client.finish(self.client.call("DELETE", f"{path}?purge=1"))

    def expect_settled(self, web: int) -> None:
        """Hold the whole platform against what it must be with so many web machines and nothing half-made."""
        eventually(lambda: self._settled(web), f"the platform is not as it must be with {web} web machines", SETTLE_S)

    def _settled(self, web: int) -> bool:
        vms = self.vms()
        ours = [vm for vm in vms if vm.pool == POOL and not vm.template and vm.vmid != RECORD]
        machines = {vm.name: vm for vm in ours}
        serving = [vm.name for vm in ours if "phase-serving" in vm.tags]
        tiers = Counter(next((tag for tag in vm.tags if tag.startswith("tier-")), "no tier") for vm in ours)
        assert tiers == {"tier-web": web, "tier-balancer": 2}, f"machines in the pool: {sorted(machines)}"
        assert len(serving) == len(ours) == len(machines), (
            f"half-made, or two of one name: {sorted(vm.name for vm in ours)}"
        )
        assert all(vm.status == "running" and not vm.config.get("lock") for vm in ours), ours
        addresses = Counter(vm.address for vm in vms if vm.address)
        assert set(addresses.values()) == {1}, f"one address on two machines: {addresses}"
        wanted = {vm.name: (f"{vm.address}:80", 100, "up") for vm in ours if "tier-web" in vm.tags}
        views = [self.table(vm) for vm in ours if "tier-balancer" in vm.tags]
        for view in views:
            seen = {name: (s["address"], s["weight"], s["state"]) for name, s in view["servers"].items()}
            listed = {name: (s["address"], s["weight"], "up") for name, s in view["list"].items()}
            assert seen == wanted, f"what a balancer does: {seen}, not {wanted}"
            assert listed == wanted, f"what a balancer starts from: {listed}, not {wanted}"
        assert sum(bool(view["holds"]) for view in views) == 1, f"the address is held by {[v['holds'] for v in views]}"
        record = self.record()
        assert not {"lease", "intents", "approved"} & set(record), f"left in the record: {record}"
        stray = [vm for vm in vms if vm.pool != POOL and vm.vmid in OUR_IDS and vm.vmid not in self.foreign]
        assert not stray, f"half-made, outside the pool: {stray}"
        volumes = self.client.call("GET", "/nodes/pve1/storage/shared/content")
        orphans = {int(volume["vmid"]) for volume in volumes if volume.get("vmid")} - {vm.vmid for vm in vms}
        assert not orphans, f"disks without a machine: {orphans}"
        self.expect_foreign_untouched(vms)
        return True

    def expect_foreign_untouched(self, vms: list[Vm] | None = None) -> None:
        """Hold every VM of somebody else against what it was when it was planted."""
        digests = {vm.vmid: vm.digest for vm in (vms or self.vms()) if vm.vmid in self.foreign}
        assert digests == self.foreign, "a VM of somebody else was touched"


@dataclass
class Visitors:
    """A crowd in the shop, by the lab's own command."""

    process: subprocess.Popen[str]
    report: Path

    @classmethod
    def enter(cls, shop: Shop, count: int, slow: int) -> "Visitors":
        """Let so many in, and so many on a page that takes 10 s; return once they are being served."""
        report = shop.folder / f"visitors-{uuid.uuid4().hex}.json"
        command = lab_command(
            "visitors", "--count", str(count), "--slow-count", str(slow), "--report", report,
            "--dir", shop.layout.directory,
        )  # fmt: skip
        visitors = cls(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True), report)
        eventually(lambda: visitors.seen()["requests"] > count, "no visitor is served", 20)
        return visitors

    def seen(self) -> dict[str, Any]:
        """Return what they have seen so far."""
        summary: dict[str, Any] = json.loads(self.report.read_text())
        return summary

    def leave(self) -> dict[str, Any]:
        """Let them finish what they began; return what they saw."""
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=90)
        return self.seen()
