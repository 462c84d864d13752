"""The jobs themselves on Percona's cluster behind a pair of ProxySQL, with everything but the machines.

What stands for ProxySQL is as unkind as it is: it does nothing before LOAD, forgets without SAVE, moves members by
their own switches some time later, sets OFFLINE_SOFT back, and finds a member ill that its monitor cannot log in to.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from worlds import World, running

from waiting import eventually

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace needs root"),
    pytest.mark.timeout(600),
    pytest.mark.slow,
]
CHANGED = (0, 5)  # 5: nothing is copied before machines leave, on a platform without a folder for it


class Running(World):
    """The world, and thems-jobs in it."""

    def order(self, **order: Any) -> dict[str, Any]:
        """Give the world an order, and return what there is."""
        told: dict[str, Any] = json.loads(self.tell(**order))
        return told

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        return super().start(*arguments, "--json", "--yes")

    def run(self, *arguments: str) -> dict[str, Any]:
        """Run thems-jobs to its good end, and return its report."""
        process = self.start(*arguments)
        output, error = process.communicate()
        report: dict[str, Any] = json.loads(output or "{}")
        assert process.returncode in CHANGED, f"{error[-6000:]} {report.get('refusals', output)}"
        return report

    def expect_tables(self, proxies: list[str], members: list[str]) -> None:
        """Every proxy has these members in every layer, and one and the same of them writes, at the latest soon."""
        seen = self.order()
        names = [f"shop-db-{address.rpartition('.')[2].removeprefix('1')}" for address in members]
        assert seen["members"] == members
        assert seen["tables"] == {proxy: dict.fromkeys(("", "runtime_", "disk."), names) for proxy in proxies}
        writers = list(seen["writers"].values())
        assert writers == [writers[0]] * len(proxies)
        assert len(writers[0]) == 1
        assert set(seen["switches"].values()) == {"DISABLED"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The tier as provision makes it of nothing: three members behind two proxies."""
    with running(Running, "database_world.py", tmp_path_factory.mktemp("world")) as world:
        world.run("provision")
        yield world


PAIR = ["10.77.4.11", "10.77.4.12"]
THREE = [f"10.77.3.{number}" for number in (11, 12, 13)]
FIVE = [*THREE, "10.77.3.14", "10.77.3.15"]


def test_the_tier_is_provisioned_and_nothing_remains(world: Running) -> None:
    world.expect_tables(PAIR, THREE)
    assert world.run("provision", "db", "proxy")["steps"] == []


def test_members_come_and_go_and_no_session_is_cut(world: Running) -> None:
    """Also where a run is killed just after it has switched a member out: the next one knows that it was us."""
    world.run("scale", "--tier", "db=5", "--event", "show", "--until", "2099-01-01T00:00Z")
    world.expect_tables(PAIR, FIVE)
    first = world.start("scale", "--end", "show")
    eventually(lambda: "MAINTENANCE" in world.order()["switches"].values(), "no member is switched out", 60)
    first.kill()
    first.communicate()
    assert world.order()["members"] == FIVE
    world.run("scale", "--end", "show")
    world.expect_tables(PAIR, THREE)
    assert world.order()["cut"] == []


def test_a_member_is_replaced_the_writer_too(world: Running) -> None:
    writer = world.order()["writers"][PAIR[0]][0]
    report = world.run("provision", "db", "--replace", writer)
    assert [step["outcome"] for step in report["steps"] if step["key"] == f"leave {writer}"] == ["ok"]
    seen = world.order()
    assert writer not in {name for table in seen["tables"].values() for names in table.values() for name in names}
    assert len(seen["members"]) == 3
    assert seen["cut"] == []


def test_a_dead_member_is_replaced(world: Running) -> None:
    dead = world.order()["members"][-1]
    world.order(kill=dead)
    name = f"shop-db-{dead[-1]}"
    world.run("provision", "db", "--replace", name)
    assert len(world.order()["members"]) == 3


def test_a_proxy_is_replaced_and_hands_over_first(world: Running) -> None:
    holder = world.order()["holder"]
    name = f"shop-proxy-{holder[-1]}"
    world.run("provision", "proxy", "--replace", name)
    seen = eventually(lambda: (told := world.order())["holder"] != holder and told, "the address does not move", 5)
    assert seen
    assert len(seen["tables"]) == 2
    assert holder not in seen["tables"]
    first, second = seen["tables"].values()
    assert first == second
    assert len(first["disk."]) == 3
    first, second = seen["writers"].values()
    assert first == second
