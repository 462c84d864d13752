"""`thems-balancer` against a real haproxy: what a balancer is told, and what its visitors notice of it."""

import json
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from balancer_lab import BalancerLab, WebMachine, as_list

from visiting import visitors
from waiting import eventually

pytestmark = pytest.mark.skipif(not shutil.which("haproxy"), reason="needs the Debian package haproxy")


@pytest.fixture
def web() -> Iterator[dict[str, WebMachine]]:
    machines = {name: WebMachine(name) for name in ("web-1", "web-2", "web-3")}
    yield machines
    for machine in machines.values():
        machine.close()


@pytest.fixture
def balancer(tmp_path: Path) -> Iterator[BalancerLab]:
    lab = BalancerLab(tmp_path)
    lab.start()
    yield lab
    lab.stop()


def table(web: dict[str, WebMachine], **weights: int) -> dict[str, tuple[str, int]]:
    """Return a list of servers: those given as web_1=100, at their machines' addresses."""
    names = {key.replace("_", "-"): weight for key, weight in weights.items()}
    return {name: (web[name].address, weight) for name, weight in names.items()}


def test_servers_come_change_weight_and_go_without_a_reload(balancer: BalancerLab, web: dict[str, WebMachine]) -> None:
    worker = balancer.run("show").stdout
    shown = balancer.apply(table(web, web_1=100, web_2=7))
    assert {name: (s["address"], s["weight"]) for name, s in shown["servers"].items()} == table(web, web_1=100, web_2=7)
    shown = balancer.put_up(table(web, web_2=100, web_3=0))
    assert {name: s["weight"] for name, s in shown["servers"].items()} == {"web-2": 100, "web-3": 0}
    assert shown["pending"] == []
    assert shown["list"] == {
        name: {"address": address, "weight": weight}
        for name, (address, weight) in table(web, web_2=100, web_3=0).items()
    }
    with visitors("127.0.0.1", balancer.port, 2) as visits:
        eventually(lambda: visits.answers["web-2"] > 20, "nobody was answered", within_s=10)
    assert set(visits.answers) == {"web-2"}
    assert "Reloading" not in (balancer.folder / "haproxy.log").read_text()
    counted = balancer.show()["frontend"]
    assert counted["requests"] == counted["2xx"] == visits.answers["web-2"]
    assert json.loads(worker)["generation"] != shown["generation"]


def test_a_machine_that_fails_its_check_is_told_as_down(balancer: BalancerLab, web: dict[str, WebMachine]) -> None:
    balancer.put_up(table(web, web_1=100, web_2=100))
    web["web-2"].close()
    eventually(lambda: balancer.show()["servers"]["web-2"]["state"] == "down", "still up", within_s=15)
    assert balancer.show()["servers"]["web-1"]["state"] == "up"


def test_a_list_of_another_generation_is_left_alone(balancer: BalancerLab, web: dict[str, WebMachine]) -> None:
    old = balancer.show()["generation"]
    balancer.apply(table(web, web_1=100))
    before = balancer.servers.read_bytes()
    late = balancer.run("apply", "--expect", old, stdin=as_list({}))
    assert late.returncode == 9
    assert "look again" in late.stderr
    assert balancer.servers.read_bytes() == before


def test_a_list_that_came_back_has_a_new_generation(balancer: BalancerLab, web: dict[str, WebMachine]) -> None:
    first = balancer.apply(table(web, web_1=100))["generation"]
    balancer.apply(table(web, web_1=0))
    again = balancer.apply(table(web, web_1=100))["generation"]
    assert again != first
    assert balancer.apply(table(web, web_1=100))["generation"] == again  # nothing to change: nothing written


def test_of_two_applies_at_once_one_wins(balancer: BalancerLab, web: dict[str, WebMachine]) -> None:
    generation = balancer.show()["generation"]
    lists = [table(web, web_1=100), table(web, web_2=100), table(web, web_3=100)]
    runs = [balancer.start_program("apply", "--expect", generation) for _ in lists]
    for run, servers in zip(runs, lists, strict=True):
        assert run.stdin
        run.stdin.write(as_list(servers))
        run.stdin.close()
    codes = [run.wait(60) for run in runs]
    assert sorted(codes) == [0, 9, 9]
    shown = balancer.show()
    assert list(shown["servers"]) == list(lists[codes.index(0)])
    assert shown["pending"] == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"servers": {"web-1": {"address": "10.0.0.1:80"}}}',
        '{"servers": {"web-1": {"address": "10.0.0.1", "weight": 1}}}',
        '{"servers": {"web-1": {"address": "10.0.0.1:80", "weight": 257}}}',
        '{"servers": {"web-1": {"address": "10.0.0.1:80", "weight": true}}}',
        '{"servers": {"web 1\\n server x": {"address": "10.0.0.1:80", "weight": 1}}}',
        '{"servers": {"web-1": {"address": "10.0.0.1:80\\nlisten x", "weight": 1}}}',
    ],
)
def test_bad_input_changes_nothing(balancer: BalancerLab, text: str) -> None:
    before = balancer.servers.read_bytes()
    done = balancer.run("apply", "--expect", balancer.show()["generation"], stdin=text)
    assert done.returncode == 2
    assert "expected" in done.stderr
    assert balancer.servers.read_bytes() == before


