"""Whose a VM is that an intent in the record speaks of."""

from typing import Any

import pytest

from thems_jobs import resources
from thems_jobs.clients.proxmox import Resources, VmConfig, VmRow
from thems_jobs.core.facts import Phase, Stamp
from thems_jobs.core.identity import tags_of, write_stamp
from thems_jobs.core.record import Intent, Record
from thems_jobs.jobs.belonging import rows_of_interest, sort_out
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
