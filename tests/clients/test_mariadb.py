"""Database machines over the real protocol: what they tell, what is missing, and every way not to answer."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import trustme
from galera_stand_in import UUID, Galera, Table, orders
from mysql_wire import Refusal, Served, Wires, open_wires

from thems_jobs.clients.mysql import Databases, mariadb
from thems_jobs.clients.mysql import wire as wire_module
from thems_jobs.core.facts import Member, Unknown
from thems_jobs.core.platform import Application, DatabaseCluster
from thems_jobs.errors import Unreachable, UsageError

PASSWORDS = {"thems": "correct horse"}
WINDOW_S = 0.2


@pytest.fixture(scope="module")
def wires(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wires]:
    folder = tmp_path_factory.mktemp("databases")
    (folder / "password").write_text("correct horse\n")
    with open_wires(folder) as wires:
        yield wires


def settings(wires: Wires, **changes: Any) -> DatabaseCluster:
    plain = DatabaseCluster(
        "db", "proxy", "10.77.0.20", 78, wires.ca_file.name, "none", "password", Application("shop", "shop", "none"),
        sample_s=WINDOW_S,
    )  # fmt: skip
    return replace(plain, **changes)


def databases(wires: Wires, **changes: Any) -> Databases:
    return Databases(settings(wires, **changes), wires.folder)


def look(wires: Wires, member: Galera, **changes: Any) -> Member:
    seen = databases(wires, **changes).members({"shop-db-1": wires.serve(member.answer, PASSWORDS).address})
    found = seen["shop-db-1"]
    assert isinstance(found, Member), found
    return found


def reason(wires: Wires, served: Served, **changes: Any) -> str:
    found = databases(wires, **changes).members({"shop-db-1": served.address})["shop-db-1"]
    assert isinstance(found, Unknown), found
    return found.reason


def test_a_member_tells_all_of_itself(wires: Wires) -> None:
    seen = look(wires, Galera(index=2))
    assert (seen.status, seen.uuid, seen.view, seen.size, seen.index, seen.state) == ("Primary", UUID, 7, 3, 2, 4)
    assert (seen.connected, seen.ready, seen.busy, seen.connections) == (True, True, (), 2)
    assert set(seen.switches.values()) == {"NONE", "OFF"}
    assert len(seen.switches) == 3
    assert (seen.seqno, seen.gcache_downto, seen.gcache_bytes) == (90_000, 40_000, 128 << 20)
    assert (seen.receive_queue, seen.flow_control_ratio, seen.data_bytes) == (0.0, 0.0, 48_873_472)
    assert seen.version.startswith("10.11")


def test_sessions_that_nobody_uses_any_more_do_not_count(wires: Wires) -> None:
    """A proxy that lost its power has left them; the member would count them for hours."""
    assert look(wires, Galera(idle_s=50)).connections == 2
    assert look(wires, Galera(idle_s=70)).connections == 1, "one is in the middle of a statement"


def test_rates_are_of_the_window(wires: Wires) -> None:
    member = Galera(stopped_ratio=0.25, queue=40, bytes_s=5e6)
    seen = look(wires, member, sample_s=2.0)  # so long that what a busy machine adds to it is little
    assert seen.flow_control_ratio == pytest.approx(0.25, rel=0.2)
    assert seen.receive_queue == 40
    assert seen.write_bytes_s is not None
    assert 2e6 < seen.write_bytes_s < 8e6


def test_averages_since_the_start_mean_nothing_to_us(wires: Wires) -> None:
    """A member that stopped the writers all last night has an average that says so, and does not do so now."""
    member = Galera(status={"wsrep_local_recv_queue_avg": "312.5", "wsrep_flow_control_paused": "0.83"})
    seen = look(wires, member)
    assert (seen.receive_queue, seen.flow_control_ratio) == (0.0, 0.0)


def test_counters_that_were_set_back_meanwhile_are_a_missing_fact(wires: Wires) -> None:
    member = Galera(stopped_ratio=0.5)
    member._began -= 3600
    answer = member.answer

    def flush_after_first(statement: str) -> Any:
        result = answer(statement)
        member.flushed = member.flushed or statement.startswith("SHOW GLOBAL STATUS WHERE")
        return result

    served = wires.serve(flush_after_first, PASSWORDS)
    found = databases(wires).members({"shop-db-1": served.address})["shop-db-1"]
    assert isinstance(found, Member)
    assert (found.flow_control_ratio, found.write_bytes_s) == (None, None)


def looks(wires: Wires, served: Served, **changes: Any) -> Callable[[], Member]:
    """Return looks of one run at one member."""
    run = databases(wires, **changes)

    def look_again() -> Member:
        found = run.members({"shop-db-1": served.address})["shop-db-1"]
        assert isinstance(found, Member), found
        return found

    return look_again


def test_a_window_that_began_with_an_earlier_look_shows_what_happened_between_the_two(wires: Wires) -> None:
    member = Galera(status={"wsrep_flow_control_paused_ns": "5000"})
    look_again = looks(wires, wires.serve(member.answer, PASSWORDS))
    assert look_again().flow_control_ratio == 0
    member.status["wsrep_flow_control_paused_ns"] = str(5000 + 10**8)
    seen = look_again()
    assert seen.window_s > WINDOW_S
    assert seen.flow_control_ratio == pytest.approx(0.1 / seen.window_s, rel=0.01)


def test_a_window_is_never_shorter_than_asked_for(wires: Wires) -> None:
    member = Galera()
    look_again = looks(wires, wires.serve(member.answer, PASSWORDS))
    seen = [look_again() for _ in range(5)]
    assert all(found.window_s >= WINDOW_S for found in seen), seen
    assert len([asked for asked in member.asked if "wsrep\\_%" in asked]) == 10, "two samples in each look"


def test_a_burst_in_the_receive_queue_counts_by_its_part_of_the_window(wires: Wires) -> None:
    member = Galera()
    look_again = looks(wires, wires.serve(member.answer, PASSWORDS))
    look_again()
    member.queue = 90
    assert 0 < (look_again().receive_queue or 0) < 90


def test_an_earlier_look_before_a_restart_is_forgotten(wires: Wires) -> None:
    member = Galera(stopped_ratio=0.5)
    member._began -= 3600
    look_again = looks(wires, wires.serve(member.answer, PASSWORDS))
    look_again()
    member.flushed = True
    seen = look_again()
    assert seen.flow_control_ratio == pytest.approx(0.5, rel=0.2)
    assert seen.window_s < 2 * WINDOW_S


@pytest.mark.parametrize(
    ("missing", "fact"),
    [
        ("wsrep_cluster_status", "status"),
        ("wsrep_cluster_state_uuid", "uuid"),
        ("wsrep_cluster_conf_id", "view"),
        ("wsrep_cluster_size", "size"),
        ("wsrep_local_index", "index"),
        ("wsrep_local_state", "state"),
        ("wsrep_connected", "connected"),
        ("wsrep_ready", "ready"),
        ("wsrep_last_committed", "seqno"),
        ("wsrep_local_cached_downto", "gcache_downto"),
        ("wsrep_provider_options", "gcache_bytes"),
    ],
)
def test_what_a_member_does_not_tell_is_none(wires: Wires, missing: str, fact: str) -> None:
    member = Galera()
    (member.variables if missing in member.variables else member.status).pop(missing)
    assert getattr(look(wires, member), fact) is None


def test_galeras_word_for_none_is_none(wires: Wires) -> None:
    lost = dict.fromkeys(("wsrep_cluster_conf_id", "wsrep_local_index"), "18446744073709551615")
    member = Galera(status={**lost, "wsrep_cluster_status": "non-Primary", "wsrep_last_committed": "-1"})
    seen = look(wires, member)
    assert (seen.status, seen.view, seen.index, seen.seqno) == ("non-Primary", None, None, None)


@pytest.mark.parametrize(
    ("session", "busy"),
    [
        ((20, "shop", "Query", "copy to tmp table", "ALTER TABLE wp_posts ADD COLUMN x INT"), "schema change"),
        ((20, "system user", "Sleep", "altering table", "/* WSREP */ create unique index a on b (c)"), "schema change"),
        ((20, "admin", "Query", "", "INSERT LOW_PRIORITY IGNORE INTO _a_new /*pt-online-schema-change 7*/"), "schema"),
        ((20, "root", "Query", "", "BACKUP STAGE BLOCK_COMMIT"), "backup"),
        ((20, "root", "Query", "Sending data", "SELECT /*!40001 SQL_NO_CACHE */ `id` FROM `wp_posts`"), "backup"),
        ((20, "mysql", "Sleep", "", None), "copy or backup"),
        ((20, "thems_backup", "Sleep", "", None), "copy or backup"),
        ((20, "shop", "Query", "", "ALTER ONLINE IGNORE TABLE wp_posts ADD COLUMN x INT"), "schema change"),
        ((20, "shop", "Query", "", "alter ignore table wp_posts add unique (x)"), "schema change"),
        ((20, "shop", "Query", "", "CREATE OR REPLACE UNIQUE INDEX a ON wp_posts (x)"), "schema change"),
    ],
)
def test_what_a_change_must_not_meet_is_seen(wires: Wires, session: tuple[Any, ...], busy: str) -> None:
    member = Galera()
    member.sessions = [*member.sessions, session]  # type: ignore[list-item]
    seen = look(wires, member)
    assert len(seen.busy or ()) == 1
    assert busy in (seen.busy or ())[0]


@pytest.mark.parametrize("user", ["root", "shop", "mysql"])
@pytest.mark.parametrize(
    ("flavour", "held", "busy"),
    [
        ("mariadb", "MDL_BACKUP_START", "backup"),
        ("mariadb", "MDL_BACKUP_WAIT_DDL", "backup"),
        ("mariadb", "MDL_BACKUP_FTWRL2", "backup"),
        ("mariadb", "MDL_BACKUP_ALTER_COPY", "schema change"),
        ("mariadb", "MDL_BACKUP_DDL", "schema change"),
        ("mariadb", "MDL_BACKUP_TRANS_DML", ""),
        ("mariadb", "MDL_BACKUP_COMMIT", ""),
        ("percona", "BACKUP LOCK SHARED", "backup"),
        ("percona", "BACKUP_TABLES SHARED", "backup"),
        ("percona", "GLOBAL SHARED", "backup"),
        ("percona", "BACKUP LOCK INTENTION_EXCLUSIVE", "schema change"),
        ("percona", "GLOBAL INTENTION_EXCLUSIVE", ""),
    ],
)
def test_backups_and_schema_changes_are_seen_by_their_locks_whoever_began_them(
    wires: Wires, flavour: str, held: str, busy: str, user: str
) -> None:
    """So is mariadb-backup of root, which is idle between its statements."""
    member = Galera(flavour=flavour, locks=[(20, held)])
    health = "information_schema" if user == "mysql" else None
    member.sessions = [*member.sessions, (20, user, "Sleep", "", None, health)]  # type: ignore[list-item]
    assert look(wires, member, flavour=flavour).busy == ((f"{busy} (by {user}, {held})",) if busy else ())


def test_what_is_seen_in_two_ways_is_said_once(wires: Wires) -> None:
    member = Galera(locks=[(20, "MDL_BACKUP_ALTER_COPY"), (21, "MDL_BACKUP_START")])
    altering, copying = (20, "shop", "Query", "", "ALTER TABLE t FORCE"), (21, "mysql", "Sleep", "", None)
    member.sessions = [*member.sessions, altering, copying, (22, "mysql", "Sleep", "", None)]
    assert look(wires, member).busy == (
        "schema change (ALTER TABLE t FORCE)", "a copy or backup of the whole machine, by mysql",
    )  # fmt: skip


def test_a_dump_is_seen_between_two_tables(wires: Wires) -> None:
    member = Galera()
    answer, idle = member.answer, member.sessions
    member.sessions = [*idle, (20, "root", "Query", "", "SELECT /*!40001 SQL_NO_CACHE */ * FROM `wp_posts`")]

    def go_on(statement: str) -> Any:
        result = answer(statement)
        if "PROCESSLIST" in statement:
            member.sessions = [*idle, (20, "root", "Sleep", "", None)]
        return result

    found = databases(wires).members({"shop-db-1": wires.serve(go_on, PASSWORDS).address})["shop-db-1"]
    assert isinstance(found, Member)
    assert len(found.busy or ()) == 1


@pytest.mark.parametrize("flavour", ["mariadb", "percona"])
def test_a_member_that_shows_no_locks_is_judged_by_its_sessions(wires: Wires, flavour: str) -> None:
    """One that an older version has configured, until its next start."""
    member = Galera(flavour=flavour, locks=None)
    assert look(wires, member, flavour=flavour).busy == ()
    member.sessions = [*member.sessions, (20, "mysql", "Sleep", "", None)]
    assert look(wires, member, flavour=flavour).busy == ("a copy or backup of the whole machine, by mysql",)


@pytest.mark.parametrize(
    "statement", ["SELECT 'ALTER TABLE x'", "UPDATE t SET a = 'backup stage'", "SHOW CREATE TABLE t"]
)
def test_ordinary_statements_are_not_work_on_the_cluster(wires: Wires, statement: str) -> None:
    member = Galera()
    member.sessions = [*member.sessions, (20, "shop", "Query", "", statement)]
    assert look(wires, member).busy == ()


def test_the_health_check_that_stays_connected_is_no_copy(wires: Wires) -> None:
    member = Galera()
    member.sessions = [*member.sessions, (20, "mysql", "Sleep", "", None, "information_schema")]  # type: ignore[list-item]
    assert look(wires, member).busy == ()


def test_health_checks_of_the_machine_itself_are_no_copy(wires: Wires) -> None:
    member, number = Galera(), iter(range(100, 200))
    answer = member.answer

    def with_check(statement: str) -> Any:
        member.sessions = [row for row in member.sessions if row[1] != "mysql"]
        member.sessions.append((next(number), "mysql", "Sleep", "", None))
        return answer(statement)

    served = wires.serve(with_check, PASSWORDS)
    found = databases(wires).members({"shop-db-1": served.address})["shop-db-1"]
    assert isinstance(found, Member)
    assert found.busy == ()


# Ways not to answer


def test_a_wrong_password_is_named_but_not_told(wires: Wires) -> None:
    (wires.folder / "wrong").write_text("battery staple")
    text = reason(wires, wires.serve(Galera().answer, PASSWORDS), password_file="wrong")
    assert "Access denied" in text
    assert "battery" not in text


def test_a_stranger_s_certificate_is_refused(wires: Wires) -> None:
    member = Galera()
    text = reason(wires, wires.serve(member.answer, PASSWORDS, by=trustme.CA()))
    assert "its certificate is not one of ours" in text
    assert member.asked == []


def test_a_server_without_tls_is_refused_before_the_password(wires: Wires) -> None:
    assert "SSL is required" in reason(wires, wires.serve_openly(Galera().answer, PASSWORDS))


def test_a_closed_port_is_said(wires: Wires) -> None:
    assert (
        reason(wires, Served("127.0.0.1:1", wires.serve(Galera().answer, PASSWORDS).trouble)) == "Connection refused."
    )


@pytest.mark.parametrize(
    ("trouble", "text"),
    [
        ({"refuse": True}, ""),
        ({"nonsense": b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n"}, ""),
        ({"nonsense": b"\x00" * 64}, ""),
        ({"nonsense": bytes(range(256))}, ""),
        ({"cut_after": 40}, ""),
        ({"cut_after": 3000}, ""),
        ({"cut_after": 4200}, ""),
    ],
    ids=str,
)
def test_what_breaks_off_is_unknown(wires: Wires, trouble: dict[str, Any], text: str) -> None:
    served = wires.serve(Galera().answer, PASSWORDS)
    for name, value in trouble.items():
        setattr(served.trouble, name, value)
    assert text in reason(wires, served)


@pytest.mark.parametrize("trouble", [{"deaf": True}, {"drip_s": 0.05}, {"delay_s": 0.4}], ids=str)
def test_nobody_keeps_us_longer_than_the_limit(
    wires: Wires, monkeypatch: pytest.MonkeyPatch, trouble: dict[str, Any]
) -> None:
    """However it is spread: silence, single bytes, or a pause before each piece."""
    monkeypatch.setattr(mariadb, "LIMIT_S", 0.8)
    monkeypatch.setattr(wire_module, "ANSWER_S", 30.0)
    served = wires.serve(Galera().answer, PASSWORDS)
    for name, value in trouble.items():
        setattr(served.trouble, name, value)
    assert "does not come to an end within 1 s" in reason(wires, served)


def test_an_error_in_the_middle_is_unknown(wires: Wires) -> None:
    def refuse(_statement: str) -> Any:
        raise Refusal(1047, "WSREP has not yet prepared node for application use")

    assert reason(wires, wires.serve(refuse, PASSWORDS)) == (
        "WSREP has not yet prepared node for application use (1047)."
    )


def test_a_silent_member_takes_nothing_from_the_others(wires: Wires, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mariadb, "LIMIT_S", 4.0)
    served = {f"shop-db-{n}": wires.serve(Galera(index=n).answer, PASSWORDS) for n in range(4)}
    served["shop-db-2"].trouble.deaf = True
    seen = databases(wires).members({name: one.address for name, one in served.items()})
    assert [isinstance(found, Unknown) for found in seen.values()] == [False, False, True, False]


def test_unusable_secrets_are_usage_errors(wires: Wires) -> None:
    with pytest.raises(UsageError, match="nothing: it cannot be read"):
        databases(wires, password_file="nothing")
    with pytest.raises(UsageError, match="no CA certificate can be read"):
        databases(wires, ca_file="password")


# Changes


@pytest.mark.parametrize(
    ("flavour", "switch", "out", "into"),
    [("mariadb", "wsrep_reject_queries", "ALL", "NONE"), ("percona", "pxc_maint_mode", "MAINTENANCE", "DISABLED")],
)
def test_a_member_is_taken_out_of_service_and_back(
    wires: Wires, flavour: str, switch: str, out: str, into: str
) -> None:
    member = Galera(flavour=flavour)
    address = wires.serve(member.answer, PASSWORDS).address
    client = databases(wires, flavour=flavour)
    for on, value in ((True, out), (True, out), (False, into), (False, into)):
        client.reject_queries("shop-db-1", address, on)
        assert member.variables[switch] == value
    assert look(wires, member, flavour=flavour).switches[switch] == into


def test_percona_confirms_maintenance_after_its_transition_period(
    wires: Wires, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Longer than any other answer may take; the switch itself has changed at once, so the proxies drain meanwhile."""
    monkeypatch.setattr(wire_module, "ANSWER_S", 1.5)
    monkeypatch.setattr(mariadb, "LIMIT_S", 2.0)
    member = Galera(flavour="percona", variables={"pxc_maint_transition_period": "3"})
    client, served = databases(wires, flavour="percona"), wires.serve(member.answer, PASSWORDS)
    client.reject_queries("shop-db-1", served.address, True)
    assert member.variables["pxc_maint_mode"] == "MAINTENANCE"


