"""The model world's cluster itself, and that its invariants notice what they are there for."""

import random

import pytest
from invariants_databases import UNDER_WAY_S
from schedules import Broken, Schedule, make_platform, provision_wish
from schedules_databases import keeps_majority, machines, what_is_wrong, with_databases
from world import Cluster, Vm
from world_databases import Programs

from thems_jobs.core.facts import Phase, Standing
from thems_jobs.core.identity import read_stamp, write_stamp
from thems_jobs.core.outcome import Exit


def cluster_of(count: int) -> tuple[Schedule, list[Vm]]:
    chance = random.Random(4)
    schedule = Schedule(with_databases(make_platform(chance), chance), random.Random(0))
    schedule.furnish(2, 2, databases=count)
    schedule.world.changed()
    return schedule, machines(schedule.world, "db")


def die(schedule: Schedule, *lost: Vm) -> None:
    for vm in lost:
        vm.running = False
    schedule.monitor.expect_less()
    schedule.world.changed()


def leave(schedule: Schedule, vm: Vm) -> None:
    Programs(schedule.world).leave(vm.name, vm.address)


def drain(schedule: Schedule, vm: Vm) -> None:
    """Drain a member on every proxy, and let its sessions end; it was copied before."""
    world = schedule.world
    world.backups.append(Programs(world).copied(vm.address, stopped=False))
    for proxy in machines(world, "proxy"):
        wanted = {vm.name: (proxy.table[vm.name][0], 0)}
        world.proxies.apply(proxy.name, proxy.address, world.proxies.generation(proxy), wanted, ())
    stamp = read_stamp(vm.description)
    assert stamp is not None
    stamp = type(stamp)(**{**vars(stamp), "phase": Phase.DRAINING, "since": world.now()})
    vm.description = write_stamp(stamp)
    schedule.clock.pass_by(10)


def test_a_minority_that_dies_leaves_a_cluster_and_a_majority_does_not() -> None:
    schedule, members = cluster_of(5)
    assert keeps_majority(schedule.world, members[:2])
    assert not keeps_majority(schedule.world, members[:3])
    die(schedule, *members[:2])
    assert schedule.world.galera.whole() == members[2:]
    die(schedule, members[2])  # two of the three that were left are a majority again
    assert schedule.world.galera.primary
    with pytest.raises(Broken, match=r"the majority of .* is lost"):
        die(schedule, members[3])


def test_members_that_leave_cleanly_take_their_votes_along() -> None:
    schedule, members = cluster_of(5)
    for vm in members[:0:-1]:
        drain(schedule, vm)
        schedule.monitor.expect_less()
        leave(schedule, vm)
    assert schedule.world.galera.whole() == members[:1]


def test_a_member_that_comes_back_is_synced_again() -> None:
    schedule, members = cluster_of(3)
    die(schedule, members[1])
    schedule.world.power(members[1], True)
    schedule.clock.pass_by(120)
    assert not what_is_wrong(schedule.world, 3)


def test_stopping_the_writer_or_one_with_sessions_is_noticed() -> None:
    schedule, members = cluster_of(5)
    with pytest.raises(Broken, match=r"shop-db-1 is stopped, and is the writer of shop-proxy-1"):
        leave(schedule, members[0])
    with pytest.raises(Broken, match="is the writer of"):
        Cluster(schedule.world).shutdown(members[0].node, members[0].vmid, 10)
    for proxy in machines(schedule.world, "proxy"):
        proxy.table[members[0].name] = (proxy.table[members[0].name][0], 0)
        proxy.leaves[members[0].name] = schedule.clock.now() + 5
    with pytest.raises(Broken, match="has sessions on it"):
        leave(schedule, members[0])


def test_falling_below_the_minimum_is_noticed() -> None:
    schedule, members = cluster_of(3)
    drain(schedule, members[2])
    with pytest.raises(Broken, match="2 members have all data, 3 must"):
        leave(schedule, members[2])


def test_leaving_without_a_fresh_backup_is_noticed() -> None:
    schedule, members = cluster_of(5)
    drain(schedule, members[4])
    schedule.world.backups.clear()
    with pytest.raises(Broken, match="the newest backup was not fresh"):
        leave(schedule, members[4])
    schedule.monitor.databases.served.discard(members[4].key)  # who only was in the lists takes nothing with it
    members[4].protection = False
    leave(schedule, members[4])


def test_a_second_cluster_and_one_of_old_data_are_noticed() -> None:
    schedule, members = cluster_of(3)
    members[2].database.running = False
    schedule.world.galera.make(members[2])
    assert "a second cluster" in schedule.world.galera.trouble

    schedule, members = cluster_of(3)
    for vm in members:
        vm.running = vm.database.running = False
    members[0].database.seqno = 7
    schedule.world.galera.make(members[0])
    assert "without what the shop has written" in schedule.world.galera.trouble


def test_destroying_the_last_that_has_the_newest_write_is_noticed() -> None:
    schedule, members = cluster_of(3)
    members[0].database.seqno = members[1].database.seqno = 5
    schedule.world.galera.primary = False  # nobody writes any more
    schedule.monitor.expect_less()
    del schedule.world.vms[members[2].vmid]
    schedule.world.galera.members.remove(members[2])
    with pytest.raises(Broken, match="is lost"):
        schedule.world.changed()


def test_two_that_join_at_once_are_noticed() -> None:
    schedule, members = cluster_of(5)
    schedule.clock.pass_by(UNDER_WAY_S + 1)
    schedule.monitor.expect_less()
    for vm in members[3:]:
        schedule.world.galera.stop(vm)
    programs, peers = Programs(schedule.world), [vm.address for vm in members[:3]]
    programs.join(members[3].name, members[3].address, [], peers)
    with pytest.raises(Broken, match=r"join of shop-db-5 while shop-db-4 joins"):
        programs.join(members[4].name, members[4].address, [], peers)


def test_a_cluster_is_not_made_where_another_answers() -> None:
    schedule, members = cluster_of(3)
    members[2].database.running = False
    schedule.world.galera.members.remove(members[2])
    standing = Standing(False, members[2].database.uuid, members[2].database.seqno, "none")
    with pytest.raises(Exception, match="has to join it"):
        Programs(schedule.world).bootstrap(
            members[2].name, members[2].address, standing, [vm.address for vm in members[:2]]
        )


def test_a_run_says_for_how_long_the_database_took_no_write() -> None:
    schedule, members = cluster_of(3)
    outcome = schedule.run(provision_wish(schedule.platform, members[0].name))
    assert outcome is not None
    assert outcome.exit in (Exit.OK, Exit.DEGRADED), outcome.message
    told = {run.key: run.told for run in outcome.steps if run.told}
    assert list(told) == [f"withdraw {members[0].name}"]
    assert told[f"withdraw {members[0].name}"].startswith("no write was taken for ")
