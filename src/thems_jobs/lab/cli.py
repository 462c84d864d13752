"""thems-jobs lab: a whole platform on one Debian machine, for newcomers, tests and rehearsals."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from thems_jobs.lab import faults, network
from thems_jobs.lab import visitors as shop_visitors
from thems_jobs.lab.client import RootClient
from thems_jobs.lab.errors import LabError
from thems_jobs.lab.hypervisor import HOST_KEY_PATH, GuestError
from thems_jobs.lab.layout import DEFAULT_DIRECTORY, LabLayout
from thems_jobs.lab.lifecycle import Wishes, bring_up, endpoint_of, take_down

USAGE = 2  # exit codes as in all of thems-jobs
REFUSED = 4
DEGRADED = 5
HALTED = 6
ABORTED = 143

PLATFORMS = ("lab.yaml", "lab-database.yaml")  # without and with a database cluster of its own

app = typer.Typer(
    name="lab",
    help="A whole platform on this machine: an API that speaks Proxmox VE's, and real machines behind it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
fault = typer.Typer(
    name="fault", help="Make something go wrong, on purpose.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(fault)

DirOption = Annotated[Path, typer.Option("--dir", envvar="THEMS_LAB_DIR", help="The lab's folder.")]


@contextmanager
def _saying_errors(code: int) -> Iterator[None]:
    """Turn an error into its sentence on stderr and the exit code."""
    try:
        yield
    except (LabError, GuestError, OSError) as error:
        print(f"thems-jobs lab: {error}", file=sys.stderr)
        raise typer.Exit(code) from None
    except KeyboardInterrupt:
        print("thems-jobs lab: interrupted; it is safe to run the command again", file=sys.stderr)
        raise typer.Exit(ABORTED) from None


def _layout(directory: Path) -> LabLayout:
    """Return the lab's layout. Exit 2 unless this is root."""
    if os.geteuid() != 0:
        print(
            "thems-jobs lab: the lab needs root (mounts, network namespaces, control groups): run it with sudo",
            file=sys.stderr,
        )
        raise typer.Exit(USAGE)
    return LabLayout(directory.absolute())


def _running(directory: Path) -> tuple[LabLayout, str]:
    """Return layout and API address of a lab that is up. Raise LabError when it is not."""
    layout = _layout(directory)
    endpoint = endpoint_of(layout)
    if endpoint is None:
        raise LabError(f"no lab is up in {layout.directory}; start one with `thems-jobs lab up`")
    return layout, endpoint