def test_a_change_that_is_not_confirmed_is_unreachable(wires: Wires) -> None:
    served = wires.serve(Galera().answer, PASSWORDS)
    served.trouble.refuse = True
    with pytest.raises(Unreachable, match="shop-db-1"):
        databases(wires).reject_queries("shop-db-1", served.address, True)


@pytest.mark.parametrize(
    ("tables", "wrong"),
    [
        ({"wp_orders": orders(5000)}, ()),
        ({"wp_orders": orders(4999)}, ("table wp_orders has come to 4999, not to 5000",)),
        ({"wp_orders": orders(0)}, ("table wp_orders has come to 0, not to 5000",)),
        ({}, ("table wp_orders is missing",)),
        ({"wp_orders": Table([("id", "int(11)", "auto_increment")], 5000)}, ("table wp_orders has other columns",)),
    ],
)
def test_data_that_did_not_arrive_is_seen(wires: Wires, tables: dict[str, Table], wrong: tuple[str, ...]) -> None:
    copy = Galera(tables=tables)
    source = wires.serve(Galera().answer, PASSWORDS).address
    pair = (("shop-db-1", source), ("shop-db-4", wires.serve(copy.answer, PASSWORDS).address))
    assert databases(wires).differences(*pair) == wrong
    assert "SET SESSION wsrep_sync_wait = 1" in copy.asked


def test_data_that_goes_on_meanwhile_is_no_difference(wires: Wires) -> None:
    member, copy = Galera(), Galera(tables={"wp_orders": orders(5007)})
    answer = member.answer

    def write(statement: str) -> Any:
        if "MAX(" in statement:
            member.tables["wp_orders"].highest += 10
        return answer(statement)

    pair = (
        ("shop-db-1", wires.serve(write, PASSWORDS).address),
        ("shop-db-4", wires.serve(copy.answer, PASSWORDS).address),
    )
    assert databases(wires).differences(*pair) == ("table wp_orders has come to 5007, not to 5020",)
    copy.tables["wp_orders"].highest = 5035
    assert databases(wires).differences(*pair) == ()
