"""`thems-galera backup` and `restore` themselves, with their folders elsewhere and a database that is pretended.

tar, gzip and the processes are real; mariadb-backup, mariadbd and systemctl are stand-ins of a few lines.
"""

import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "core"))
from test_backup_steps import PLATFORM, five

from thems_jobs import resources
from thems_jobs.clients.ansible import Ansible
from thems_jobs.clients.backups import Backups
from thems_jobs.clients.galera_machines import GaleraMachines
from thems_jobs.clients.ssh import Ssh
from thems_jobs.clock import SystemClock
from thems_jobs.core.facts import Backup
from thems_jobs.core.plan import Action, Step
from thems_jobs.errors import EffectFailed, Transient
from thems_jobs.jobs import galera_recover
from thems_jobs.jobs.clients import Clients, DatabaseClients
from thems_jobs.jobs.perform import perform
from waiting import eventually

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to the account mysql, which needs root")

UUID, NOBODY = "6c1d5a34-c9e1-11f0-9f5b-0242ac110002", "00000000-0000-0000-0000-000000000000"
STATUS = f"wsrep_cluster_status\\tPrimary\\nwsrep_cluster_state_uuid\\t{UUID}\\nwsrep_last_committed\\t41\\n"
STAND_INS = {
    "systemctl": '[ -e "$HERE/running" ] && echo active || echo inactive',
    "chown": ":",  # there need be no account mysql here
    "mariadbd": "echo 'mariadbd  Ver 10.11.6-MariaDB for Linux'",
    "mariadb": f"""
[ "$1" = "--defaults-extra-file=$HERE/etc/backup.cnf" ] || exec printf '{STATUS}'
[ -e "$HERE/account" ] || exit 1  # Access denied
touch "$HERE/session"; while read -r _; do echo 1; done; rm "$HERE"/session""",
    "mariadb-backup": """
echo "$* $(cd "$HERE" && echo sess*)" >> "$HERE/asked"; case $1 in --defaults-extra-file=*) shift;; esac
for word; do case $word in --target-dir=*) target=${word#*=};; --datadir=*) data=${word#*=};; esac; done
case $1 in
--backup)
    cp -r "$HERE/mysql/." "$target/"; echo begun > "$HERE/begun"; test ! -e "$HERE/slow" || exec sleep 60
    echo "UUID:41" > "$target/mariadb_backup_galera_info";;
--prepare) echo prepared > "$target/log";;
--move-back) test ! -e "$HERE/dies" || kill -KILL $PPID; mv "$target"/* "$data/";;
esac""".replace("UUID", UUID),
}


# Instead of a connection: the command that stands behind -- is run here, and only our program may be sudo'ed.
SSH = """while [ "$1" != -- ]; do shift; done; exec sh -c "$2\""""
SUDO = """[ "$1" = /usr/local/sbin/thems-galera ] && shift && exec "$PYTHON" "$HERE/thems-galera" "$@\""""


