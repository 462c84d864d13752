"""A member joins and leaves, as the jobs let it: databases answer by their protocol, `thems-galera` by a stand-in.

The stand-in is found as `ssh`: it writes down what it is told to do and tells that the database does not run. Proxies
always tell the same.
"""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from galera_stand_in import Galera
from mysql_wire import Answer, Wires, open_wires

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "core"))
from test_databases import facts_with_databases, platform_with_databases

from thems_jobs.clients.balancer import Balancers
from thems_jobs.clients.galera_machines import GaleraMachines
from thems_jobs.clients.mysql import Databases
from thems_jobs.clients.ssh import Ssh
from thems_jobs.clock import SystemClock
from thems_jobs.core.databases import settings_of
from thems_jobs.core.facts import Facts, Member, Phase, Unknown
from thems_jobs.core.plan import Action, Step
from thems_jobs.errors import EffectFailed, ThemsError, Transient
from thems_jobs.jobs import databases
from thems_jobs.jobs.clients import Clients, DatabaseClients

PLATFORM = platform_with_databases()
SSH = """#!/bin/sh
case "$*" in
*-O*) exit 0;;
*thems-balancer*) exec cat "$HERE/picture";;
esac
echo "$*" >> "$HERE/told"
echo '{"running": false, "uuid": "9311c7ed-e752-11f1-ab49-c28ae3f001b0", "seqno": 9, "view": "none"}'
"""
OURS = (13, "thems", "Query", "", "SELECT ID FROM information_schema.PROCESSLIST")


@dataclass
class World:
    """Members that answer, and what their programs were told. One that is told to leave is gone from all views."""

    folder: Path
    wires: Wires
    members: dict[str, Galera]
    falls_by: int = 1  # the others' size when one leaves
    facts: Facts = field(default_factory=lambda: facts_with_databases(PLATFORM))

    def __post_init__(self) -> None:
        machines = dict(self.facts.machines)
        for name, member in self.members.items():
            served = self.wires.serve(lambda text, m=member: self.answer(m, text), {"thems": "correct horse"})
            machines[name] = replace(machines[name], address=served.address)
        self.facts = replace(self.facts, machines=machines)
        self.rejected_before_leave = False

    def answer(self, member: Galera, text: str) -> Answer:
        if self.told("leave"):
            member.status["wsrep_cluster_size"] = str(member.size - self.falls_by)
        elif text.startswith("SET GLOBAL wsrep_reject_queries = 'ALL'"):
            self.rejected_before_leave = True
        return member.answer(text)

    def told(self, command: str) -> list[str]:
        """Return the command lines of this kind that programs on machines were given."""
        path = self.folder / "told"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line.partition("thems-galera ")[2] for line in lines if f"thems-galera {command}" in line]

    def clients(self) -> Clients:
        settings, nobody = settings_of(PLATFORM), dict[str, Any]()
        assert settings is not None
        files = {"ca_file": self.wires.ca_file.name, "password_file": "password"}
        ssh = Ssh("thems", self.folder / "key", self.folder)
        ssh.know({machine.address: "ssh-ed25519 AAAA" for machine in self.facts.machines.values()})
        answering = Databases(replace(settings, **files), self.wires.folder)
        of_databases = DatabaseClients(answering, GaleraMachines(ssh), None, None)
        return Clients(nobody, ssh, Balancers(ssh), nobody, nobody, SystemClock(), {}, of_databases)  # type: ignore[arg-type]

    def leaves(self, name: str) -> ThemsError | None:
        """Let a member leave; return why it did not, if it did not."""
        try:
            databases.leave(PLATFORM, self.clients(), self.facts, Step(Action.LEAVE, name))
        except ThemsError as error:
            return error
        return None

    def joins(self, name: str) -> str:
        """Let a member join, and return the donors that its program is given."""
        databases.join(PLATFORM, self.clients(), self.facts, Step(Action.JOIN, name))
        (told,) = self.told("join")
        return told.split("--donor ")[1].split("--members")[0].strip().strip("'")


@pytest.fixture(scope="module")
def wires(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wires]:
    folder = tmp_path_factory.mktemp("members")
    (folder / "password").write_text("correct horse\n")
    with open_wires(folder) as wires:
        yield wires