def test_a_list_that_haproxy_refuses_changes_nothing(tmp_path: Path, web: dict[str, WebMachine]) -> None:
    balancer = BalancerLab(tmp_path, server_options="no-such-word")
    balancer.start()
    try:
        before = balancer.servers.read_bytes()
        done = balancer.run("apply", "--expect", balancer.show()["generation"], stdin=as_list(table(web, web_1=1)))
        assert done.returncode == 10
        assert "no-such-word" in done.stderr
        assert balancer.servers.read_bytes() == before
        assert sorted(path.name for path in tmp_path.glob("servers.cfg*")) == ["servers.cfg"]
    finally:
        balancer.stop()


def test_draining_under_load_cuts_no_request(balancer: BalancerLab, web: dict[str, WebMachine]) -> None:
    balancer.put_up(table(web, web_1=100, web_2=100))
    with visitors("127.0.0.1", balancer.port, 16, slow_every=4, slow_page="/slow?seconds=10") as visits:
        eventually(
            lambda: balancer.show()["servers"]["web-1"]["connections"] >= 2, "no slow page on web-1", within_s=20
        )
        drained = balancer.apply(table(web, web_1=0, web_2=100))
        assert drained["servers"]["web-1"]["connections"] >= 1
        asked = web["web-1"].asked
        eventually(
            lambda: balancer.show()["servers"]["web-1"]["connections"] == 0, "requests stay in flight", within_s=30
        )
        assert web["web-1"].asked - asked <= 1  # one may have been on its way while haproxy was told
        removed = balancer.apply(table(web, web_2=100))
        assert list(removed["servers"]) == ["web-2"]
        web["web-1"].close()
        before = visits.answers.total()
        eventually(lambda: visits.answers.total() > before + 50, "visitors stopped", within_s=10)
    assert (visits.failures, visits.closed) == ([], 0)


def test_a_server_taken_out_in_use_finishes_its_requests_first(
    balancer: BalancerLab, web: dict[str, WebMachine]
) -> None:
    balancer.put_up(table(web, web_1=100))
    with visitors("127.0.0.1", balancer.port, 1, slow_every=1, slow_page="/slow?seconds=4") as visits:
        eventually(lambda: balancer.show()["servers"]["web-1"]["connections"] == 1, "no request", within_s=10)
        shown = balancer.apply(table(web, web_2=100))
        assert shown["servers"]["web-1"]["connections"] == 1
        assert shown["servers"]["web-1"]["weight"] == 0
        assert shown["servers"]["web-2"]["state"] == "down"  # nobody is sent there before its first check
        assert shown["pending"] == ["web-1: not in the list, leaving, 1 requests in flight"]
        eventually(lambda: visits.answers["web-2"] > 0, "the next request did not go elsewhere", within_s=20)
    assert (visits.failures, visits.closed) == ([], 0)
    assert list(balancer.apply(table(web, web_2=100))["servers"]) == ["web-2"]