class Machine:
    """A database machine of which all is in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.data = folder, folder / "mysql"
        for path in (self.data, folder / "etc", folder / "bin"):
            path.mkdir(parents=True)
        for name, script in STAND_INS.items():
            (folder / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
            (folder / "bin" / name).chmod(0o755)
        settings = {"name": "shop-db-3", "address": "10.77.3.13", "port": 3306, "unit": "mariadb", "bootstrap_unit": ""}
        programs = {"program": "mariadbd", "client": "mariadb", "backup": str(folder / "bin" / "mariadb-backup")}
        tier = {"addresses": [f"10.77.3.{number}" for number in range(11, 17)]}
        files = {name: str(folder / "etc" / name) for name in ("peers_file", "donors_file")}
        (folder / "etc" / "galera.json").write_text(json.dumps(settings | programs | tier | files))
        text = resources.path("ansible", "roles", "database", "files", "thems-galera").read_text()
        places = {"/etc/mysql/thems": "etc", "/run/lock/thems-galera": "lock", "/run/mariadb-wsrep-new": "new"}
        for path, other in (*places.items(), ("/var/lib/", "")):
            assert f'"{path}' in text
            text = text.replace(f'"{path}', f'"{folder / other}' + ("/" if not other else ""))
        (folder / "thems-galera").write_text(text.replace('shutil.chown(STATE, "mysql", "mysql")', "pass"))

    def has(self, name: str, there: bool = True) -> None:
        """Set or take away one of the marks that the stand-ins look at."""
        (self.folder / name).touch() if there else (self.folder / name).unlink(missing_ok=True)

    def fill(self, seqno: int = 41) -> None:
        for name, text in {"ibdata1": "system", "shop/orders.ibd": "orders", "galera.cache": "x" * 5000}.items():
            (self.data / name).parent.mkdir(exist_ok=True)
            (self.data / name).write_text(text)
        (self.data / "grastate.dat").write_text(f"uuid: {UUID}\nseqno: {seqno}\nsafe_to_bootstrap: 1\n")
        (self.data / "gvwstate.dat").write_text("my_uuid: here\n")

    def begin(self, *arguments: str) -> "subprocess.Popen[bytes]":
        environment = {**os.environ, "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}", "HERE": str(self.folder)}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        command = [sys.executable, self.folder / "thems-galera", *arguments]
        return subprocess.Popen(command, env=environment, **pipes)  # type: ignore[call-overload,no-any-return]

    def run(self, *arguments: str, given: bytes = b"", code: int = 0) -> tuple[bytes, dict[str, object]]:
        """Run the program; return the data it gives (backup) and what it tells."""
        process = self.begin(*arguments)
        out, told = process.communicate(given, timeout=60)
        assert process.returncode == code, (out[-500:], told)
        words = told if arguments[0] == "backup" else out
        return out, json.loads(words.splitlines()[-1])

    def files(self) -> dict[str, str]:
        found = {p.relative_to(self.data).as_posix(): p for p in self.data.rglob("*") if p.is_file()}
        return {name: path.read_text() for name, path in found.items()}

    def left(self) -> list[str]:
        """Return what a copy has left beside the data."""
        return [path.name for path in self.folder.glob("mysql-*")]


@pytest.fixture
def source(tmp_path: Path) -> Machine:
    machine = Machine(tmp_path / "source")
    machine.fill()
    machine.has("running")
    return machine


@pytest.fixture
def empty(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "empty")


@pytest.mark.parametrize("stopped", [False, True])
def test_a_copy_is_restored_into_an_empty_machine_as_it_was(source: Machine, empty: Machine, stopped: bool) -> None:
    source.has("running", not stopped)
    before = source.files()
    copy, note = source.run("backup", *(["--stopped"] if stopped else []))
    expected = {"member": "shop-db-3", "uuid": UUID, "seqno": 41, "version": "10.11.6-MariaDB", "stopped": stopped}
    assert note == expected
    assert source.files() == before
    (empty.data / "left-over").write_text("of an installation")
    _, told = empty.run("restore", given=copy)
    assert (told["uuid"], told["seqno"], told["safe_to_bootstrap"]) == (UUID, 41, False)
    restored = empty.files()
    assert {name: restored.get(name) for name in ("ibdata1", "shop/orders.ibd", "left-over", "galera.cache")} == {
        "ibdata1": "system", "shop/orders.ibd": "orders", "left-over": None, "galera.cache": None
    }  # fmt: skip
    assert not {"gvwstate.dat", "thems-backup.json"} & restored.keys()
    assert ("log" in restored) is not stopped, "the copy of a running member was not prepared"
    again, error = empty.run("restore", given=copy, code=9)
    assert "holds data of the cluster" in str(error["error"]), again
    assert source.left() == empty.left() == []


def test_a_running_member_is_copied_by_the_account_of_backups_which_is_there_all_the_time(source: Machine) -> None:
    source.has("account")
    assert source.run("backup")[1]["seqno"] == 41
    asked = (source.folder / "asked").read_text().splitlines()
    login = f"--defaults-extra-file={source.folder}/etc/backup.cnf --backup "
    assert [line.startswith(login) for line in asked] == [True, False], asked
    assert [line.endswith("session") for line in asked] == [True, True], asked
    assert not (source.folder / "session").exists()


def test_a_cluster_without_that_account_is_copied_by_root_as_before(source: Machine) -> None:
    """An older version has made its accounts."""
    assert source.run("backup")[1]["seqno"] == 41
    asked = (source.folder / "asked").read_text().splitlines()
    assert [line.split()[0] for line in asked] == ["--backup", "--prepare"]


def test_what_is_not_as_it_must_be_is_refused(source: Machine, empty: Machine) -> None:
    assert source.run("backup", "--stopped", code=9) == (b"", {"error": "the database runs"})
    assert source.run("restore", code=9)[1] == {"error": "the database runs"}
    assert empty.run("backup", code=9)[0] == b""
    assert "no data" in str(empty.run("backup", "--stopped", code=9)[1])
    source.has("running", there=False)
    assert source.run("backup", code=9)[0] == b""


@pytest.mark.parametrize("damage", ["cut", "nothing", "bent", "no note", "no database"])
def test_a_copy_that_is_not_whole_touches_nothing(damage: str, source: Machine, empty: Machine, tmp_path: Path) -> None:
    copy = source.run("backup")[0]
    if damage in ("no note", "no database"):
        (tmp_path / "thems-backup.json").write_text(json.dumps({"uuid": UUID, "seqno": 41, "stopped": True}))
        (tmp_path / "ibdata1").write_text("system")
        with tarfile.open(tmp_path / "made.tar.gz", "w:gz") as tar:
            name = "ibdata1" if damage == "no note" else "thems-backup.json"
            tar.add(tmp_path / name, name)
        copy = (tmp_path / "made.tar.gz").read_bytes()
    middle = len(copy) // 2
    given = {"cut": copy[:-20], "nothing": b"", "bent": copy[:middle] + bytes(9) + copy[middle + 9 :]}.get(damage, copy)
    (empty.data / "here").write_text("before")
    told = empty.run("restore", given=given, code=9)[1]
    assert "not a whole backup" in str(told["error"])
    assert empty.files() == {"here": "before"}
    assert empty.left() == []


def test_a_restore_that_was_killed_half_way_is_done_again(source: Machine, empty: Machine) -> None:
    copy = source.run("backup")[0]
    empty.has("dies")
    process = empty.begin("restore")
    process.communicate(copy, timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert empty.left() != []
    assert "grastate.dat" not in empty.files()
    empty.has("dies", there=False)
    assert empty.run("restore", given=copy)[1]["seqno"] == 41
    assert empty.files()["shop/orders.ibd"] == "orders"
    assert empty.left() == []


@pytest.mark.parametrize("how", ["hang up", "terminate", "kill"])
def test_nothing_goes_on_of_a_copy_whose_caller_is_gone(how: str, source: Machine) -> None:
    source.has("slow")
    source.has("account")
    with source.begin("backup", "--attended") as process:
        assert process.stdin
        assert process.stderr
        eventually((source.folder / "begun").exists, "no copy was begun", 20)
        copying: list[Path] = []

        def both_run() -> bool:
            copying[:] = [entry for entry in Path("/proc").glob("[0-9]*/environ") if of(source, entry)]
            return len(copying) >= 3  # it, its session, and the copy

        eventually(both_run, "the program has started no other", 10)
        if how == "hang up":
            process.stdin.close()
        else:
            process.send_signal(signal.SIGTERM if how == "terminate" else signal.SIGKILL)
        assert process.wait(20) == (-signal.SIGKILL if how == "kill" else 11)
        eventually(lambda: not any(of(source, entry) for entry in copying), "the copy goes on", 10)
        eventually(lambda: not (source.folder / "session").exists(), "it looks as if it were copied still", 10)
        if how != "kill":
            assert "told to end" in process.stderr.read().decode()
            assert source.left() == []
    source.has("slow", there=False)
    assert source.run("backup")[1]["seqno"] == 41
    assert source.left() == []


@pytest.fixture
def jobs(source: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Backups, GaleraMachines]]:
    """The backup folder and the client of machines, with the source at the end of every connection."""
    for name, script in (("ssh", SSH), ("sudo", SUDO)):
        (source.folder / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
        (source.folder / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{source.folder / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("HERE", str(source.folder))
    monkeypatch.setenv("PYTHON", sys.executable)
    (tmp_path / "key").write_text("a key")
    ssh = Ssh("thems", tmp_path / "key", tmp_path)
    ssh.know({"10.77.3.13": "ssh-ed25519 AAAA"})
    yield Backups(tmp_path / "backups", "shop-db-", keep=2), GaleraMachines(ssh)
    ssh.close()


@pytest.mark.parametrize("stopped", [False, True])
def test_what_the_jobs_have_saved_can_be_restored(
    stopped: bool, jobs: tuple[Backups, GaleraMachines], source: Machine, empty: Machine
) -> None:
    backups, machines = jobs
    source.has("running", not stopped)
    saved = backups.save("shop-db-3", lambda: machines.begin_backup("10.77.3.13", stopped))
    assert (saved.member, saved.uuid, saved.seqno) == ("shop-db-3", UUID, 41)
    told = empty.run("restore", given=Path(saved.path).read_bytes())[1]
    assert (told["uuid"], told["seqno"]) == (saved.uuid, saved.seqno)
    with pytest.raises(Transient, match="the database runs" if not stopped else "well can be copied"):
        backups.save("shop-db-3", lambda: machines.begin_backup("10.77.3.13", not stopped))
    assert backups.newest() == saved


@pytest.mark.parametrize("do", [perform, galera_recover.do])
def test_a_step_of_a_plan_copies_what_its_job_is_about(
    do: Any, jobs: tuple[Backups, GaleraMachines], source: Machine, tmp_path: Path
) -> None:
    backups, machines = jobs
    nobody: Any = None  # the step speaks with none of these
    ansible = Ansible(nobody, tmp_path, 60)
    databases = DatabaseClients(nobody, machines, None, backups)
    clients = Clients(nobody, nobody, nobody, ansible, nobody, SystemClock(), {}, databases)
    step = Step(Action.BACKUP, "shop-db-3")
    source.has("running", do is perform)
    assert do(PLATFORM, clients, (step,), five())[step.key].error is None
    newest = backups.newest()
    assert isinstance(newest, Backup)
    assert (newest.member, newest.seqno) == ("shop-db-3", 41)
    clients.cancel()
    error = do(PLATFORM, clients, (step,), five())[step.key].error
    assert error is not None
    assert "cancelled" in str(error)


def test_a_cancelled_copy_ends_on_the_machine_too(jobs: tuple[Backups, GaleraMachines], source: Machine) -> None:
    backups, machines = jobs
    source.has("slow")
    begun = source.folder / "begun"
    cancel = threading.Thread(target=lambda: (eventually(begun.exists, "none begun", 20), backups.cancel()))
    cancel.start()
    with pytest.raises(EffectFailed, match="cancelled"):
        backups.save("shop-db-3", lambda: machines.begin_backup("10.77.3.13", False))
    cancel.join()
    eventually(lambda: source.left() == [], "the copy goes on", 10)
    assert backups.newest() is None


def of(machine: Machine, entry: Path) -> bool:
    """True if a process is one of the machine's, and alive."""
    try:
        return f"HERE={machine.folder}".encode() in entry.read_bytes()
    except OSError:
        return False
