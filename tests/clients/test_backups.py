"""The backup folder: what counts as a copy, what is left of one that was broken off, and how many are kept.

What gives the data is a real process; only that it is reached by SSH is left out.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from thems_jobs.clients.backups import Backups
from thems_jobs.core.facts import Backup, Unknown
from thems_jobs.errors import EffectFailed, Transient, Unreachable
from waiting import eventually

UUID = "6c1d5a34-c9e1-11f0-9f5b-0242ac110002"
TOLD = {"member": "shop-db-3", "uuid": UUID, "seqno": 41, "version": "10.11.6", "stopped": False}


def giving(script: str) -> Callable[[], "subprocess.Popen[bytes]"]:
    """Given a shell script, return what begins it as a copy is begun."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return lambda: subprocess.Popen(["sh", "-c", script], **pipes)  # type: ignore[call-overload,no-any-return]


def whole(megabytes: int = 3, **changes: object) -> str:
    """Return a script that gives so much data, and its note as the last of several lines."""
    note = json.dumps(TOLD | changes)
    return f"echo '{{\"scratch\": 1}}' >&2; head -c {megabytes}M /dev/zero; echo '{note}' >&2"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "backups"


def backups(folder: Path, keep: int = 7, stalled_s: float = 20) -> Backups:
    return Backups(folder, "shop-db-", keep, stalled_s)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def put(folder: Path, member: str, day: int, year: int = 2026) -> str:
    """Put a whole copy of a day of the past, or of another year, into the folder; return its name."""
    name = f"{member}-{year}01{day:02}T000000Z"
    (folder / f"{name}.tar.gz").write_bytes(b"old")
    note = TOLD | {"member": member, "bytes": 3, "at": f"{year}-01-{day:02}T00:00:00Z"}
    (folder / f"{name}.json").write_text(json.dumps(note))
    return name


def test_a_copy_stands_there_whole_with_its_note_and_for_nobody_else(folder: Path) -> None:
    began = time.time()
    saved = backups(folder).save("shop-db-3", giving(whole()))
    path = Path(saved.path)
    assert saved == Backup(saved.at, "shop-db-3", UUID, 41, str(path))
    assert began - 1 <= saved.at <= time.time()
    assert names(folder) == [path.with_suffix("").stem + ".json", path.name]
    note = json.loads(path.with_name(path.with_suffix("").stem + ".json").read_text())
    assert {key: note[key] for key in TOLD} == TOLD
    assert (note["bytes"], note["sha256"]) == (3 << 20, hashlib.sha256(bytes(3 << 20)).hexdigest())
    assert path.stat().st_size == note["bytes"]
    assert {oct(entry.stat().st_mode & 0o777) for entry in folder.iterdir()} == {"0o600"}
    assert oct(folder.stat().st_mode & 0o777) == "0o700"
    assert backups(folder).newest() == saved


@pytest.mark.parametrize(
    ("script", "kind", "words"),
    [
        ('echo \'{"error": "the database runs"}\' >&2; exit 9', Transient, "the database runs"),
        ('head -c 2M /dev/zero; echo \'{"error": "tar ended with 2"}\' >&2; exit 11', EffectFailed, "tar ended"),
        ("echo 'usage: thems-galera' >&2; exit 2", EffectFailed, "older version"),
        ("head -c 2M /dev/zero; echo 'Connection reset' >&2; exit 255", Unreachable, "copied: Connection reset"),
        ("echo '{\"scratch\": 1}' >&2; echo 'Killed' >&2; exit 137", EffectFailed, "shop-db-3: Killed"),
        ("head -c 2M /dev/zero; kill -KILL $$", EffectFailed, "ended with -9"),
        ("head -c 2M /dev/zero", EffectFailed, "without its note"),
    ],
)
def test_nothing_remains_of_a_copy_that_was_not_given_whole(
    script: str, kind: type[Exception], words: str, folder: Path
) -> None:
    with pytest.raises(kind, match=words):
        backups(folder).save("shop-db-3", giving(script))
    assert names(folder) == []
    assert backups(folder).newest() is None


def test_a_copy_that_does_not_get_on_is_given_up_and_one_that_says_so_is_not(folder: Path) -> None:
    slowly = "for n in 1 2 3 4 5 6; do sleep 0.4; echo working >&2; done; "
    backups(folder, stalled_s=2).save("shop-db-3", giving(slowly + whole()))
    with pytest.raises(EffectFailed, match="did not get on for 3 s, after 2 MiB") as caught:
        backups(folder, stalled_s=3).save("shop-db-2", giving("head -c 2M /dev/zero; exec sleep 60"))
    assert caught.value.reference == "backup-failed"
    assert len(names(folder)) == 2


def test_a_cancelled_copy_ends_at_once_and_the_process_with_it(folder: Path) -> None:
    client, begun = backups(folder), list[subprocess.Popen[bytes]]()

    def begin() -> "subprocess.Popen[bytes]":
        begun.append(giving("head -c 1M /dev/zero; exec sleep 60")())
        threading.Timer(0.3, client.cancel).start()
        return begun[0]

    assert client.under_way == frozenset()
    began = time.monotonic()
    with pytest.raises(EffectFailed, match="cancelled"):
        client.save("shop-db-3", begin)
    assert time.monotonic() - began < 10
    assert begun[0].poll() is not None
    assert names(folder) == []
    assert client.under_way == frozenset()


