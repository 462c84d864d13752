"""How many requests a new machine costs the cluster: all of a run, counted at the API, shared by the machines."""

import pytest
from bench_lab import AFTER, BEFORE, Scaled, Tell

AIM = 12.0  # plain proxmoxer needs 17, community.proxmox 23 to 26


@pytest.mark.lab
@pytest.mark.timeout(1200)
def test_api_requests_per_new_machine(scaled: Scaled, tell: Tell) -> None:
    count, total = AFTER - BEFORE, sum(scaled.requests.values())
    tell(f"API requests: {total} for {count} new machines = {total / count:.1f} each; aim ≤ {AIM:g}")
    for call, times in sorted(scaled.requests.items(), key=lambda item: -item[1]):
        print(f"  {times:4} {call}")
    assert total / count <= AIM