def test_a_reload_while_draining_loses_neither_requests_nor_state(
    balancer: BalancerLab, web: dict[str, WebMachine]
) -> None:
    balancer.put_up(table(web, web_1=100, web_2=100, web_3=100))
    with visitors("127.0.0.1", balancer.port, 12, slow_every=3, slow_page="/slow?seconds=12") as visits:
        eventually(lambda: balancer.show()["servers"]["web-1"]["connections"] >= 1, "no slow page", within_s=20)
        balancer.apply(table(web, web_1=0, web_2=100, web_3=100))
        balancer.reload()
        shown = eventually(
            lambda: (s := balancer.show())["old_workers_connections"] and s, "no old worker seen", within_s=10
        )
        assert shown["servers"]["web-1"]["connections"] >= 1  # still known, though the new worker has none
        # A machine that drains right after a reload gets no more requests from the old worker either.
        balancer.apply(table(web, web_1=0, web_2=0, web_3=100))
        eventually(
            lambda: all(balancer.show()["servers"][name]["connections"] == 0 for name in ("web-1", "web-2")),
            "requests stay in flight", within_s=30,
        )  # fmt: skip
        asked = web["web-1"].asked, web["web-2"].asked
        before = visits.answers["web-3"]
        eventually(lambda: visits.answers["web-3"] > before + 50, "visitors stopped", within_s=10)
        assert (web["web-1"].asked, web["web-2"].asked) == asked
    assert visits.failures == []
    assert {name: s["weight"] for name, s in balancer.show()["servers"].items()} == {
        "web-1": 0, "web-2": 0, "web-3": 100,
    }  # fmt: skip


def test_a_reboot_starts_from_the_list(balancer: BalancerLab, web: dict[str, WebMachine]) -> None:
    before = balancer.apply(table(web, web_1=0, web_2=42))
    balancer.stop()
    stopped = balancer.show()
    assert (stopped["haproxy"], stopped["generation"]) == ("stopped", before["generation"])
    balancer.start()
    after = balancer.show()
    assert {name: s["weight"] for name, s in after["servers"].items()} == {"web-1": 0, "web-2": 42}
    assert (after["generation"], after["pending"]) == (before["generation"], [])


def test_without_haproxy_a_list_is_kept_for_its_start(balancer: BalancerLab, web: dict[str, WebMachine]) -> None:
    generation = balancer.show()["generation"]
    balancer.stop()
    done = balancer.run("apply", "--expect", generation, stdin=as_list(table(web, web_1=5)))
    assert done.returncode == 11
    assert "is written" in done.stderr
    balancer.start()
    assert balancer.show()["servers"]["web-1"]["weight"] == 5


def test_killed_at_any_moment_the_same_apply_finishes(balancer: BalancerLab, web: dict[str, WebMachine]) -> None:
    # web-2 is in both: servers that are new get nobody until their first check.
    lists = [table(web, web_1=100, web_2=10), table(web, web_2=5, web_3=100)]
    seen_in_between = 0
    rng = random.Random(2)
    with visitors("127.0.0.1", balancer.port, 2) as visits:
        balancer.put_up(table(web, web_1=100, web_2=10, web_3=50))
        eventually(lambda: visits.answers.total() > 5, "nobody was answered", within_s=10)
        visits.failures.clear()
        for attempt in range(12):
            wanted = lists[attempt % 2]
            killed = balancer.start_program("apply", "--expect", balancer.show()["generation"])
            assert killed.stdin
            killed.stdin.write(as_list(wanted))
            killed.stdin.close()
            time.sleep(rng.uniform(0.03, 0.25))
            killed.kill()
            killed.wait()
            subprocess.run(
                ["haproxy", "-c", "-q", "-f", balancer.config, "-f", balancer.servers], check=True
            )  # whatever happened, haproxy could start
            seen_in_between += bool(balancer.show()["pending"])
            done = balancer.apply(wanted)
            assert {name: (s["address"], s["weight"]) for name, s in done["servers"].items()} == wanted
            assert done["pending"] == []
    assert visits.failures == []


def test_reloads_in_the_middle_of_applies_are_followed(balancer: BalancerLab, web: dict[str, WebMachine]) -> None:
    lists = [table(web, web_1=100, web_2=10), table(web, web_2=0, web_3=100), table(web, web_1=1)]
    rng = random.Random(3)
    for attempt in range(9):
        wanted = lists[attempt % 3]
        run = balancer.start_program("apply", "--expect", balancer.show()["generation"])
        assert run.stdin
        run.stdin.write(as_list(wanted))
        run.stdin.close()
        time.sleep(rng.uniform(0.0, 0.2))
        balancer.reload()
        assert run.wait(60) == 0, run.stderr and run.stderr.read()
        shown = balancer.show()
        assert shown["pending"] == []
        assert {name: s["weight"] for name, s in shown["servers"].items()} == {n: w for n, (_, w) in wanted.items()}


def test_a_picture_is_whole_also_during_reloads(balancer: BalancerLab, web: dict[str, WebMachine]) -> None:
    balancer.apply(table(web, web_1=100, web_2=10))
    for _ in range(5):
        balancer.reload()
        for _ in range(3):
            shown = balancer.show()
            assert {name: s["weight"] for name, s in shown["servers"].items()} == {"web-1": 100, "web-2": 10}
