"""When a database member tells the proxies that it may serve."""

import runpy

import pytest

from thems_jobs import resources

complaints = runpy.run_path(str(resources.path("ansible", "roles/database/files/clustercheck")))["complaints"]

WELL = {
    "wsrep_cluster_status": "Primary", "wsrep_local_state": "4", "wsrep_connected": "ON", "wsrep_ready": "ON",
    "wsrep_cluster_size": "3", "wsrep_reject_queries": "NONE", "wsrep_desync": "OFF",
}  # fmt: skip


@pytest.mark.parametrize(
    ("seen", "serves"),
    [
        ({}, True),
        ({"wsrep_local_state": "2"}, False),
        ({"wsrep_local_state": "2", "wsrep_desync": "ON"}, False),
        ({"wsrep_local_state": "2", "wsrep_cluster_size": "2"}, True),
        ({"wsrep_local_state": "2", "wsrep_cluster_size": "2", "wsrep_desync": "ON"}, True),
        ({"wsrep_local_state": "2", "wsrep_cluster_size": "2", "wsrep_reject_queries": "ALL"}, False),
        ({"wsrep_local_state": "2", "wsrep_cluster_size": "2", "wsrep_cluster_status": "non-Primary"}, False),
        ({"wsrep_local_state": "1", "wsrep_cluster_size": "2"}, False),
        ({"wsrep_desync": "ON", "wsrep_cluster_size": "2"}, False),
        ({"pxc_maint_mode": "MAINTENANCE"}, False),
    ],
)
def test_a_donor_serves_only_where_nobody_else_can(seen: dict[str, str], serves: bool) -> None:
    assert (complaints({**WELL, **seen}) == []) is serves
