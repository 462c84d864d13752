"""The roles of the database tier on real machines: three members behind two proxies, and what they must stand."""

import json
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pymysql
import pytest
from database_cluster import NOBODY, DatabaseCluster
from inside import network_of
from real_lab import Lab, Machine
from shop import Shop

from thems_jobs.clients.backups import Backups
from thems_jobs.clients.galera_machines import GaleraMachines
from thems_jobs.clients.mysql import Databases
from thems_jobs.core.databases import settings_of
from thems_jobs.core.facts import Backup, Member
from thems_jobs.lab import faults
from waiting import eventually

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.timeout(900)]

SUSPECTED_S = 5  # Galera waits so long for a member that is silent (evs.suspect_timeout)
NOTICED_S = 20


@pytest.fixture(scope="module")
def made(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DatabaseCluster]:
    """Three members and two proxies, from templates that were built as an operator builds them."""
    shop = Shop(lab.layout, lab.client, tmp_path_factory.mktemp("templates"))
    for tier in ("db", "proxy"):
        shop.run("template", "build", tier, "--yes", platform=lab.layout.database_platform)
    cluster = DatabaseCluster.make(lab, tmp_path_factory.mktemp("run"), members=3, proxies=2)
    with network_of(lab.layout.netns):
        cluster.converge_all()
        cluster.begin()
    yield cluster
    cluster.remove()


@pytest.fixture
def cluster(made: DatabaseCluster, lab: Lab) -> Iterator[DatabaseCluster]:
    with network_of(lab.layout.netns):
        yield made


def test_the_late_part_changes_nothing_twice(cluster: DatabaseCluster) -> None:
    cluster.converge_all()
    for log in sorted(cluster.logs.glob("ansible-converge-*.log"), key=lambda path: path.stat().st_mtime)[-2:]:
        text = log.read_text()
        assert "changed=0" in text, text
        assert "changed=1" not in text, text
        assert text.count("\nTASK [") <= 10, text


def test_every_member_tells_the_same(cluster: DatabaseCluster) -> None:
    told = [cluster.galera(machine, "show") for machine in cluster.members]
    assert len({(t["uuid"], t["running"]) for t in told}) == 1, told
    assert [t["view"] for t in told] == ["bootstrapped", "member", "member"]
    assert all(cluster.size(machine) == 3 for machine in cluster.members)
    assert all(t["data"] > 50 * 2**20 and t["version"].startswith("10.11") for t in told), told
    assert len(eventually(cluster.holders, "nobody holds the address", 15)) == 1


def test_members_talk_by_tls_and_so_does_the_shop(cluster: DatabaseCluster) -> None:
    assert "ssl://" in cluster.does(cluster.members[1], "journalctl --unit mariadb | grep 'listening at'")
    assert "Using openssl" in cluster.does(cluster.members[1], "journalctl | grep WSREP_SST")
    for machine in cluster.members:  # verified against the authority, and made for the machine's own address
        cluster.does(
            machine,
            f"cd /etc/mysql/thems && openssl verify -CAfile ca.pem -verify_ip {machine.address} certificate.pem"
            ' && test $(stat -c %a key.pem) = 640 && test "$(stat -c %a accounts.sql backup.cnf | uniq)" = 600',
        )
    with cluster.connect() as connection, connection.cursor() as cursor:
        cursor.execute("SHOW STATUS LIKE 'Ssl_cipher'")
        assert cursor.fetchall()[0][1].startswith("TLS_")
    with pytest.raises(pymysql.OperationalError, match="Access denied"):  # the jobs never without TLS
        pymysql.connect(
            host=cluster.members[0].address, user="thems", ssl_disabled=True,
            password=cluster.lab.layout.database_passwords[0].read_text().strip(),
        )  # fmt: skip


def test_the_jobs_account_can_do_what_the_jobs_do_and_no_more(cluster: DatabaseCluster) -> None:
    with cluster.connect(cluster.members[2].address, "thems") as connection, connection.cursor() as cursor:
        cursor.execute("SHOW GLOBAL STATUS LIKE 'wsrep_local_state'")
        cursor.execute("SELECT COUNT(*) FROM information_schema.PROCESSLIST")
        cursor.execute("SELECT SUM(FILE_SIZE) FROM information_schema.INNODB_SYS_TABLESPACES")
        with pytest.raises(pymysql.OperationalError, match="denied"):
            cursor.execute("CREATE DATABASE elsewhere")


