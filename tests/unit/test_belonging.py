"""Whose a VM is that an intent in the record speaks of, and what ours take of a node."""

from dataclasses import replace
from typing import Any

import pytest

from thems_jobs import resources
from thems_jobs.clients.proxmox import Resources, VmConfig, VmRow
from thems_jobs.core.facts import Node, Phase, Stamp
from thems_jobs.core.identity import tags_of, write_stamp
from thems_jobs.core.record import Intent, Record
from thems_jobs.jobs.belonging import nodes_besides, rows_of_interest, sort_out
from thems_jobs.platform_file import read_platform

PLATFORM = read_platform(resources.path("platforms", "lab.yaml"), {})


def row(vmid: int, name: str, **changes: Any) -> VmRow:
    values: dict[str, Any] = {"pool": "shop", "lock": "", "kind": "qemu"} | changes
    return VmRow(vmid, name, "pve1", values["pool"], (), False, "stopped", values["lock"], 512, 1, values["kind"])


def config(vmid: int, name: str, lock: str = "") -> VmConfig:
    stamp = Stamp("shop", name, vmid, name.split("-")[1], Phase.BUILDING)
    return VmConfig(name, write_stamp(stamp), "digest", tags_of(stamp), lock, False, 0.0, {})


def test_an_id_that_a_container_took_is_given_up_for_another() -> None:
    record = Record(intents={"shop-web-3": Intent(1102, 1, 0.0)})
    container = row(1102, "cache", kind="lxc")
    rows, _ = rows_of_interest(PLATFORM, Resources((container,), {}, ()), record)
    assert rows == [container]
    machines, strangers, _ = sort_out(PLATFORM, record, {container: None})
    assert machines["shop-web-3"].clone == "VM 1102 was taken: it is a container"
    assert not machines["shop-web-3"].exists
    assert not strangers


@pytest.mark.parametrize("name", ["shop-web-51", "shop-cache-1"])
@pytest.mark.parametrize("lock", ["", "clone"])
def test_what_was_begun_for_a_name_without_a_place_is_a_stranger(name: str, lock: str) -> None:
    record = Record(intents={name: Intent(1102, 1, 0.0)})
    assert sort_out(PLATFORM, record, {}) == ({}, [], [])
    machines, strangers, remains = sort_out(PLATFORM, record, {row(1102, name): config(1102, name, lock)})
    assert (machines, remains) == ({}, [])
    assert [stranger.name for stranger in strangers] == [name]


@pytest.mark.parametrize(
    ("options", "memory_mib", "cores"),
    [
        ({"memory": "2048", "cores": "4"}, 2048, 4),
        ({"memory": "current=2048", "cores": "2", "sockets": "2"}, 2048, 4),
        ({}, 512, 1),
    ],
)
def test_a_machine_s_size_is_that_of_its_configuration(options: dict[str, str], memory_mib: int, cores: int) -> None:
    seen = replace(config(1102, "shop-web-3"), options=options)
    machines, _, _ = sort_out(PLATFORM, Record(), {row(1102, "shop-web-3"): seen})
    assert (machines["shop-web-3"].memory_mib, machines["shop-web-3"].cores) == (memory_mib, cores)
    machines, _, _ = sort_out(PLATFORM, Record(), {row(1102, "shop-web-3"): replace(seen, tags=())})
    assert (machines["shop-web-3"].memory_mib, machines["shop-web-3"].cores) == (0, 0)  # as the template left it


def test_others_on_a_node_are_all_but_our_machines() -> None:
    machines, _, _ = sort_out(PLATFORM, Record(), {row(1102, "shop-web-3"): config(1102, "shop-web-3")})
    rows = (row(1102, "shop-web-3"), row(5000, "postgres", pool=""))
    seen = Resources(rows, {"pve1": Node("pve1", True, 8, 2, 4096, 1024)}, ())
    assert nodes_besides(seen, machines.values()) == {"pve1": Node("pve1", True, 8, 1, 4096, 512)}
