"""The gate of a database cluster of nine and two proxies: the window, the slowest answer, and little more."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bench_lab import Tell

from thems_jobs.clients.mysql import Databases, ProxySql
from thems_jobs.clock import SystemClock
from thems_jobs.core.facts import Cluster, Proxy
from thems_jobs.core.galera import Asked, verdict
from thems_jobs.core.platform import Application, DatabaseCluster

MEMBERS, WINDOW_S = 9, 2.0
SLOW_S = 0.03  # each answer of one member
ROUNDS = 5


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[dict[str, Any]]:
    program = Path(__file__).with_name("galera_servers.py")
    process = subprocess.Popen(
        [sys.executable, str(program), str(tmp_path), str(MEMBERS), str(SLOW_S)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())
    finally:
        process.stdin.close()
        process.wait(20)


@pytest.mark.slow
def test_the_gate_of_nine_members_and_two_proxies(servers: dict[str, Any], tmp_path: Path, tell: Tell) -> None:
    """What the slowest member takes alone, its window included, is what no gate can be quicker than."""
    (tmp_path / "password").write_text("secret")
    settings = DatabaseCluster(
        "db", "proxy", "10.77.0.20", 78, servers["ca"], "none", "password", Application("shop", "shop", "none"),
        proxy="proxysql", proxysql_password_file="password", sample_s=WINDOW_S,
    )  # fmt: skip
    hosts, pair = servers["hosts"], servers["pair"]
    databases, proxysql, clock = Databases(settings, tmp_path), ProxySql(settings, tmp_path), SystemClock()
    nodes = tuple(f"pve{number}" for number in range(MEMBERS))

    def gate() -> float:
        began = time.perf_counter()
        seen, views = clock.at_once(
            lambda question: question(), (lambda: databases.members(hosts), lambda: proxysql.show(pair, hosts))
        )
        cluster = Cluster(seen, views, ("shop-proxy-1",), dict(zip(hosts, nodes, strict=True)), nodes, MEMBERS)
        refusals = verdict(settings, cluster, Asked("restart", "shop-db-9", 60))
        took = time.perf_counter() - began
        assert all(isinstance(view, Proxy) for view in views.values()), views
        assert refusals == ()
        return took

    def alone() -> float:
        began = time.perf_counter()
        databases.members({"shop-db-5": hosts["shop-db-5"]})
        return time.perf_counter() - began

    took, slowest = (min(call() for _ in range(ROUNDS)) for call in (gate, alone))  # others use this machine, too
    tell(
        f"gate of {MEMBERS} members and 2 proxies: {took:.3f} s; the slowest member alone, window of {WINDOW_S:g} s "
        f"included: {slowest:.3f} s; ratio {took / slowest:.3f}, {1000 * (took - slowest):.0f} ms more (aim 50)"
    )
    assert took < 1.25 * slowest, "members are not asked at the same time"