def test_backups_are_seen_by_the_lock_they_hold_whoever_began_them(cluster: DatabaseCluster) -> None:
    third, settings = cluster.members[2], settings_of(cluster.platform)
    assert settings is not None
    databases = Databases(settings, cluster.lab.layout.database_platform.parent)

    def busy() -> tuple[str, ...] | None:
        seen = databases.members({third.name: third.address}, 0.5)[third.name]
        assert isinstance(seen, Member), seen
        return seen.busy

    assert busy() == ()
    with ThreadPoolExecutor(1) as pool:  # as mariadb-backup of root: an idle session
        idle = pool.submit(cluster.does, third, "(echo 'BACKUP STAGE START;'; sleep 8) | mariadb")
        eventually(lambda: busy() == ("backup (by root, MDL_BACKUP_START)",), "not seen", 6)
        idle.result()
    eventually(lambda: busy() == (), "still seen", 5)
    login = "mariadb --defaults-extra-file=/etc/mysql/thems/backup.cnf"
    assert cluster.does(third, f"{login} -BNe 'SELECT CURRENT_USER()'").strip() == "thems_backup@localhost"
    with ThreadPoolExecutor(1) as pool:
        idle = pool.submit(cluster.does, third, f"sleep 8 | {login}")
        eventually(lambda: busy() == ("a copy or backup of the whole machine, by thems_backup",), "not seen", 6)
        idle.result()


def test_a_planned_hand_over_is_hardly_noticed(cluster: DatabaseCluster) -> None:
    first, second, third = cluster.members
    with cluster.orders() as orders:
        cluster.apply([second, first, third])
        orders.wait_for_more()
    print(f"hand-over: {orders.longest_gap_s:.2f} s without an acknowledged order")
    assert orders.longest_gap_s < 2
    assert len(orders.refused) <= 4 * 2  # each session is cut off once, at the end of its grace
    for machine in cluster.members:
        orders.expect_all_at(machine)
    for view in cluster.views():
        assert (view["writer"], view["servers"][first.name]["connections"]) == (second.name, 0)
    cluster.serve(cluster.members)


def test_a_member_is_drained_leaves_and_comes_back_by_ist(cluster: DatabaseCluster) -> None:
    first, second, third = cluster.members
    with cluster.orders() as orders:
        with cluster.connect(third.address, "thems") as connection, connection.cursor() as cursor:
            cursor.execute("SET GLOBAL wsrep_reject_queries = ALL")
        eventually(lambda: "reject" in cluster.check(third), "clustercheck does not tell", 5)
        eventually(lambda: {v["servers"][third.name]["state"] for v in cluster.views()} == {"down"}, "up", 10)
        cluster.apply(cluster.members, drained=[third])
        before = cluster.galera(third, "leave")
        assert (before["running"], before["view"], before["recovered"]) == (False, "none", False)
        assert before["seqno"] > 0
        assert cluster.size(first) == 2  # a clean stop is known at once
        orders.wait_for_more()
        seconds = cluster.join(third, [first, second], donor=second)
    print(f"leave and rejoin: {orders.longest_gap_s:.2f} s without an acknowledged order; synced after {seconds:.1f} s")
    assert orders.longest_gap_s < SUSPECTED_S  # who leaves cleanly is not waited for
    assert not orders.refused
    assert re.search(r"Receiving IST: \d+ writesets", cluster.journal(third))  # what it missed, not all data
    orders.expect_all_at(third)
    cluster.serve(cluster.members)


def test_a_killed_reader_costs_no_order_and_comes_back_by_itself(cluster: DatabaseCluster) -> None:
    third = cluster.members[2]
    process = "systemctl show --property MainPID --value mariadb"
    before = cluster.does(third, process)
    with cluster.orders() as orders:
        cluster.does(third, "pkill --signal KILL mariadbd")
        eventually(lambda: cluster.does(third, process) not in (before, "0\n"), "not started again", NOTICED_S)
        eventually(lambda: cluster.size(cluster.members[0]) == 3 and cluster.synced(third), "not back", 60)
    print(f"reader killed: {orders.longest_gap_s:.2f} s without an acknowledged order")
    assert not orders.refused
    orders.expect_all_at(third)


