"""ProxySQL's admin interface over the real protocol: what it shows, what it is given, and that it lasts."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from galera_stand_in import Galera
from mysql_wire import Served, Wires, open_wires
from proxysql_stand_in import BACKUP, OFFLINE, READER, WRITER, ProxySqlServer

from thems_jobs.clients.mysql import ProxySql, proxysql
from thems_jobs.core.facts import Proxy, Unknown
from thems_jobs.core.platform import Application, DatabaseCluster
from thems_jobs.errors import EffectFailed, Transient, Unreachable
from thems_jobs.jobs.databases import demand_others

ADDRESSES = {f"shop-db-{n}": f"10.77.3.{10 + n}" for n in (1, 2, 3)}
NAMES = {f"{address}:3306": name for name, address in ADDRESSES.items()}


@pytest.fixture(scope="module")
def wires(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wires]:
    folder = tmp_path_factory.mktemp("proxysql")
    (folder / "password").write_text("open sesame\n")
    with open_wires(folder) as wires:
        yield wires


@pytest.fixture
def members() -> dict[str, Galera]:
    return {address: Galera(index=n, flavour="percona") for n, address in enumerate(NAMES)}


class Pair:
    """Two proxies before the same members, and our client for them."""

    def __init__(self, wires: Wires, members: dict[str, Galera]) -> None:
        self.servers = [ProxySqlServer(members), ProxySqlServer(members)]
        for server in self.servers:
            server.fill(NAMES)
        self.served: list[Served] = [wires.serve(server.answer, {"thems": "open sesame"}) for server in self.servers]
        self.hosts = {f"shop-proxy-{n + 1}": one.address for n, one in enumerate(self.served)}
        settings = DatabaseCluster(
            "db", "proxy", "10.77.0.20", 78, wires.ca_file.name, "none", "none", Application("shop", "shop", "none"),
            flavour="percona", proxy="proxysql", proxysql_password_file="password",
        )  # fmt: skip
        self.client = ProxySql(settings, wires.folder)

    def show(self) -> dict[str, Proxy]:
        seen = self.client.show(self.hosts, ADDRESSES)
        assert all(isinstance(view, Proxy) for view in seen.values()), seen
        return {name: view for name, view in seen.items() if isinstance(view, Proxy)}


@pytest.fixture
def pair(wires: Wires, members: dict[str, Galera]) -> Pair:
    return Pair(wires, members)


def test_every_proxy_shows_writer_members_and_sessions(pair: Pair) -> None:
    pair.servers[0].used["10.77.3.11:3306"] = 17
    views = pair.show()
    assert {view.writer for view in views.values()} == {"shop-db-1"}
    assert {name: seen.status for name, seen in views["shop-proxy-1"].backends.items()} == dict.fromkeys(
        ADDRESSES, "up"
    )
    assert views["shop-proxy-1"].backends["shop-db-1"].connections == 17
    assert views["shop-proxy-2"].backends["shop-db-1"].connections == 0
    assert len({view.generation for view in views.values()}) == 1


def test_the_writes_are_handed_over_on_both_and_it_lasts(pair: Pair) -> None:
    pair.client.hand_over(pair.hosts, ADDRESSES, "shop-db-3")
    for server in pair.servers:
        assert (WRITER, "shop-db-3", "ONLINE") in server.servers()
        server.restart()
        server.look()
        assert [line[1] for line in server.servers() if (line[0], line[2]) == (WRITER, "ONLINE")] == ["shop-db-3"]
    assert {view.writer for view in pair.show().values()} == {"shop-db-3"}


def test_members_come_and_go_on_both(pair: Pair, members: dict[str, Galera]) -> None:
    members["10.77.3.14:3306"] = Galera(index=3, flavour="percona")
    more = {**ADDRESSES, "shop-db-4": "10.77.3.14"}
    pair.client.change(pair.hosts, more)
    seen = pair.client.show(pair.hosts, more)
    assert all(isinstance(view, Proxy) and set(view.backends) == set(more) for view in seen.values())
    fewer = {name: address for name, address in ADDRESSES.items() if name != "shop-db-2"}
    pair.client.change(pair.hosts, fewer)
    for server in pair.servers:
        assert "shop-db-2" not in {comment for layer in ("", "runtime_", "disk.")
                                   for _, comment, _ in server.servers(layer)}  # fmt: skip


def test_the_same_change_again_changes_nothing(pair: Pair) -> None:
    pair.client.change(pair.hosts, ADDRESSES)
    before = [server.servers("disk.") for server in pair.servers]
    generations = {name: view.generation for name, view in pair.show().items()}
    pair.client.change(pair.hosts, ADDRESSES, generations)
    assert [server.servers("disk.") for server in pair.servers] == before
    assert {name: view.generation for name, view in pair.show().items()} == generations


def test_offline_soft_does_not_last_so_the_member_s_own_switch_drains(pair: Pair, members: dict[str, Galera]) -> None:
    """The reason why a drain is never OFFLINE_SOFT alone."""
    server = pair.servers[0]
    server.answer("UPDATE mysql_servers SET status = 'OFFLINE_SOFT' WHERE hostname = '10.77.3.12'")
    server.answer("LOAD MYSQL SERVERS TO RUNTIME")
    server.look()
    assert pair.show()["shop-proxy-1"].backends["shop-db-2"].status == "up"
    members["10.77.3.12:3306"].variables["pxc_maint_mode"] = "MAINTENANCE"
    for one in pair.servers:
        one.look()
    assert {view.backends["shop-db-2"].status for view in pair.show().values()} == {"down"}
    assert [line for line in server.servers() if line[1] == "shop-db-2"] == [
        (WRITER, "shop-db-2", "SHUNNED"), (READER, "shop-db-2", "SHUNNED"), (OFFLINE, "shop-db-2", "ONLINE"),
    ]  # fmt: skip


def test_what_an_operator_set_for_a_server_stays_also_when_it_becomes_the_writer(pair: Pair) -> None:
    server = pair.servers[0]
    server.answer("UPDATE mysql_servers SET max_connections = 77, use_ssl = 0 WHERE hostname = '10.77.3.12'")
    pair.client.hand_over(pair.hosts, ADDRESSES, "shop-db-2")
    pair.client.hand_over(pair.hosts, ADDRESSES, "shop-db-1")
    columns = "SELECT DISTINCT max_connections, use_ssl FROM {}mysql_servers WHERE hostname = '10.77.3.12'"
    for layer in ("", "runtime_", "disk."):
        assert server.answer(columns.format(layer))[0] == [("77", "1")], layer


def test_new_members_are_spoken_to_with_tls_or_the_monitor_could_not_log_in(
    pair: Pair, members: dict[str, Galera]
) -> None:
    members["10.77.3.14:3306"] = Galera(index=3, flavour="percona")
    more = {**ADDRESSES, "shop-db-4": "10.77.3.14"}
    pair.client.change(pair.hosts, more)
    for view in pair.client.show(pair.hosts, more).values():
        assert isinstance(view, Proxy)
        assert view.backends["shop-db-4"].status == "up"


def test_a_change_after_our_own_is_no_change_by_somebody_else(pair: Pair) -> None:
    """Facts may be older than what this run has just written."""
    before = {name: view.generation for name, view in pair.show().items()}
    fewer = {name: address for name, address in ADDRESSES.items() if name != "shop-db-3"}
    pair.client.change(pair.hosts, fewer, before)
    pair.client.change(pair.hosts, ADDRESSES, before)
    assert set(pair.show()["shop-proxy-1"].backends) == set(ADDRESSES)


def test_a_proxy_is_ready_when_it_lets_us_in_and_has_its_hostgroups(pair: Pair) -> None:
    name, address = next(iter(pair.hosts.items()))
    pair.client.check(name, address)
    assert "PROXYSQL RELOAD TLS" in pair.servers[0].asked
    pair.servers[0].answer("DELETE FROM runtime_mysql_galera_hostgroups")
    with pytest.raises(Transient, match="0 sets of Galera hostgroups"):
        pair.client.check(name, address)
    pair.served[0].trouble.refuse = True
    with pytest.raises(Transient, match="admin interface"):
        pair.client.check(name, address)


def test_where_offline_soft_does_last_it_is_shown_as_drained(pair: Pair) -> None:
    server = pair.servers[1]
    server.flips_back = False
    server.answer("UPDATE mysql_servers SET status = 'OFFLINE_SOFT' WHERE hostname = '10.77.3.12'")
    server.answer("LOAD MYSQL SERVERS TO RUNTIME")
    assert pair.show()["shop-proxy-2"].backends["shop-db-2"].status == "drained"


def test_a_member_that_fails_is_down_and_the_next_one_writes(pair: Pair, members: dict[str, Galera]) -> None:
    members["10.77.3.11:3306"].status["wsrep_local_state"] = "1"
    for server in pair.servers:
        server.look()
    views = pair.show()
    assert {(view.writer, view.backends["shop-db-1"].status) for view in views.values()} == {("shop-db-2", "down")}
    assert (READER, "shop-db-3", "ONLINE") in pair.servers[0].servers()
    assert (BACKUP, "shop-db-3", "ONLINE") in pair.servers[0].servers()


def test_nobody_is_drained_who_is_the_last_that_serves(pair: Pair, members: dict[str, Galera]) -> None:
    demand_others(pair.show(), frozenset({"shop-db-1"}))
    for address in ("10.77.3.12:3306", "10.77.3.13:3306"):
        members[address].variables["wsrep_desync"] = "ON"
    pair.servers[1].look()
    with pytest.raises(Transient, match="no member left"):
        demand_others(pair.show(), frozenset({"shop-db-1"}))


def test_a_stranger_in_the_list_has_the_name_it_was_given(pair: Pair, members: dict[str, Galera]) -> None:
    members["10.9.9.9:3306"] = Galera()
    pair.servers[0].answer(
        "INSERT INTO mysql_servers (hostgroup_id, hostname, comment) VALUES (12, '10.9.9.9', 'test')"
    )
    pair.servers[0].answer("LOAD MYSQL SERVERS TO RUNTIME")
    assert "test" in pair.show()["shop-proxy-1"].backends
    pair.client.change(pair.hosts, ADDRESSES)
    assert "test" not in pair.show()["shop-proxy-1"].backends


def test_a_list_that_somebody_else_changed_is_left_alone(pair: Pair) -> None:
    generations = {name: view.generation for name, view in pair.show().items()}
    pair.servers[1].answer("UPDATE mysql_servers SET weight = 5 WHERE hostname = '10.77.3.12'")
    before = [server.servers("") for server in pair.servers]
    with pytest.raises(Transient, match="changed by somebody else"):
        pair.client.change(pair.hosts, {"shop-db-1": ADDRESSES["shop-db-1"]}, generations)
    assert [server.servers("") for server in pair.servers] == before


def test_while_one_proxy_is_silent_nothing_is_changed_anywhere(pair: Pair) -> None:
    pair.served[1].trouble.refuse = True
    with pytest.raises(Unreachable, match="shop-proxy-2"):
        pair.client.hand_over(pair.hosts, ADDRESSES, "shop-db-3")
    assert {line[1] for line in pair.servers[0].servers("") if line[0] == WRITER} == {"shop-db-1"}
    assert isinstance(pair.client.show(pair.hosts, ADDRESSES)["shop-proxy-2"], Unknown)


def test_a_proxy_that_does_not_do_as_told_is_a_failure(
    pair: Pair, members: dict[str, Galera], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writes cannot go to a member that its monitor finds ill, whatever the weights."""
    monkeypatch.setattr(proxysql, "FOLLOW_S", 0.5)
    members["10.77.3.13:3306"].variables["wsrep_desync"] = "ON"
    with pytest.raises(EffectFailed, match=r"writer shop-db-1.*not writer shop-db-3"):
        pair.client.hand_over(pair.hosts, ADDRESSES, "shop-db-3")


