"""What the lab's API does on the wire: reasons, order of checks, shapes of parameters."""

import http.client
import json
import ssl

import pytest
from lab_api import Lab, text_of

from thems_jobs.lab.api.facts import endpoints
from thems_jobs.lab.api.formats import CHECKS, PROPERTY_STRINGS
from thems_jobs.lab.api.routes import ROUTES


def test_every_endpoint_of_the_facts_is_carried_out_and_no_other() -> None:
    served = {(method, e.path) for _, methods in endpoints() for method, e in methods.items()}
    assert served == set(ROUTES)


def test_version_is_nine_one(lab: Lab) -> None:
    assert lab.user.version.get()["release"] == "9.1"


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        ("", "No ticket"),
        ("PVEAPIToken=thems@pve!jobs=00000000-0000-0000-0000-000000000000", "Authentication failed!"),
        ("PVEAPIToken=nobody@pve!x=y", "Authentication failed!"),
    ],
)
def test_who_is_not_known_gets_401_without_a_body(lab: Lab, token: str, reason: str) -> None:
    answer = lab.raw("GET", "/nodes/pve1/nowhere", token=token)
    assert (answer.status_code, answer.reason, answer.content) == (401, reason, b"")


def test_a_token_may_be_given_with_a_blank(lab: Lab) -> None:
    assert lab.raw("GET", "/version", token=f"PVEAPIToken thems@pve!jobs={lab.token}").status_code == 200


def test_a_wrong_password_is_401_with_a_body_and_a_missing_one_400(lab: Lab) -> None:
    wrong = lab.raw("POST", "/access/ticket", token="", data={"username": "root@pam", "password": "no"})
    assert text_of(wrong)[:2] == (401, "authentication failure")
    assert wrong.json()["message"] == "authentication failure\n"
    missing = lab.raw("POST", "/access/ticket", token="", data={"username": "root@pam"})
    assert text_of(missing) == (
        400,
        "Parameter verification failed.",
        {"password": "property is missing and it is not optional"},
    )


def test_a_ticket_needs_the_csrf_token_for_writes(lab: Lab) -> None:
    password = (lab.directory / "root-password").read_text().strip()
    ticket = lab.raw("POST", "/access/ticket", token="", data={"username": "root@pam", "password": password})
    data = ticket.json()["data"]
    cookie = {"Cookie": f"PVEAuthCookie={data['ticket']}"}
    assert lab.raw("GET", "/version", token="", headers=cookie).status_code == 200
    refused = lab.raw("POST", "/pools", token="", headers=cookie, data={"poolid": "x"})
    assert (refused.status_code, refused.reason) == (401, "Permission denied - invalid csrf token")
    both = {**cookie, "CSRFPreventionToken": data["CSRFPreventionToken"]}
    assert lab.raw("POST", "/pools", token="", headers=both, data={"poolid": "x"}).status_code == 200
    renewed = {"username": "root@pam", "password": data["ticket"]}
    assert lab.raw("POST", "/access/ticket", token="", data=renewed).status_code == 200
    forged = {"Cookie": f"PVEAuthCookie={data['ticket'].replace('root@pam', 'evil@pam')}"}
    assert lab.raw("GET", "/version", token="", headers=forged).status_code == 401


def test_paths_and_methods_nobody_knows_are_501(lab: Lab) -> None:
    for method, path in (("GET", "/nodes/pve1/foo"), ("DELETE", "/version")):
        answer = lab.raw(method, path)
        assert text_of(answer)[:2] == (501, f"Method '{method} {path}' not implemented")
    assert lab.raw("PATCH", "/version").reason == "method 'PATCH' not available"


def test_delete_takes_no_body(lab: Lab) -> None:
    answer = lab.raw("DELETE", "/pools", data={"poolid": "shop"})
    assert (answer.status_code, answer.reason) == (501, "Unexpected content for method 'DELETE'")


def test_permission_is_looked_at_before_parameters_and_existence(lab: Lab) -> None:
    answer = lab.raw("POST", "/nodes/pve1/qemu/4711/clone", data={"nonsense": 1})
    assert text_of(answer)[:2] == (403, "Permission check failed (/vms/4711, VM.Clone)")


def test_all_bad_parameters_are_told_at_once(lab: Lab) -> None:
    lab.template()
    form = {
        "newid": "x", "full": "True", "name": "a_b", "pool": "shop", "foo": "1", "format": "vdi",
    }  # fmt: skip
    status, reason, errors = text_of(lab.raw("POST", "/nodes/pve1/qemu/9000/clone", data=form))
    assert (status, reason) == (400, "Parameter verification failed.")
    assert errors == {
        "newid": "type check ('integer') failed - got 'x'",
        "full": "type check ('boolean') failed - got 'True'",
        "name": "invalid format - value does not look like a valid DNS name\n",
        "foo": UNKNOWN,
        "format": "value 'vdi' does not have a value in the enumeration 'raw, qcow2, vmdk'",
    }
    missing = text_of(lab.raw("POST", "/nodes/pve1/qemu/9000/clone", data={"pool": "shop"}))[2]
    assert missing == {"newid": "property is missing and it is not optional"}