def test_a_killed_writer_is_replaced_without_losing_an_order(cluster: DatabaseCluster) -> None:
    first, *others = cluster.members
    with cluster.orders() as orders:
        cluster.does(first, "pkill --signal KILL mariadbd")
        orders.wait_for_more()
        for machine in others:
            orders.expect_all_at(machine)
        cluster.expect_writer(first)  # it is back, synced, and the first in order
    print(f"writer killed: {orders.longest_gap_s:.2f} s without an acknowledged order")
    for machine in cluster.members:
        orders.expect_all_at(machine)
    for view in cluster.views():
        assert sum(server["connections"] > 0 for server in view["servers"].values()) <= 1, view


def test_an_empty_machine_gets_all_data_from_a_reader(cluster: DatabaseCluster) -> None:
    first, second, third = cluster.members
    with cluster.orders() as orders:
        cluster.galera(third, "leave")
        cluster.does(third, "find /var/lib/mysql -mindepth 1 -delete")
        assert cluster.galera(third, "show")["uuid"] == NOBODY
        seconds = cluster.join(third, [first, second], donor=second)
    print(f"SST: {seconds:.1f} s; {orders.longest_gap_s:.2f} s without an acknowledged order")
    assert not re.search(r"Receiving IST: \d+ writesets", cluster.journal(third))
    assert f"({second.name})(SYNCED) as donor" in cluster.journal(third)
    assert orders.longest_gap_s < SUSPECTED_S
    assert not orders.refused
    orders.expect_all_at(third)
    cluster.serve(cluster.members)


def test_a_member_comes_back_by_itself_when_those_that_it_joined_are_gone(cluster: DatabaseCluster) -> None:
    first, second, third = cluster.members
    cluster.galera(third, "leave")
    cluster.join(third, [first], donor=first)  # as if nobody else had been there
    cluster.galera(first, "leave")  # as one that is replaced
    cluster.does(third, "systemctl restart mariadb")  # as at a boot: nobody tells it whom to join
    eventually(lambda: cluster.synced(third), "it finds nobody", 60)
    assert (cluster.size(second), cluster.size(third)) == (2, 2)
    cluster.join(first, [second, third], donor=third)
    cluster.serve(cluster.members)


def test_an_empty_machine_waits_for_a_reader_and_leaves_the_writer_alone(cluster: DatabaseCluster) -> None:
    first, second, third = cluster.members
    donors = "/etc/mysql/mariadb.conf.d/91-thems-donors.cnf"
    cluster.galera(third, "leave")
    cluster.does(third, "find /var/lib/mysql -mindepth 1 -delete")
    cluster.does(second, "mariadb -e 'SET GLOBAL wsrep_desync = ON'")
    addresses = cluster.addresses([first, second])
    cluster.galera(third, "join", "--donor", second.name, "--members", addresses)
    eventually(lambda: "impossible to select State Transfer donor" in cluster.journal(third), "it does not wait", 40)
    cluster.does(second, "mariadb -e 'SET GLOBAL wsrep_desync = OFF'")
    eventually(lambda: cluster.synced(third), "it goes on waiting", 60)
    assert f"({second.name})(SYNCED) as donor" in cluster.journal(third)
    cluster.does(third, f"test ! -e {donors}")  # a later start takes what it finds
    # One whose donors have all gone ends its start, and the next one takes its data from whom it can.
    cluster.galera(third, "leave")
    cluster.does(third, "find /var/lib/mysql -mindepth 1 -delete")
    cluster.galera(third, "join", "--donor", "shop-db-99", "--members", addresses)
    eventually(lambda: cluster.synced(third), "a donor that is gone is waited for", 90)
    cluster.serve(cluster.members)