def test_a_proxy_without_galera_hostgroups_is_unknown(pair: Pair) -> None:
    pair.servers[0].answer("DELETE FROM runtime_mysql_galera_hostgroups")
    seen = pair.client.show(pair.hosts, ADDRESSES)["shop-proxy-1"]
    assert isinstance(seen, Unknown)
    assert "0 sets of Galera hostgroups" in seen.reason


@pytest.mark.parametrize(
    "trouble", [{"cut_after": 2500}, {"nonsense": b"220 mail ESMTP\r\n"}, {"refuse": True}], ids=str
)
def test_what_breaks_off_is_unknown(pair: Pair, trouble: dict[str, Any]) -> None:
    for name, value in trouble.items():
        setattr(pair.served[0].trouble, name, value)
    seen = pair.client.show(pair.hosts, ADDRESSES)
    assert [isinstance(view, Unknown) for view in seen.values()] == [True, False]


def test_a_wrong_admin_password_is_unknown(pair: Pair, wires: Wires) -> None:
    (wires.folder / "wrong").write_text("close sesame")
    settings = DatabaseCluster(
        "db", "proxy", "10.77.0.20", 78, wires.ca_file.name, "none", "none", Application("shop", "shop", "none"),
        proxy="proxysql", proxysql_password_file="wrong",
    )  # fmt: skip
    seen = ProxySql(replace(settings, flavour="percona"), wires.folder).show(pair.hosts, ADDRESSES)
    assert all(isinstance(view, Unknown) and "Access denied" in view.reason for view in seen.values())
