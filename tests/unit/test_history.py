"""How long things take, as the cluster's own tasks tell, where no run of ours has measured it yet."""

from dataclasses import replace

from core.platforms import make_platform, sound_facts

from thems_jobs.clients.proxmox import Task
from thems_jobs.core.record import Record
from thems_jobs.jobs.observe import _history


def task(kind: str, seconds: float | None, error: str = "") -> Task:
    return Task("UPID", "pve1", kind, 101, "thems@pve!jobs", 100.0, None if seconds is None else 100.0 + seconds, error)


def test_expected_seconds_come_from_tasks_that_ended_well_and_our_own_measurements_win() -> None:
    tasks = [task("qmclone", 10), task("qmclone", 20), task("qmclone", 500, "got signal 9"), task("qmclone", None),
             task("qmdestroy", 4), task("vzdump", 900)]  # fmt: skip
    history = _history(tasks)
    assert history == {"await-clone": 15.0, "await-destroy": 4.0}
    facts = replace(sound_facts(make_platform()), history=history, record=Record(seconds={"await-clone": 7.0}))
    assert facts.seconds == {"await-clone": 7.0, "await-destroy": 4.0}