def test_nothing_begins_a_second_cluster(cluster: DatabaseCluster) -> None:
    first, second, third = cluster.members
    all_of_them = cluster.addresses(cluster.members)
    running = cluster.galera(second, "show")
    error = cluster.galera(second, "join", "--members", first.address, code=9)["error"]
    assert error == "the database runs"
    position = cluster.galera(third, "leave")
    for uuid, seqno, why in (
        (NOBODY, "-1", "cannot begin a new one"),
        (running["uuid"], str(position["seqno"] - 1), "its last transaction is"),
        (running["uuid"], str(position["seqno"]), "a member answers on"),
    ):
        told = cluster.galera(third, "bootstrap", "--uuid", uuid, "--seqno", seqno, "--absent", all_of_them, code=9)
        assert why in told["error"], told
    assert cluster.galera(third, "show") == position
    cluster.does(third, "echo _WSREP_NEW_CLUSTER=--wsrep-new-cluster > /run/mariadb-wsrep-new-cluster")  # as by a kill
    assert cluster.galera(third, "forbid-bootstrap")["safe_to_bootstrap"] is False
    cluster.does(third, "test ! -e /run/mariadb-wsrep-new-cluster")
    by_hand = "/etc/mysql/mariadb.conf.d/99-by-hand.cnf"  # as Percona's package brings one
    cluster.does(third, f"printf '[mysqld]\\nwsrep_cluster_address=gcomm://\\n' > {by_hand}")
    assert "settings say" in cluster.galera(third, "join", "--members", all_of_them, code=9)["error"]
    cluster.does(third, "systemctl start mariadb", code=1)  # nor by anybody else
    cluster.does(third, f"rm {by_hand} && systemctl reset-failed mariadb")
    cluster.join(third, [first, second], donor=second)
    assert cluster.size(first) == 3
    cluster.serve(cluster.members)


def test_a_cluster_without_power_tells_who_is_ahead_and_waits(cluster: DatabaseCluster) -> None:
    first, second, third = cluster.members
    with cluster.orders() as orders:
        cluster.galera(third, "leave")  # so it is behind
        orders.wait_for_more()
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda m: cluster.does(m, "systemctl kill --signal KILL mariadb"), (first, second)))
        orders.done.set()
    for machine in (first, second):  # they were started again, and found nobody: then they are stopped
        cluster.galera(machine, "leave")
    told = {machine.name: cluster.galera(machine, "show") for machine in cluster.members}
    assert len({t["uuid"] for t in told.values()}) == 1, told
    assert told[third.name]["seqno"] < min(told[first.name]["seqno"], told[second.name]["seqno"]), told
    ahead = max((first, second), key=lambda machine: told[machine.name]["seqno"])
    others = [machine for machine in cluster.members if machine is not ahead]
    for machine in others:
        cluster.galera(machine, "forbid-bootstrap")
    cluster.galera(
        ahead, "bootstrap", "--uuid", told[ahead.name]["uuid"], "--seqno", str(told[ahead.name]["seqno"]),
        "--absent", cluster.addresses(others),
    )  # fmt: skip
    for number, machine in enumerate(others):
        cluster.join(machine, [ahead, *others[:number]], donor=ahead)
    cluster.serve(cluster.members)
    for machine in cluster.members:
        orders.expect_all_at(machine)


def test_a_backup_of_a_reader_is_restored_into_an_empty_machine(
    made: DatabaseCluster, lab: Lab, tmp_path: Path
) -> None:
    cluster, third = made, made.members[2]
    (empty,) = cluster.new("db", ["shop-db-9"])
    with network_of(lab.layout.netns):
        with cluster.orders() as orders:
            copied = len(orders.acknowledged)
            saved = copy_of(cluster, third, tmp_path)
            took = json.loads(Path(saved.path.replace(".tar.gz", ".json")).read_text())
        gap = orders.longest_gap_s
        print(f"backup: {took['bytes'] >> 20} MiB in {took['seconds']} s, {gap:.2f} s without an acknowledged order")
        assert not orders.refused
        cluster.does(third, "test ! -e /var/lib/mysql-thems-backup")
        eventually(lambda: cluster.synced(third), "it does not serve again", 20)
        assert restore(cluster, third, saved, code=9)["error"] == "the database runs"
        cluster.converge("db", [empty])
        restored = restore(cluster, empty, saved)
        assert (restored["uuid"], restored["seqno"]) == (saved.uuid, saved.seqno)
        begin_alone(cluster, empty, restored)
        with cluster.connect(empty.address) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT session, number FROM orders WHERE run = %s", (orders.run,))
            assert {(session, number) for _, session, number in orders.acknowledged[:copied]} <= set(cursor.fetchall())
            cursor.execute("SELECT session, number FROM orders ORDER BY run, session, number")
            before = cursor.fetchall()
        cluster.galera(empty, "leave")
        again = restore(cluster, empty, saved, code=9)
        assert "holds data of the cluster" in again["error"]
        # The other kind: of a stopped database, its files as they are.
        stopped = copy_of(cluster, empty, tmp_path, stopped=True)
        cluster.does(empty, "find /var/lib/mysql -mindepth 1 -delete")
        restored = restore(cluster, empty, stopped)
        assert (restored["uuid"], restored["seqno"]) == (stopped.uuid, stopped.seqno)
        begin_alone(cluster, empty, restored)
        with cluster.connect(empty.address) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT session, number FROM orders ORDER BY run, session, number")
            assert cursor.fetchall() == before
        cluster.galera(empty, "leave")
    lab.remove(empty)