def test_what_a_killed_run_leaves_counts_for_nothing_and_goes_with_the_next_copy(folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path; sys.path[:0] = sys.argv[2:];"
        "from test_backups import *; "
        "backups(Path(sys.argv[1])).save('shop-db-2', giving('head -c 1M /dev/zero; exec sleep 60'))"
    )
    here = Path(__file__)
    run = subprocess.Popen([sys.executable, "-c", code, folder, here.parent, here.parents[1]])
    eventually(lambda: [n for n in names(folder) if n.endswith(".partial")], "no copy was begun", 20)
    other = backups(folder)
    other.save("shop-db-3", giving(whole()))
    assert len([name for name in names(folder) if name.endswith(".partial")]) == 1, "one that is under way was removed"
    run.send_signal(signal.SIGKILL)
    run.wait()
    (folder / "shop-db-1-20260101T000000Z.json").write_text("{}")  # its copy was not renamed any more
    newest = other.newest()
    assert isinstance(newest, Backup)
    assert newest.member == "shop-db-3"
    eventually(lambda: time.time() > newest.at + 1, "the clock stands still", 5)  # names have seconds
    other.save("shop-db-3", giving(whole()))
    assert {name.partition("-2")[0] for name in names(folder)} == {"shop-db-3"}
    assert len(names(folder)) == 4


def test_the_newest_are_kept_and_what_is_not_ours_is_left_alone(folder: Path) -> None:
    folder.mkdir()
    old = [put(folder, f"shop-db-{day % 3 + 1}", day) for day in range(1, 6)]
    others = [put(folder, "shop-eu-db-1", 1), put(folder, "other-db-1", 2)]
    (folder / "notes.txt").write_text("by a person")
    with pytest.raises(EffectFailed):
        backups(folder, keep=2).save("shop-db-3", giving("exit 11"))
    assert len(names(folder)) == 15, "a copy went before the new one was whole"
    saved = backups(folder, keep=2).save("shop-db-3", giving(whole()))
    kept = {old[-1], *others, Path(saved.path).name.removesuffix(".tar.gz")}
    assert set(names(folder)) == {f"{name}{kind}" for name in kept for kind in (".tar.gz", ".json")} | {"notes.txt"}


def test_a_copy_that_a_wrong_clock_dated_later_than_now_comes_after_all_others(folder: Path) -> None:
    folder.mkdir()
    later = put(folder, "shop-db-1", 1, year=2199)
    before = backups(folder).newest()
    assert isinstance(before, Backup)
    assert Path(before.path).name == f"{later}.tar.gz", "it is one all the same"
    saved = backups(folder, keep=1).save("shop-db-3", giving(whole()))
    assert backups(folder).newest() == saved
    assert {name.partition(".")[0] for name in names(folder)} == {Path(saved.path).name.partition(".")[0]}


def test_a_copy_that_was_cut_short_or_has_no_note_does_not_count(folder: Path) -> None:
    folder.mkdir()
    first, second, third = (put(folder, "shop-db-1", day) for day in (1, 2, 3))
    (folder / f"{third}.tar.gz").write_bytes(b"o")
    (folder / f"{second}.json").unlink()
    newest = backups(folder).newest()
    assert isinstance(newest, Backup)
    assert Path(newest.path).name == f"{first}.tar.gz"


def test_a_folder_that_cannot_be_used_is_said_before_and_while_it_is_tried(tmp_path: Path) -> None:
    missing = tmp_path / "not" / "mounted"
    told = backups(missing).newest()
    assert isinstance(told, Unknown)
    assert "not there" in told.reason
    file = tmp_path / "file"
    file.write_text("")
    for folder in (missing, file):
        with pytest.raises(EffectFailed) as caught:
            backups(folder).save("shop-db-3", giving(whole()))
        assert (caught.value.reference, caught.value.subject) == ("backup-folder", str(folder))


@pytest.fixture
def hanging(folder: Path) -> Iterator[Callable[[], None]]:
    """A pipe that nobody writes into holds whoever opens it, as a share does whose server is away; return its end."""
    folder.mkdir()
    note = folder / f"{put(folder, 'shop-db-1', 1)}.json"
    said = note.read_text()
    note.unlink()
    os.mkfifo(note)

    def end() -> None:
        if note.is_fifo():
            note.write_text(said)  # whoever waits for it goes on
            note.unlink()
            note.write_text(said)

    yield end
    end()


def test_a_share_that_hangs_is_said_and_waited_for_once(folder: Path, hanging: Callable[[], None]) -> None:
    client = Backups(folder, "shop-db-", 7, answers_s=0.5)
    began = time.monotonic()
    for _ in range(20):
        told = client.newest()
        assert isinstance(told, Unknown)
        assert "does not answer within 0.5 s" in told.reason
    assert time.monotonic() - began < 20 * 0.5
    with pytest.raises(EffectFailed, match="does not answer") as caught:
        client.save("shop-db-3", giving(whole()))
    assert caught.value.reference == "backup-folder"
    hanging()
    eventually(lambda: isinstance(client.newest(), Backup), "it hangs for ever", 5)


def test_whoever_looks_while_another_does_gets_the_same_answer(folder: Path, hanging: Callable[[], None]) -> None:
    """As a run that looks does, while a backup begins on a share that is slow."""
    client = Backups(folder, "shop-db-", 7, answers_s=60)
    with ThreadPoolExecutor() as threads:
        looks = [threads.submit(client.newest) for _ in range(2)]
        done, _ = wait(looks, timeout=1, return_when=FIRST_COMPLETED)
        hanging()
        assert not done, "one did not wait"
        assert [isinstance(look.result(), Backup) for look in looks] == [True, True]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_is_said_and_nothing_remains(folder: Path) -> None:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], check=True)
    try:
        with pytest.raises(EffectFailed, match="it is full") as caught:
            backups(folder).save("shop-db-3", giving(whole(5)))
        assert caught.value.reference == "backup-folder"
        assert names(folder) == []
    finally:
        subprocess.run(["umount", folder], check=True)
