"""`lab up` and `lab down`: nothing is left, whatever happened in between, and nothing foreign is touched."""

import os
import signal
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from real_lab import CACHE, connect, lab_command, run_lab

from thems_jobs.lab.cgroups import find_trees
from thems_jobs.lab.client import RootClient
from thems_jobs.lab.errors import LabError
from thems_jobs.lab.layout import LabLayout
from thems_jobs.lab.process import read_process
from waiting import eventually

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

# Where the lab's tools (nspawn, ip netns, apt ...) would leave things on the host if they ran outside.
HOST_TRACES = (
    "run/systemd/nspawn/*", "run/netns/*", "run/lab/*", "var/lib/machines/*",
    "tmp/nspawn*", "tmp/mmdebstrap*", "tmp/apt-*", "tmp/thems-lab*",
)  # fmt: skip


@pytest.fixture
def layout(tmp_path: Path) -> Iterator[LabLayout]:
    """A folder for a lab, which is taken down after the test in any case."""
    layout = LabLayout(tmp_path / "lab")
    yield layout
    run_lab("down", "--dir", layout.directory)


def up(layout: LabLayout) -> subprocess.CompletedProcess[str]:
    """Bring it up with the shared template."""
    return run_lab("up", "--dir", layout.directory, "--cache", CACHE)


def world_pid(layout: LabLayout) -> int:
    """Return the lab's first process."""
    process = read_process(layout.process)
    assert process is not None
    return process.pid


def lab_processes(layout: LabLayout) -> list[int]:
    """Return the processes in the lab's control groups, and the one above them."""
    inside = list[int]()
    for folder, _, _ in os.walk(find_trees().unified / layout.group):  # a machine that boots makes and removes groups
        with suppress(OSError):
            inside += [int(pid) for pid in (Path(folder) / "cgroup.procs").read_text().split()]
    return [*inside, world_pid(layout)]


def namespaces(pids: list[int]) -> set[str]:
    """Return the namespaces of these processes that are not ours."""
    kinds = ("net", "mnt", "pid", "uts", "ipc")
    own = {str(Path(f"/proc/self/ns/{kind}").readlink()) for kind in kinds}
    return _links([Path(f"/proc/{pid}/ns/{kind}") for pid in pids for kind in kinds]) - own


def namespaces_of(pids: set[str]) -> set[str]:
    """Return the namespaces that these processes are in."""
    return _links([path for pid in pids for path in Path(f"/proc/{pid}/ns").glob("*")])


def all_processes() -> set[str]:
    """Return every process of this machine."""
    return {path.name for path in Path("/proc").glob("[0-9]*")}


def _links(paths: Iterable[Path]) -> set[str]:
    """Return where these links of /proc lead; a process that ends meanwhile has none."""
    found = set()
    for path in paths:
        with suppress(OSError):
            found.add(str(path.readlink()))
    return found


def host_state() -> dict[str, object]:
    """Return what a lab could leave on the host outside its folder: mounts and files of its tools."""
    files = sorted(str(path) for pattern in HOST_TRACES for path in Path("/").glob(pattern))
    return {"mounts": Path("/proc/self/mounts").read_text(), "files": files}


def boot_two_machines(layout: LabLayout) -> None:
    """Boot two machines without cloud-init data from the image."""
    client = connect(layout)
    for vmid in (100, 101):
        options = {"scsi0": "shared:0,import-from=local:import/debian-12.qcow2", "net0": "virtio,bridge=vmbr0"}
        client.finish(client.call("POST", "/nodes/pve1/qemu", vmid=vmid, memory=512, start=1, agent=1, **options))

        def running(vmid: int = vmid) -> bool:
            return bool(client.call("GET", f"/nodes/pve1/qemu/{vmid}/status/current")["status"] == "running")

        eventually(running, f"VM {vmid} does not run", within_s=30)