def copy_of(cluster: DatabaseCluster, machine: Machine, folder: Path, stopped: bool = False) -> Backup:
    """Copy a machine's data into a folder, as the jobs do."""
    programs = GaleraMachines(cluster.ssh)
    return Backups(folder, "shop-db-", keep=7).save(
        machine.name, lambda: programs.begin_backup(machine.address, stopped)
    )


def restore(cluster: DatabaseCluster, machine: Machine, saved: Backup, code: int = 0) -> dict[str, Any]:
    """Restore a copy into a machine, as a person does; return what it tells."""
    command = ["ssh", *cluster.ssh.options, f"thems@{machine.address}", "--", "sudo", "thems-galera", "restore"]
    with Path(saved.path).open("rb") as file:
        done = subprocess.run(command, stdin=file, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def begin_alone(cluster: DatabaseCluster, machine: Machine, restored: dict[str, Any]) -> None:
    """Let a restored machine make a cluster of its own, on purpose."""
    position = ("--uuid", restored["uuid"], "--seqno", str(restored["seqno"]))
    cluster.galera(machine, "bootstrap", *position, "--absent", machine.address)


def the_holder(cluster: DatabaseCluster) -> Machine:
    """Return the proxy that has the address, when exactly one has."""
    eventually(lambda: len(cluster.holders()) == 1, "no single holder", 20)
    (name,) = cluster.holders()
    return next(proxy for proxy in cluster.proxies if proxy.name == name)


@pytest.mark.parametrize("how", ["cut off", "haproxy killed", "without power"])
def test_the_address_and_the_orders_outlive_a_proxy(made: DatabaseCluster, lab: Lab, how: str) -> None:
    control = lab.layout.control
    with network_of(lab.layout.netns):
        made.serve(made.members)
        proxy = the_holder(made)
        with made.orders() as orders:
            if how == "haproxy killed":
                made.does(proxy, "pkill --signal KILL --exact haproxy")
            elif how == "cut off":
                faults.ask(control, {"do": "cut", "vm": proxy.vmid, "cut": True})
            else:
                faults.ask(control, {"do": "kill", "vm": proxy.vmid})
            orders.wait_for_more()
            if how == "cut off":
                faults.ask(control, {"do": "cut", "vm": proxy.vmid, "cut": False})
    print(f"proxy {how}: {orders.longest_gap_s:.2f} s without an acknowledged order, {len(orders.refused)} refused")
    if how == "without power":
        eventually(lambda: proxy.status() == "stopped", "it still runs", 20)
        proxy.boot()
    with network_of(lab.layout.netns):
        for machine in made.members:
            orders.expect_all_at(machine)
        made.expect_writer(made.members[0], [machine.name for machine in made.members])
        the_holder(made)


def test_a_proxy_without_a_writer_loses_the_address_to_one_that_has_one(cluster: DatabaseCluster) -> None:
    cluster.serve(cluster.members)
    holder = the_holder(cluster)
    (other,) = (proxy for proxy in cluster.proxies if proxy is not holder)
    with cluster.orders() as orders:
        cluster.apply([], at=[holder])  # all of its members are out of its table
        eventually(lambda: cluster.holders() == [other.name], "the address stays where nobody is served", 20)
        orders.wait_for_more()
    print(f"proxy without a writer: {orders.longest_gap_s:.2f} s without an acknowledged order")
    orders.expect_all_at(cluster.members[0])
    cluster.apply([], at=[other])
    eventually(lambda: says_no_writer(cluster, other), f"{other.name} thinks that it has a writer", 10)
    for _ in range(15):  # looks that take longer together than an address takes to move
        assert cluster.holders() == [other.name], "nobody has a writer, and the address moves all the same"
    cluster.serve(cluster.members)
    the_holder(cluster)


def says_no_writer(cluster: DatabaseCluster, proxy: Machine) -> bool:
    """Return whether a proxy's keepalived has taken notice that it has no writer, and of nothing since."""
    said = cluster.does(proxy, "journalctl --unit keepalived --output cat | grep 'effective priority' | tail -1")
    return "from 100 to 50" in said
