"""A database machine is cut off the network while a shop writes orders."""

import json

import pytest
from database_shop import DatabaseShop
from orders import writing

from waiting import eventually

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.mark.parametrize("who", ["writer", "reader"])
def test_a_member_that_is_cut_off_costs_no_order_closes_the_gates_and_comes_back(shop: DatabaseShop, who: str) -> None:
    writer = shop.table(shop.tier("proxy")[0])["writer"]
    cut = next(vm for vm in shop.tier("db") if (vm.name == writer) is (who == "writer"))

    def well() -> bool:
        return shop.start("galera-health", platform=shop.layout.database_platform).wait().code == 0

    with writing(shop.layout) as orders:
        shop.fault(do="cut", vm=cut.vmid, cut=True)
        orders.wait_for_more()
        told = json.loads(shop.do("galera-health", "--json", exit_code=4).output)
        assert cut.name in {refusal["subject"] for refusal in told["refusals"]}, told["refusals"]
        shop.fault(do="cut", vm=cut.vmid, cut=False)
        eventually(well, f"{cut.name} does not come back", 90)
        orders.wait_for_more()
    print(f"{who} cut off: {orders.longest_gap_s:.2f} s without an acknowledged order, {len(orders.refused)} refused")
    for vm in shop.tier("db"):
        orders.expect_all_at(vm)