def assert_nothing_is_left(
    layout: LabLayout, pids: list[int], theirs: set[str], older: set[str], before: dict[str, object]
) -> None:
    """Check processes, namespaces, mounts, control groups and files.

    A namespace that is gone leaves its number to the next one: only processes that were there before can be in it.
    """
    # dead at once; gone when this host's own first process has collected them
    eventually(lambda: not [pid for pid in pids if Path(f"/proc/{pid}").exists()], "processes are left", within_s=10)
    assert not theirs & namespaces_of(older)
    trees = find_trees()
    assert not (trees.unified / layout.group).exists()
    assert trees.v1_memory is None or not (trees.v1_memory / layout.group).exists()
    assert host_state() == before
    assert not layout.directory.exists()


def test_down_leaves_nothing_of_a_lab_with_machines(layout: LabLayout) -> None:
    before = host_state()
    assert up(layout).returncode == 0
    boot_two_machines(layout)
    eventually(lambda: len(lab_processes(layout)) > 10, "hardly any process runs in the lab", within_s=60)
    pids = lab_processes(layout)
    theirs, older = namespaces(pids), all_processes()
    assert len(theirs) > 10
    down = run_lab("down", "--dir", layout.directory)
    assert (down.returncode, down.stderr) == (0, "")
    assert_nothing_is_left(layout, pids, theirs, older, before)
    again = run_lab("down", "--dir", layout.directory)
    assert again.returncode == 0
    assert "There is no lab" in again.stdout


@pytest.mark.parametrize("below_unshare", [False, True])
def test_a_killed_lab_takes_everything_with_it(layout: LabLayout, below_unshare: bool) -> None:
    before = host_state()
    assert up(layout).returncode == 0
    boot_two_machines(layout)
    pids = lab_processes(layout)
    theirs, older = namespaces(pids), all_processes()
    victim = world_pid(layout)
    if below_unshare:
        victim = int(Path(f"/proc/{victim}/task/{victim}/children").read_text().split()[0])
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: not [p for p in pids if Path(f"/proc/{p}").exists()], "processes are left", within_s=10)
    status = run_lab("status", "--dir", layout.directory)
    assert status.returncode == 4
    assert "no lab is up" in status.stderr
    assert run_lab("down", "--dir", layout.directory).returncode == 0
    assert_nothing_is_left(layout, pids, theirs, older, before)


def test_up_after_a_kill_starts_afresh(layout: LabLayout) -> None:
    assert up(layout).returncode == 0
    first = world_pid(layout)
    os.kill(first, signal.SIGKILL)
    eventually(lambda: not Path(f"/proc/{first}").exists(), "it lives", within_s=10)
    again = up(layout)
    assert again.returncode == 0, again.stderr
    assert "remains of a lab" in again.stderr
    assert world_pid(layout) != first
    assert connect(layout).call("GET", "/version")["version"].startswith("9.")


def test_up_twice_changes_nothing(layout: LabLayout) -> None:
    assert up(layout).returncode == 0
    token, pid = layout.token.read_text(), world_pid(layout)
    again = up(layout)
    assert again.returncode == 0
    assert "was up already" in again.stdout
    assert again.stdout.splitlines()[-1] == f"Next: export THEMS_PLATFORM={layout.platform}"
    assert (layout.token.read_text(), world_pid(layout)) == (token, pid)


@pytest.mark.parametrize("phase", ["keys and certificates", "network, API", "pool, role, token"])
def test_up_killed_half_way_can_be_repeated_and_taken_down(layout: LabLayout, phase: str) -> None:
    before = host_state()
    _kill_up_at(layout, CACHE, phase)
    again = up(layout)
    assert again.returncode == 0, again.stderr
    assert connect(layout).call("GET", "/version")["version"].startswith("9.")
    assert run_lab("down", "--dir", layout.directory).returncode == 0
    assert_nothing_is_left(layout, [], set(), set(), before)


@pytest.mark.parametrize("phase", ["keys and certificates", "network, API", "pool, role, token"])
def test_up_killed_half_way_can_be_taken_down_at_once(layout: LabLayout, phase: str) -> None:
    before = host_state()
    _kill_up_at(layout, CACHE, phase)
    assert run_lab("down", "--dir", layout.directory).returncode == 0
    assert_nothing_is_left(layout, [], set(), set(), before)