UNKNOWN = "property is not defined in schema and the schema does not allow additional properties"
NO_NETWORK = "invalid format - value does not look like a valid ipv4 network configuration"


@pytest.mark.parametrize(
    ("option", "value", "why"),
    [
        ("description", "x" * 8193, "value may only be 8192 characters long"),
        ("tags", "ok;n/a", "invalid format - invalid characters in tag\n"),
        ("sshkeys", "ssh-rsa AAAA", "invalid format - invalid urlencoded string: ssh-rsa AAAA\n"),
        ("ipconfig0", "ip=10.0.0.5", f"invalid format - format error\nipconfig0.ip: {NO_NETWORK}\n\n"),
        ("net0", "virtio,bridge=vmbr0,foo=1", f"invalid format - format error\nnet0.foo: {UNKNOWN}\n"),
        ("cores", "0", "value must have a minimum value of 1"),
        ("net32", "virtio", UNKNOWN),
    ],
)
def test_texts_of_wrong_options(lab: Lab, option: str, value: str, why: str) -> None:
    lab.template()
    password_user = lab.root.nodes("pve1").qemu(9000).config
    with pytest.raises(Exception, match="400 Bad Request") as failure:
        password_user.put(**{option: value})
    assert failure.value.errors == {option: why}


def test_json_bodies_lists_and_broken_json(lab: Lab) -> None:
    lab.template()
    root = lab.root
    root.pools.put(poolid="shop", vms=[9000])
    assert [m["vmid"] for m in lab.user.pools("shop").get()["members"]] == [9000]
    repeated = lab.raw("POST", "/nodes/pve1/qemu/9000/clone", data=[("newid", "1"), ("newid", "2"), ("pool", "shop")])
    assert text_of(repeated)[2]["newid"] == "type check ('integer') failed - got ARRAY"
    sent = lab.raw("POST", "/nodes/pve1/qemu/9000/clone", json={"newid": 300, "full": True, "pool": "shop"})
    assert sent.status_code == 200
    broken = lab.raw("POST", "/nodes/pve1/qemu/9000/clone", data="{", headers={"Content-Type": "application/json"})
    assert broken.status_code == 500
    assert broken.reason.startswith("malformed JSON string")


def test_a_value_in_path_and_body_must_agree(lab: Lab) -> None:
    lab.template()
    same = {"node": "pve1", "vmid": "9000", "newid": "300", "pool": "shop"}
    assert lab.raw("POST", "/nodes/pve1/qemu/9000/clone", data=same).status_code == 200
    other = lab.raw("POST", "/nodes/pve1/qemu/9000/clone", data={**same, "vmid": "1"})
    assert "conflicting values" in text_of(other)[2]["vmid"]


def test_nodes_by_name(lab: Lab) -> None:
    assert lab.raw("GET", "/nodes/localhost/qemu").status_code == 200
    answer = lab.raw("GET", "/nodes/PVE1/qemu")
    assert answer.status_code == 500
    assert answer.reason.startswith("hostname lookup 'PVE1' failed - failed to get address info for: PVE1: ")


def test_keep_alive_ends_with_an_error_and_after_a_hundred_requests(lab: Lab) -> None:
    connection = http.client.HTTPSConnection("127.0.0.1", lab.port, context=ssl.create_default_context(cafile=lab.ca))
    headers = {"Authorization": f"PVEAPIToken=thems@pve!jobs={lab.token}"}
    kept = []
    for _ in range(100):
        connection.request("GET", "/api2/json/version", headers=headers)
        answer = connection.getresponse()
        assert json.load(answer)["data"]["release"] == "9.1"
        kept.append(not answer.will_close)
    assert kept == [True] * 99 + [False]
    connection.request("GET", "/api2/json/nothing", headers=headers)
    answer = connection.getresponse()
    assert (answer.status, answer.will_close) == (501, True)


def test_a_body_that_is_too_large_is_501(lab: Lab) -> None:
    answer = lab.raw("POST", "/pools", data={"poolid": "x" * (513 * 1024)})
    assert (answer.status_code, answer.reason) == (501, "for data too large")


def test_formats_the_checks_do_not_know_are_few_and_named() -> None:
    named = set()
    for _, methods in endpoints():
        for endpoint in methods.values():
            named |= {shape["format"] for shape in endpoint.parameters.values() if isinstance(shape.get("format"), str)}
    unknown = {n for n in named if n.removesuffix("-list") not in CHECKS and n not in PROPERTY_STRINGS}
    # Of hardware and storage the lab does not have; any text passes.
    assert unknown == {
        "pve-cpuset", "pve-qemu-sev-fmt", "pve-qemu-tdx-fmt", "pve-qm-bootdisk", "pve-qm-hostpci", "pve-qm-ide",
        "pve-qm-rng", "pve-qm-watchdog", "pve-vm-cpu-conf", "storage-pair-list",
    }  # fmt: skip
