"""The database tier by the command line, while a shop writes orders: an event that takes web and database, and back."""

import json
from collections.abc import Iterator

import pytest
from inside import network_of
from orders import connect, writing
from shop import Run, Shop, later

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.timeout(900)]


class DatabaseShop(Shop):
    """A shop whose platform has a database cluster of its own."""

    def do(self, *arguments: str, exit_code: int = 0) -> Run:
        """Run a command on this platform to its end."""
        return self.run(*arguments, platform=self.layout.database_platform, exit_code=exit_code)

    def members(self) -> list[str]:
        """Return the database machines that serve, by the tags in Proxmox."""
        return [vm.name for vm in self.tier("db") if "phase-serving" in vm.tags]

    def health(self) -> dict[str, object]:
        """Return what galera-health reports; it must find nothing wrong."""
        run = self.do("galera-health", "--json")
        report: dict[str, object] = json.loads(run.output)
        return report

    def remove_database(self) -> None:
        """Remove the tiers that the other tests' platform does not know."""
        for vm in [*self.tier("db"), *self.tier("proxy")]:
            path = f"/nodes/{vm.node}/qemu/{vm.vmid}"
            self.client.call("PUT", f"{path}/config", protection=0)
            self.client.finish(self.client.call("POST", f"{path}/status/stop"))
            self.client.finish(self.client.call("DELETE", f"{path}?purge=1"))


@pytest.fixture(scope="module")
def made(provisioned: Shop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DatabaseShop]:
    """Proxies and a cluster that was made from nothing, beside the balancers and web machines of the other tests."""
    shop = DatabaseShop(provisioned.layout, provisioned.client, tmp_path_factory.mktemp("database-shop"))
    for tier in ("db", "proxy"):
        shop.do("template", "build", tier, "--yes")
    try:
        run = shop.do("provision", "--yes")
        assert ("bootstrap", "shop-db-1") in run.steps
        yield shop
    finally:
        shop.remove_database()


@pytest.fixture
def shop(made: DatabaseShop) -> Iterator[DatabaseShop]:
    with network_of(made.layout.netns):
        yield made
    made.end_runs()


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
    leaves = [step for step in down.steps if step[0] == "leave"]
    assert len(leaves) == 2
    assert down.steps.index(("destroy", leaves[0][1])) < down.steps.index(("withdraw", leaves[1][1]))
    print(f"3 → 5 → 3: {len(orders.acknowledged)} orders, {len(orders.refused)} refused, {orders.longest_gap_s:.2f} s")
    assert not orders.refused, orders.refused[:3]
    for vm in shop.tier("db"):
        orders.expect_all_at(vm)
    shop.health()


def test_the_writer_is_replaced_and_hands_over_first(shop: DatabaseShop) -> None:
    with writing(shop.layout) as orders:
        run = shop.do("provision", "--replace", "shop-db-1", "--yes")
    assert "shop-db-1" not in shop.members()
    assert len(shop.members()) == 3
    assert run.steps.index(("serve", "shop-db-4")) < run.steps.index(("withdraw", "shop-db-1"))
    print(f"writer replaced: longest time without an acknowledged order {orders.longest_gap_s:.2f} s")
    for vm in shop.tier("db"):
        orders.expect_all_at(vm)
    shop.health()


def test_gates_close_what_touches_the_database_and_name_what_is_wrong(shop: DatabaseShop) -> None:
    member = shop.tier("db")[-1]
    with connect(shop.layout, member.address, "thems") as connection, connection.cursor() as cursor:
        cursor.execute("SET GLOBAL wsrep_desync = ON")
        run = shop.do("scale", "--tier", "db=5", "--event", "test", "--until", later(4), "--yes", exit_code=4)
        cursor.execute("SET GLOBAL wsrep_desync = OFF")
    found = {(refusal["reference"], refusal["subject"]) for refusal in run.report["refusals"]}
    assert ("galera-maintenance", member.name) in found, run
    assert not run.steps