def test_up_that_is_asked_to_stop_takes_down_what_is_half_up(layout: LabLayout) -> None:
    before = host_state()
    assert _kill_up_at(layout, CACHE, "network, API", signal.SIGTERM) == 143
    assert [path.name for path in layout.directory.iterdir()] == ["lock"]
    assert not (find_trees().unified / layout.group).exists()
    assert host_state() == before


@pytest.mark.slow
def test_a_template_build_that_is_killed_leaves_neither_process_nor_mount(layout: LabLayout) -> None:
    before = host_state()
    _kill_up_at(layout, layout.cache, "extracting archives")
    eventually(lambda: not _processes_naming(layout.cache), "mmdebstrap still runs", within_s=10)
    assert run_lab("down", "--purge", "--dir", layout.directory).returncode == 0
    assert_nothing_is_left(layout, [], set(), set(), before)


def test_two_labs_live_side_by_side(layout: LabLayout, tmp_path: Path) -> None:
    other = LabLayout(tmp_path / "other")
    assert up(layout).returncode == 0
    try:
        assert up(other).returncode == 0
        assert layout.endpoint.read_text() != other.endpoint.read_text()
        assert connect(other).call("GET", "/version")["version"].startswith("9.")
    finally:
        assert run_lab("down", "--dir", other.directory).returncode == 0
    assert connect(layout).call("GET", "/version")["version"].startswith("9.")


def test_a_folder_with_other_things_is_neither_used_nor_emptied(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "token").write_text("somebody else's")
    refused = up(LabLayout(tmp_path))
    assert refused.returncode == 4
    assert "holds other things (state)" in refused.stderr
    down = run_lab("down", "--purge", "--dir", tmp_path)
    assert (down.returncode, "There is no lab" in down.stdout) == (0, True)
    assert {path.name for path in tmp_path.iterdir()} == {"state", "token"}


def test_a_folder_that_cannot_be_mounted_from_is_refused(tmp_path: Path) -> None:
    refused = up(LabLayout(tmp_path / "with, comma"))
    assert refused.returncode == 4
    assert "without blanks, colons, commas" in refused.stderr


def _kill_up_at(layout: LabLayout, cache: Path, phase: str, number: signal.Signals = signal.SIGKILL) -> int:
    """Start `lab up` and signal it, and nothing else, when it reports that phase; return how it ended."""
    command = lab_command("up", "--dir", layout.directory, "--cache", cache)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert any(phase in line for line in process.stderr), f"it never came to {phase!r}"
        process.send_signal(number)
        process.stderr.read()
    return process.returncode


def _processes_naming(path: Path) -> list[str]:
    """Return the command lines in which the path occurs."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = file.read_text()
        except OSError:
            continue
        if str(path) in line and "\0down\0" not in line:
            found.append(line.replace("\0", " "))
    return found


def test_a_lab_on_a_host_with_unified_control_groups_only(layout: LabLayout) -> None:
    # This test's own view of the host: what a hybrid host has in v1 trees is not there. (A unified host: no change.)
    view = 'umount -R /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup && exec "$@"'
    unified = ["unshare", "--mount", "--propagation", "private", "sh", "-c", view, "unified"]
    command = lab_command("up", "--dir", layout.directory, "--cache", CACHE)
    subprocess.run([*unified, *command], check=True, timeout=240)
    boot_two_machines(layout)
    agent = connect(layout)
    eventually(lambda: _pings(agent, 100), "the agent does not answer", within_s=60)
    pids = lab_processes(layout)
    assert len(pids) > 5
    subprocess.run([*unified, *lab_command("down", "--dir", layout.directory)], check=True, timeout=60)
    eventually(lambda: not [pid for pid in pids if Path(f"/proc/{pid}").exists()], "processes are left", within_s=10)
    assert not (find_trees().unified / layout.group).exists()


def _pings(client: RootClient, vmid: int) -> bool:
    try:
        client.call("POST", f"/nodes/pve1/qemu/{vmid}/agent/ping")
    except LabError:
        return False
    return True