@pytest.fixture
def world(tmp_path: Path, wires: Wires, monkeypatch: pytest.MonkeyPatch) -> World:
    """Three members; the first one is the writer, and the shop is connected to it alone."""
    ssh = tmp_path / "bin" / "ssh"
    ssh.parent.mkdir()
    ssh.write_text(SSH)
    ssh.chmod(0o755)
    (tmp_path / "key").write_text("a key")
    monkeypatch.setenv("PATH", f"{ssh.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("HERE", str(tmp_path))
    monkeypatch.setattr(databases, "NEW_VIEW_S", 1.0)
    others = {f"shop-db-{number}": Galera(index=number - 1, sessions=[OURS]) for number in (2, 3)}
    return World(tmp_path, wires, {"shop-db-1": Galera(), **others})


def without(facts: Facts, *names: str) -> Facts:
    """Given facts, return them with databases that are no members."""
    cluster = facts.databases
    assert cluster is not None
    members = {name: Unknown("it does not run") if name in names else told for name, told in cluster.members.items()}
    return replace(facts, databases=replace(cluster, members=members))


def test_any_but_the_writer_may_give_its_data_to_one_that_joins(world: World) -> None:
    world.facts = without(facts_with_databases(PLATFORM, count=4), "shop-db-4")
    assert world.joins("shop-db-4") == "shop-db-2,shop-db-3"


def test_the_writer_gives_its_data_where_nobody_else_can(world: World) -> None:
    world.facts = without(facts_with_databases(PLATFORM), "shop-db-2", "shop-db-3")
    assert world.joins("shop-db-2") == ""


def test_a_member_takes_no_queries_before_it_is_stopped(world: World) -> None:
    assert world.leaves("shop-db-3") is None
    assert world.told("leave") == ["leave"]
    assert world.rejected_before_leave
    assert world.members["shop-db-2"].variables["wsrep_reject_queries"] == "NONE"


@pytest.mark.parametrize("phase", [Phase.DRAINING, Phase.SERVING])
def test_a_member_that_stays_after_all_takes_queries_again_and_one_that_a_person_switched_does_not(
    world: World, phase: Phase
) -> None:
    name, cluster, facts = "shop-db-3", world.facts.databases, world.facts
    assert cluster is not None
    servers = {n: {"address": "10.77.3.1:3306", "weight": 0, "state": "down", "connections": 0} for n in world.members}
    told = {"servers": servers, "list": servers, "generation": "", "holds": [], "haproxy": "running", "writer": ""}
    front = {"connections": 0, "requests": 0, "5xx": 0, "cut": 0}
    (world.folder / "picture").write_text(json.dumps({**told, "frontend": front}))
    machine, member = facts.machines[name], cluster.members[name]
    assert machine.stamp
    assert isinstance(member, Member)
    rejecting = replace(member, switches={**member.switches, "wsrep_reject_queries": "ALL"})
    stamped = replace(machine, stamp=replace(machine.stamp, phase=phase))
    world.facts = replace(
        facts, machines={**facts.machines, name: stamped},
        databases=replace(cluster, members={**cluster.members, name: rejecting}),
    )  # fmt: skip
    world.members[name].variables["wsrep_reject_queries"] = "ALL"
    databases.change_table(PLATFORM, world.clients(), world.facts, [Step(Action.RESTORE, name)], 100)
    switched_back = phase is Phase.DRAINING
    assert (world.members[name].variables["wsrep_reject_queries"] == "NONE") is switched_back


def change(world: World, names: Sequence[int], **status: str) -> None:
    for number in names:
        world.members[f"shop-db-{number}"].status |= status


@pytest.mark.parametrize(
    ("numbers", "status", "why"),
    [
        ([2], {"wsrep_cluster_status": "non-Primary"}, "shop-db-2 is non-Primary"),
        ([1], {"wsrep_cluster_conf_id": "8"}, "are not all in one view"),
        ([2], {"wsrep_cluster_state_uuid": "6c1d5a34-c9e1-11f0-9f5b-0242ac110002"}, "are not all in one view"),
        ([1], {"wsrep_cluster_size": "2"}, "are not all in one view"),
        ([1, 2, 3], {"wsrep_cluster_size": "5"}, "only 2 of the 4 others can be asked"),
    ],
)
def test_a_member_that_the_others_cannot_go_on_without_is_not_stopped(
    world: World, numbers: list[int], status: dict[str, str], why: str
) -> None:
    change(world, numbers, **status)
    error = world.leaves("shop-db-3")
    assert isinstance(error, Transient)
    assert why in str(error)
    assert world.told("leave") == []
    assert not world.rejected_before_leave


def test_a_member_is_not_stopped_while_another_one_is_silent(world: World) -> None:
    address = world.wires.serve_openly(world.members["shop-db-1"].answer, {}).address  # nobody we may speak to
    machines = world.facts.machines
    world.facts = replace(
        world.facts, machines={**machines, "shop-db-1": replace(machines["shop-db-1"], address=address)}
    )
    assert "shop-db-1 does not answer" in str(world.leaves("shop-db-3"))
    assert world.told("leave") == []


def test_a_session_past_the_proxies_keeps_a_member_from_being_stopped(world: World) -> None:
    world.members["shop-db-3"].sessions.append((21, "shop", "Sleep", "", None))
    assert "the shop is connected to it (1)" in str(world.leaves("shop-db-3"))
    assert world.told("leave") == []
    assert not world.rejected_before_leave


def test_the_size_is_held_against_what_it_was_right_before(world: World) -> None:
    for member in world.members.values():  # one more than we know of: it joins just now
        member.size = 4
        member.status["wsrep_cluster_size"] = "4"
    change(world, [1, 2, 3], wsrep_cluster_size="4")
    assert world.leaves("shop-db-3") is None


def test_a_size_that_falls_by_more_than_one_is_told(world: World) -> None:
    world.falls_by = 2
    error = world.leaves("shop-db-3")
    assert isinstance(error, EffectFailed)
    assert error.reference == "galera-size"
    assert "2 members should be: shop-db-1 counts 1, shop-db-2 counts 1" in str(error)


@pytest.mark.parametrize("inside", [True, False])
def test_one_that_never_became_a_member_may_be_counted_or_not(world: World, inside: bool) -> None:
    world.falls_by = int(inside)
    world.facts = without(world.facts, "shop-db-3")
    size = 3 if inside else 2
    for member in world.members.values():
        member.size = size
    change(world, [1, 2], wsrep_cluster_size=str(size))
    world.facts = replace(
        world.facts,
        machines={
            **world.facts.machines,
            "shop-db-3": replace(world.facts.machines["shop-db-3"], address="127.0.0.1:1"),
        },
    )
    assert world.leaves("shop-db-3") is None
    assert not world.rejected_before_leave


def test_who_is_asked_by_a_session_past_the_proxies_is_not_quiet(world: World) -> None:
    assert databases.quiet(world.facts, "shop-db-3")
    cluster = world.facts.databases
    assert cluster is not None
    member = cluster.members["shop-db-3"]
    assert isinstance(member, Member)
    used = replace(cluster, members={**cluster.members, "shop-db-3": replace(member, connections=1)})
    assert not databases.quiet(replace(world.facts, databases=used), "shop-db-3")