@app.command()
def up(
    directory: DirOption = DEFAULT_DIRECTORY,
    cache: Annotated[
        Path | None,
        typer.Option(envvar="THEMS_LAB_CACHE", help="Folder of the template's root filesystem [default: DIR/cache]."),
    ] = None,
    node_memory: Annotated[int, typer.Option(min=1, help="Memory each of the two nodes claims to have, in GiB.")] = 16,
) -> None:
    """Bring the lab up: about 70 s the first time (the template is built), 2 s afterwards.

    Example: thems-jobs lab up && export THEMS_PLATFORM=/var/lib/thems-lab/platform.yaml
    """
    layout = _layout(directory)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what is half up is taken down
    began = time.monotonic()

    def report(line: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {line}", file=sys.stderr, flush=True)

    wishes = Wishes((cache or layout.cache).absolute(), node_memory, *map(_shipped_platform, PLATFORMS))
    with _saying_errors(REFUSED):
        fresh = bring_up(layout, wishes, report)
    state = f"is up after {time.monotonic() - began:.1f} s" if fresh else "was up already; nothing was changed"
    print(f"The lab in {layout.directory} {state}. API for this host: {endpoint_of(layout)} (CA: {layout.authority})")
    print(f"Next: export THEMS_PLATFORM={layout.platform}")


@app.command()
def down(
    directory: DirOption = DEFAULT_DIRECTORY,
    purge: Annotated[bool, typer.Option("--purge", help="Remove the template's cache in the folder as well.")] = False,
) -> None:
    """Take the lab down; nothing is left but the template's cache, for a quick next `up`.

    Example: thems-jobs lab down --purge
    """
    layout = _layout(directory)
    with _saying_errors(HALTED):
        existed = take_down(layout, purge=purge)
    if not existed:
        print(f"There is no lab in {layout.directory}; nothing was changed.")
        return
    kept = f" The template's cache is kept in {layout.cache}." if layout.cache.is_dir() else ""
    print(f"The lab in {layout.directory} is down.{kept}")


@app.command()
def status(
    directory: DirOption = DEFAULT_DIRECTORY,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the lab's machines with state, address and memory.

    Example: thems-jobs lab status --json
    """
    with _saying_errors(REFUSED):
        layout, endpoint = _running(directory)
        client = RootClient(layout, endpoint)
        machines = [_machine_row(client, vm, config) for vm, config in _machines(client)]
        wrong = faults.ask(layout.control, {"do": "show"})
    if as_json:
        print(json.dumps({"endpoint": endpoint, "machines": machines, **wrong}, indent=2))
        return
    table = Table("vmid", "name", "node", "state", "address", "memory", "tags")
    for row in machines:
        table.add_row(*(str(value) for value in row.values()))
    Console().print(table)
    print(f"API: {endpoint} (CA: {layout.authority})")
    print(f"Next: export THEMS_PLATFORM={layout.platform}")


def _machines(client: RootClient) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield each VM's entry and config. Names come from the config: the list of the cluster lags behind."""
    for vm in sorted(client.call("GET", "/cluster/resources", type="vm"), key=lambda vm: int(vm["vmid"])):
        yield vm, client.call("GET", f"{_path(vm)}/config")


def _path(vm: dict[str, Any]) -> str:
    return f"/nodes/{vm['node']}/qemu/{vm['vmid']}"


def _machine_row(client: RootClient, vm: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    now = client.call("GET", f"{_path(vm)}/status/current")
    state = "template" if config.get("template") else now["status"]
    if lock := now.get("lock"):
        state += f" (lock: {lock})"
    used = f"{now['mem'] // 2**20} of {now['maxmem'] // 2**20} MiB" if now["status"] == "running" else ""
    return {
        "vmid": vm["vmid"],
        "name": config.get("name", ""),
        "node": vm["node"],
        "state": state,
        "address": _address(config),
        "memory": used,
        "tags": config.get("tags", ""),
    }


def _address(config: dict[str, Any]) -> str:
    text: str = config.get("ipconfig0", "")
    parts = dict(part.split("=", 1) for part in text.split(",") if "=" in part)
    return parts.get("ip", "").partition("/")[0]


@app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def ssh(
    name: Annotated[str, typer.Argument(help="Name or VMID of a machine.")],
    command: Annotated[list[str] | None, typer.Argument(help="What to run there; a shell without it.")] = None,
    directory: DirOption = DEFAULT_DIRECTORY,
) -> None:
    """Log in to a machine; its host key is read through the guest agent first, never skipped.

    Example: thems-jobs lab ssh shop-web-1 sudo journalctl -n 20
    """
    with _saying_errors(REFUSED):
        layout, endpoint = _running(directory)
        client = RootClient(layout, endpoint)
        found = [(vm, config) for vm, config in _machines(client) if name in (config.get("name"), str(vm["vmid"]))]
        if len(found) != 1:
            raise LabError(f"{len(found)} machines are called {name!r}; `thems-jobs lab status` lists all, with VMIDs")
        vm, config = found[0]
        key = client.call("GET", f"{_path(vm)}/agent/file-read", file=HOST_KEY_PATH)["content"]
    address = _address(config)
    with tempfile.NamedTemporaryFile("w", dir=layout.state) as known_hosts:
        known_hosts.write(f"{address} {' '.join(key.split()[:2])}\n")
        known_hosts.flush()
        login = [
            "ssh", "-F", "none", "-i", str(layout.ssh_key), "-o", "IdentitiesOnly=yes",
            "-o", "StrictHostKeyChecking=yes", "-o", f"UserKnownHostsFile={known_hosts.name}",
            "-o", "ConnectTimeout=10", f"{config.get('ciuser', 'thems')}@{address}", *(command or []),
        ]  # fmt: skip
        raise typer.Exit(subprocess.run(_inside(layout, login), check=False).returncode)


@app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def enter(
    command: Annotated[list[str] | None, typer.Argument(help="What to run; a shell without it.")] = None,
    directory: DirOption = DEFAULT_DIRECTORY,
) -> None:
    """Run a command of this host inside the lab's network.

    Example: thems-jobs lab enter curl -s http://10.77.0.10/
    """
    with _saying_errors(REFUSED):
        layout, _ = _running(directory)
    argv = command or [os.environ.get("SHELL", "/bin/sh")]
    raise typer.Exit(subprocess.run(_inside(layout, argv), check=False).returncode)


def _inside(layout: LabLayout, command: list[str]) -> list[str]:
    return ["nsenter", f"--net={layout.netns}", "--", *command]


def _shipped_platform(name: str) -> Path | None:
    """Return a platform file that comes with the package, or with the checkout; None when there is none."""
    package = Path(__file__).parent.parent
    for resources in (package / "resources", package.parent.parent / "resources"):
        if (path := resources / "platforms" / name).is_file():
            return path
    return None


@app.command()
def latencies(
    clone: Annotated[float | None, typer.Option(min=0, help="Seconds a clone takes.")] = None,
    boot: Annotated[float | None, typer.Option(min=0, help="Seconds from start to the guest's own boot.")] = None,
    clone_slots: Annotated[int | None, typer.Option(min=0, help="Clones at once per storage; 0: no limit.")] = None,
    api: Annotated[float | None, typer.Option(min=0, help="Seconds before each answer of the API.")] = None,
    directory: DirOption = DEFAULT_DIRECTORY,
) -> None:
    """Switch the slowness of a real cluster on (or off, with 0), and show it.

    Example: thems-jobs lab latencies --clone 20 --boot 15 --clone-slots 4
    """
    wanted = {"clone_s": clone, "boot_s": boot, "clone_slots_per_storage": clone_slots, "api_s": api}
    _ask(directory, {"do": "latencies", **{name: value for name, value in wanted.items() if value is not None}})


def _ask(directory: Path, command: dict[str, Any]) -> None:
    """Send a command to the lab's control socket and print the answer, if there is one."""
    with _saying_errors(REFUSED):
        layout, _ = _running(directory)
        try:
            answer = faults.ask(layout.control, command)
        except (OSError, ValueError) as error:
            raise LabError(f"{command['do']}: {error}") from error
    print(json.dumps(answer, indent=2) if answer else "done")


@app.command()
def visitors(
    url: Annotated[str, typer.Argument(help="The page they look at.")] = "http://10.77.0.10/",
    count: Annotated[int, typer.Option("--count", min=1, help="Visitors at the same time.")] = 20,
    pause: Annotated[float, typer.Option(min=0, help="Seconds between an answer and the next request.")] = 0.5,
    slow_url: Annotated[str, typer.Option(help="A page that takes long.")] = "http://10.77.0.10/slow.php?seconds=10",
    slow_count: Annotated[int, typer.Option(min=0, help="Visitors of the slow page.")] = 2,
    seconds: Annotated[float | None, typer.Option(min=0, help="How long; without it until SIGTERM or Ctrl-C.")] = None,
    stop_file: Annotated[Path | None, typer.Option(help="Stop as soon as this file exists.")] = None,
    report: Annotated[Path | None, typer.Option(help="JSON file, written anew every second.")] = None,
    directory: DirOption = DEFAULT_DIRECTORY,
) -> None:
    """Visit the shop with keep-alive, count every request that was not answered; exit 5 if there was one.

    Example: thems-jobs lab visitors --count 30 --seconds 60 --report visitors.json
    """
    with _saying_errors(REFUSED):
        layout, _ = _running(directory)
        network.enter_namespace(layout.netns)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    threading.Thread(target=_set_when_over, args=(stop, seconds, stop_file), daemon=True).start()
    crowds = [shop_visitors.Crowd(count, url, pause, timeout_s=15.0)]
    if slow_count > 0:
        crowds.append(shop_visitors.Crowd(slow_count, slow_url, pause, timeout_s=60.0))
    summary = shop_visitors.let_in(crowds, stop, report.absolute() if report else None)
    print("\n".join(shop_visitors.in_words(summary)))
    if summary["failed"]:
        raise typer.Exit(DEGRADED)


def _set_when_over(stop: threading.Event, seconds: float | None, stop_file: Path | None) -> None:
    """Set the event once the seconds have passed or the file exists."""
    began = time.monotonic()
    while not stop.wait(0.2):
        if (seconds is not None and time.monotonic() - began >= seconds) or (stop_file and stop_file.exists()):
            stop.set()


TimesOption = Annotated[int, typer.Option(min=1, help="How often.")]
OffOption = Annotated[bool, typer.Option("--off", help="End this fault.")]
MachineArgument = Annotated[str, typer.Argument(help="Name or VMID.")]


@fault.command("slow-clones")
def slow_clones(
    seconds: Annotated[float, typer.Argument(help="Seconds more for each.")],
    times: TimesOption = 1,
    directory: DirOption = DEFAULT_DIRECTORY,
) -> None:
    """Let the next clones take longer. Example: thems-jobs lab fault slow-clones 60 --times 4"""
    _ask(directory, {"do": "clone", "kind": "slow", "seconds": seconds, "times": times})


@fault.command("fail-clone")
def fail_clone(
    text: Annotated[str, typer.Option(help="What the task's end shall say.")] = faults.CloneFault.text,
    times: TimesOption = 1,
    directory: DirOption = DEFAULT_DIRECTORY,
) -> None:
    """Let the next clones end in an error. Example: thems-jobs lab fault fail-clone --times 2"""
    _ask(directory, {"do": "clone", "kind": "fail", "text": text, "times": times})


@fault.command("hang-clone")
def hang_clone(times: TimesOption = 1, directory: DirOption = DEFAULT_DIRECTORY) -> None:
    """Let the next clones never end. Example: thems-jobs lab fault hang-clone"""
    _ask(directory, {"do": "clone", "kind": "hang", "times": times})


@fault.command("lost-task")
def lost_task(times: TimesOption = 1, directory: DirOption = DEFAULT_DIRECTORY) -> None:
    """Let the workers of the next clones die (`unexpected status`). Example: thems-jobs lab fault lost-task"""
    _ask(directory, {"do": "clone", "kind": "lost", "times": times})


@fault.command("lost-answer")
def lost_answer(
    path: Annotated[str, typer.Argument(help="Regular expression for the path below /api2/json.")],
    method: Annotated[str, typer.Option(help="Regular expression for the method.")] = ".*",
    code: Annotated[int, typer.Option(help="595: before the effect; 596: the effect happens.")] = 596,
    times: TimesOption = 1,
    directory: DirOption = DEFAULT_DIRECTORY,
) -> None:
    """Lose answers of the API. Example: thems-jobs lab fault lost-answer /clone --method POST"""
    _ask(
        directory,
        {"do": "answer", "path": path, "method": method, "status": code, "executed": code == 596, "times": times},
    )


@fault.command("api-down")
def api_down(
    requests: Annotated[int, typer.Option(min=1, help="Requests that are answered 595 without effect.")] = 1000,
    directory: DirOption = DEFAULT_DIRECTORY,
) -> None:
    """Let the API do nothing at all; `fault clear` ends it. Example: thems-jobs lab fault api-down"""
    text = "No route to host"
    _ask(directory, {"do": "answer", "path": ".*", "status": 595, "text": text, "executed": False, "times": requests})


@fault.command("never-boots")
def never_boots(
    name: Annotated[str | None, typer.Argument(help="Name or VMID; without it the next machine that starts.")] = None,
    off: OffOption = False,
    directory: DirOption = DEFAULT_DIRECTORY,
) -> None:
    """Let a machine start and never boot. Example: thems-jobs lab fault never-boots shop-web-3"""
    target: dict[str, Any] = {"times": 1} if name is None else {"vm": name, "never": not off}
    _ask(directory, {"do": "boot", **target})


@fault.command("dead-machine")
def dead_machine(name: MachineArgument, directory: DirOption = DEFAULT_DIRECTORY) -> None:
    """Take a machine's power away, as a crash would. Example: thems-jobs lab fault dead-machine shop-web-2"""
    _ask(directory, {"do": "kill", "vm": name})


@fault.command("frozen-machine")
def frozen_machine(name: MachineArgument, off: OffOption = False, directory: DirOption = DEFAULT_DIRECTORY) -> None:
    """Let a machine hang. Example: thems-jobs lab fault frozen-machine shop-web-2"""
    _ask(directory, {"do": "freeze", "vm": name, "frozen": not off})


@fault.command("cut")
def cut(name: MachineArgument, off: OffOption = False, directory: DirOption = DEFAULT_DIRECTORY) -> None:
    """Pull a machine's network cable. Example: thems-jobs lab fault cut shop-balancer-1"""
    _ask(directory, {"do": "cut", "vm": name, "cut": not off})


@fault.command("agent-silent")
def agent_silent(name: MachineArgument, off: OffOption = False, directory: DirOption = DEFAULT_DIRECTORY) -> None:
    """Let a machine's guest agent never answer. Example: thems-jobs lab fault agent-silent shop-web-1"""
    _ask(directory, {"do": "agent", "vm": name, "silent": not off})


@fault.command("full-storage")
def full_storage(
    storage: Annotated[str, typer.Argument(help="Name of a storage.")] = "shared",
    off: OffOption = False,
    directory: DirOption = DEFAULT_DIRECTORY,
) -> None:
    """Fill a storage. Example: thems-jobs lab fault full-storage shared"""
    _ask(directory, {"do": "storage", "storage": storage, "full": not off})


@fault.command("node-down")
def node_down(
    node: Annotated[str, typer.Argument(help="Name of a node.")] = "pve2",
    off: OffOption = False,
    directory: DirOption = DEFAULT_DIRECTORY,
) -> None:
    """Take a node's power away, with all its machines. Example: thems-jobs lab fault node-down pve2"""
    _ask(directory, {"do": "node", "node": node, "offline": not off})


@fault.command("list")
def list_faults(directory: DirOption = DEFAULT_DIRECTORY) -> None:
    """Show what is armed, and the latencies. Example: thems-jobs lab fault list"""
    _ask(directory, {"do": "show"})


@fault.command("clear")
def clear(directory: DirOption = DEFAULT_DIRECTORY) -> None:
    """End all faults but cut, dead and frozen machines. Example: thems-jobs lab fault clear"""
    _ask(directory, {"do": "clear"})
