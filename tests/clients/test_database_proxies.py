"""What the program on a database proxy tells, with a real haproxy behind it, as the gates of the cluster read it."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_thems_balancer_tcp import NAMES, Proxy

from thems_jobs.clients.balancer import read_proxy
from thems_jobs.core import facts
from thems_jobs.errors import EffectFailed
from waiting import eventually

pytestmark = pytest.mark.skipif(not shutil.which("haproxy"), reason="needs the Debian package haproxy")


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Proxy]:
    proxy = Proxy(tmp_path)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()


def seen(proxy: Proxy) -> facts.Proxy:
    return read_proxy("shop-proxy-1", json.dumps(proxy.show()))


def status(proxy: Proxy) -> dict[str, str]:
    return {name: backend.status for name, backend in seen(proxy).backends.items()}


def test_writer_reserves_and_drained_are_told_apart(proxy: Proxy) -> None:
    proxy.give(*NAMES)
    eventually(lambda: status(proxy) == dict.fromkeys(NAMES, "up"), "the members do not come up", 10)
    assert seen(proxy).writer == "db-1"
    assert seen(proxy).backends["db-2"].address == proxy.members["db-2"].address
    before = seen(proxy).generation
    proxy.give(*NAMES, drained=["db-1"])
    assert (seen(proxy).writer, status(proxy)) == ("db-2", {"db-1": "drained", "db-2": "up", "db-3": "up"})
    assert seen(proxy).generation != before
    proxy.members["db-2"].well = False
    eventually(lambda: seen(proxy).writer == "db-3", "the writer's failure is not seen", 10)
    assert status(proxy)["db-2"] == "down"


def test_a_balancer_of_web_machines_is_no_database_proxy(proxy: Proxy) -> None:
    told = proxy.show()
    with pytest.raises(EffectFailed, match="no database proxy"):
        read_proxy("shop-proxy-1", json.dumps({key: value for key, value in told.items() if key != "writer"}))
