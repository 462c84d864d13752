"""How long a scale from 2 to 10 web machines takes: against what is possible, and against the usual way."""

import math
from pathlib import Path
from typing import Any

import pytest
from bench_lab import AFTER, BEFORE, BOOT_S, CLONE_S, CLONE_SLOTS, Bench, Scaled, Tell

from thems_jobs import resources

USUAL_WAY = Path(__file__).parent / "usual_way"
AIM_OF_BOUND, AIM_SOONER = 1.5, 3.0
NEW = AFTER - BEFORE


@pytest.mark.lab
@pytest.mark.timeout(1200)
def test_makespan_against_the_bound(bench: Bench, scaled: Scaled, tell: Tell) -> None:
    """No way to make them is quicker than full clone queues, one boot and one configuration."""
    one = dict(list(bench.addresses("web").items())[:1])
    configuration = bench.play(
        resources.path("ansible", "converge.yml"), {"all": {"hosts": one}}, bench.variables_of_role("web")
    )
    bound = math.ceil(NEW / CLONE_SLOTS) * CLONE_S + BOOT_S + configuration
    tell(
        f"makespan {BEFORE} → {AFTER}: {scaled.seconds:.0f} s = {scaled.seconds / bound:.2f} × bound of {bound:.0f} s "
        f"(clones {math.ceil(NEW / CLONE_SLOTS)} × {CLONE_S} s, boot {BOOT_S} s, one machine's configuration "
        f"{configuration:.1f} s); aim ≤ {AIM_OF_BOUND:g}"
    )
    assert scaled.seconds <= AIM_OF_BOUND * bound


@pytest.mark.lab
@pytest.mark.timeout(2400)
def test_makespan_against_the_usual_way(bench: Bench, scaled: Scaled, tell: Tell) -> None:
    """The same template, roles, latencies and machines; what differs is who does it."""
    bench.shop.scale_to(BEFORE)
    template = next(vm for vm in bench.shop.vms() if vm.template and vm.name == "shop-web")
    machines = [
        {"name": f"usual-web-{n + 1}", "vmid": 3001 + n, "node": f"pve{1 + n % 2}", "address": f"10.77.5.{11 + n}"}
        for n in range(NEW)
    ]
    layout, variables = bench.shop.layout, bench.variables_of_role("web")
    variables |= {
        "machines": machines, "template_name": template.name, "template_node": template.node, "cores": 1,
        "memory_mib": 512, "password_file": str(layout.root_password), "playbooks": str(resources.path("ansible")),
        "public_key_file": f"{layout.ssh_key}.pub",
        "new_servers": {m["name"]: {"address": f"{m['address']}:80", "weight": 100} for m in machines},
    }  # fmt: skip
    hosts: dict[str, Any] = {m["name"]: {"ansible_host": m["address"]} for m in machines}
    inventory = {"web": {"hosts": hosts}, "balancers": {"hosts": bench.addresses("balancer")}}
    bench.control("requests", reset=True)
    made = bench.play(USUAL_WAY / "make.yml", inventory, variables)
    requests = bench.control("requests")["total"]
    configured = bench.play(USUAL_WAY / "configure.yml", inventory, variables)
    bench.expect_serving(AFTER)
    usual = made + configured
    tell(
        f"usual way {BEFORE} → {AFTER}: {usual:.0f} s (made {made:.0f} s with {requests / NEW:.1f} API requests each, "
        f"configured {configured:.0f} s); thems-jobs {scaled.seconds:.0f} s: {usual / scaled.seconds:.1f} × sooner; "
        f"aim ≥ {AIM_SOONER:g}"
    )
    assert usual >= AIM_SOONER * scaled.seconds
