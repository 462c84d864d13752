"""Scale for event while visitors are in the shop: none of them notices."""

import json
from xml.etree import ElementTree as Xml

import pytest
from shop import Shop, Visitors

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]


def test_scaling_up_and_back_under_load_fails_no_request(shop: Shop) -> None:
    visitors = Visitors.enter(shop, count=20, slow=3)
    try:
        up = shop.scale_to(web=4)
        shop.expect_settled(web=4)
        during = visitors.seen()
        down = shop.scale_to(web=2)
        shop.expect_settled(web=2)
    finally:
        saw = visitors.leave()
    print(json.dumps({key: saw[key] for key in ("requests", "failed", "failures", "latency_ms", "served_by")}))
    assert saw["failed"] == 0, json.dumps(saw["failure_samples"], indent=1)
    assert saw["requests"] > 20 * 10, "too few visitors to tell"
    slow = next(count for url, count in saw["latency_ms"].items() if "slow" in url)
    assert slow["count"] >= 6, "nobody waited for the slow page"
    assert len(during["served_by"]) in (0, 4), f"the new machines served nobody: {during['served_by']}"
    for run in (up, down):
        assert run.report["outcome"] == "ok"
        assert run.report["served"]["failed"] == 0, run.report["served"]
        assert run.report_dir is not None
        suite = Xml.parse(run.report_dir / "gates.xml").getroot()  # noqa: S314 - written by ourselves
        assert int(suite.get("failures", "-1")) == 0, "no gate was closed"
        assert len(suite.findall(".//testcase")) > 10, "gates.xml has no gates"
        html = (run.report_dir / "report.html").read_text()
        assert "shop-web-4" in html, "the report does not name the machine it is about"
    assert up.report["served"]["requests"] > 100, "the report does not know of the visitors"


def test_balancers_find_a_machine_that_has_the_address_of_one_that_has_just_gone(shop: Shop) -> None:
    """They remember the network card of the one that is gone, and would send it their checks for up to a minute."""
    there = {vm.name for vm in shop.tier("web")}
    number = next(number for number in range(1, 9) if f"shop-web-{number}" not in there)
    for balancer in shop.tier("balancer"):
        shop.ssh(balancer, "sudo", "ip", "neighbour", "replace", f"10.77.1.{10 + number}", "lladdr",
                 "02:00:00:00:00:99", "dev", "eth0", "nud", "reachable")  # fmt: skip
    shop.scale_to(web=3)
    shop.expect_settled(web=3)
    made = shop.vm(f"shop-web-{number}")
    assert made is not None, "another machine was made: nothing was tested"
    assert made.address == f"10.77.1.{10 + number}"
    shop.scale_to(web=2)
