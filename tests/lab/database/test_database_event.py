"""The database tier by the command line, while a shop writes orders: an event that takes web and database, and back."""

import hashlib
import json
from datetime import datetime

import pytest
from database_shop import DatabaseShop
from orders import connect, writing
from shop import later

from waiting import eventually

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.timeout(900)]


def test_a_cluster_made_from_nothing_is_well(shop: DatabaseShop) -> None:
    assert shop.members() == ["shop-db-1", "shop-db-2", "shop-db-3"]
    shop.health()


def test_an_event_takes_database_and_web_in_one_plan_and_no_order_is_lost(shop: DatabaseShop) -> None:
    with writing(shop.layout) as orders:
        up = shop.do("scale", "--tier", "db=5", "--tier", "web=3", "--event", "test", "--until", later(4), "--yes")
        assert len(shop.members()) == 5
        assert up.steps.index(("serve", "shop-db-5")) < up.steps.index(("admit", "shop-web-3"))
        down = shop.do("scale", "--end", "test", "--yes")
        assert shop.members() == ["shop-db-1", "shop-db-2", "shop-db-3"]
    (copy,) = [target for action, target in down.steps if action == "backup"]
    assert copy in shop.members()
    assert copy != "shop-db-1", "the writer was copied"
    expect_backup(shop, copy)
    first = min(down.steps.index(step) for step in down.steps if step[0] == "leave")
    assert down.steps.index(("backup", copy)) < first
    leaves = [step for step in down.steps if step[0] == "leave"]
    assert len(leaves) == 2
    assert down.steps.index(("destroy", leaves[0][1])) < down.steps.index(("withdraw", leaves[1][1]))
    print(f"3 → 5 → 3: {len(orders.acknowledged)} orders, {len(orders.refused)} refused, {orders.longest_gap_s:.2f} s")
    assert not orders.refused, orders.refused[:3]
    for vm in shop.tier("db"):
        orders.expect_all_at(vm)
    shop.health()


def expect_backup(shop: DatabaseShop, member: str) -> None:
    """Find a whole copy of this member in the platform's backup folder, and nothing that is half a copy."""
    folder = shop.layout.backups
    (note,) = folder.glob(f"{member}-*.json")
    told = json.loads(note.read_text())
    copy = note.with_suffix(".tar.gz")
    assert (told["member"], told["bytes"]) == (member, copy.stat().st_size)
    with copy.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == told["sha256"]
    assert not list(folder.glob("*.partial"))


def test_the_writer_is_replaced_and_hands_over_first(shop: DatabaseShop) -> None:
    with writing(shop.layout) as orders:
        run = shop.do("provision", "--replace", "shop-db-1", "--yes")
    assert "shop-db-1" not in shop.members()
    assert len(shop.members()) == 3
    assert run.steps.index(("serve", "shop-db-4")) < run.steps.index(("withdraw", "shop-db-1"))
    step = next(step for step in run.report["steps"] if step["key"] == "withdraw shop-db-1")
    began, ended = (datetime.fromisoformat(step[key]).timestamp() for key in ("started_at", "ended_at"))
    early = [at for at in orders.refused_at if not began - 1 <= at <= ended + 1]
    print(f"writer replaced: {orders.longest_gap_s:.2f} s without an acknowledged order; the report: {step['told']}")
    assert "no write was taken for" in step["told"], "the report does not say for how long no write was taken"
    assert not early, f"refused before or after the seconds that the report states: {orders.refused[:3]}"
    for vm in shop.tier("db"):
        orders.expect_all_at(vm)
    shop.health()


def test_after_a_replacement_a_member_that_reboots_finds_the_others_by_itself(shop: DatabaseShop) -> None:
    """The first member, which all others joined when they were made, is gone since the test before."""
    vm = next(vm for vm in shop.tier("db") if vm.name == "shop-db-2")
    path = f"/nodes/{vm.node}/qemu/{vm.vmid}/status"

    def well() -> bool:
        return shop.start("galera-health", platform=shop.layout.database_platform).wait().code == 0

    with writing(shop.layout) as orders:
        shop.fault(do="kill", vm=vm.vmid)
        eventually(lambda: shop.client.call("GET", f"{path}/current")["status"] == "stopped", "it still runs", 20)
        orders.wait_for_more()
        shop.client.finish(shop.client.call("POST", f"{path}/start"))
        eventually(well, f"{vm.name} does not come back", 90)
    print(f"member rebooted: longest time without an acknowledged order {orders.longest_gap_s:.2f} s")
    for vm in shop.tier("db"):
        orders.expect_all_at(vm)


def test_gates_close_what_touches_the_database_and_name_what_is_wrong(shop: DatabaseShop) -> None:
    member = shop.tier("db")[-1]
    with connect(shop.layout, member.address, "thems") as connection, connection.cursor() as cursor:
        cursor.execute("SET GLOBAL wsrep_desync = ON")
        run = shop.do("scale", "--tier", "db=5", "--event", "test", "--until", later(4), "--yes", exit_code=4)
        cursor.execute("SET GLOBAL wsrep_desync = OFF")
    found = {(refusal["reference"], refusal["subject"]) for refusal in run.report["refusals"]}
    assert ("galera-maintenance", member.name) in found, run
    assert not run.steps
