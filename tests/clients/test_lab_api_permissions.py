"""What a token may and may not do, and what it sees."""

from typing import Any

import pytest
from lab_api import TEMPLATE, TOKEN_USER, Lab, text_of
from proxmoxer import ProxmoxAPI, ResourceException


def token_api(lab: Lab, name: str, **options: Any) -> Any:
    """Make another token of the user and return a client for it."""
    secret = lab.root.access.users(TOKEN_USER).token(name).post(**options)["value"]
    return ProxmoxAPI(
        "127.0.0.1", port=lab.port, user=TOKEN_USER, token_name=name, token_value=secret, verify_ssl=lab.ca
    )


def grant(lab: Lab, path: str, roles: str, **options: Any) -> None:
    lab.root.access.acl.put(path=path, roles=roles, tokens=f"{TOKEN_USER}!jobs", users=TOKEN_USER, **options)


def test_the_rights_of_a_token_are_those_both_it_and_its_user_have(lab: Lab) -> None:
    separate, same = token_api(lab, "separate"), token_api(lab, "same", privsep=0)
    lab.fault("foreign-vm", vmid=500, pool="shop")
    assert same.nodes("pve1").qemu(500).config.get()["name"] == "foreign"
    with pytest.raises(ResourceException, match=r"403 Forbidden: Permission check failed \(/vms/500, VM.Audit\)"):
        separate.nodes("pve1").qemu(500).config.get()
    lab.root.access.acl.put(path="/vms/500", roles="PVEAuditor", tokens=f"{TOKEN_USER}!separate")
    assert separate.nodes("pve1").qemu(500).config.get()["name"] == "foreign"
    with pytest.raises(ResourceException, match=r"Permission check failed \(/vms/500, VM.PowerMgmt\)"):
        separate.nodes("pve1").qemu(500).status.start.post()


def test_what_it_may_not_see_is_not_in_the_lists(lab: Lab) -> None:
    lab.fault("foreign-vm", vmid=500, name="ours", pool="shop")
    lab.fault("foreign-vm", vmid=501, name="theirs", pool="other")
    seen = {vm["vmid"] for vm in lab.user.cluster.resources.get(type="vm")}
    assert seen == {500, TEMPLATE}
    assert {vm["vmid"] for vm in lab.user.nodes("pve1").qemu.get()} == {500, TEMPLATE}
    assert {vm["vmid"] for vm in lab.root.nodes("pve1").qemu.get()} == {500, 501, TEMPLATE}
    assert [pool["poolid"] for pool in lab.user.pools.get()] == ["shop"]
    assert [storage["storage"] for storage in lab.user.nodes("pve1").storage.get()] == ["shared"]
    assert "maxmem" not in lab.user.nodes.get()[0]
    assert lab.root.nodes.get()[0]["maxmem"] == 64 * 1024**3
    grant(lab, "/nodes", "PVEAuditor")
    assert lab.user.nodes.get()[0]["maxmem"] == 64 * 1024**3
    for path in ("/cluster/status", "/storage/shared", "/access/users/root@pam"):
        assert lab.raw("GET", path).status_code == 403


@pytest.mark.parametrize(
    ("path", "role", "text"),
    [
        (f"/vms/{TEMPLATE}", "PVETemplateUser", f"Permission check failed (/vms/{TEMPLATE}, VM.Clone)"),
        ("/pool/shop", "Shop", "Permission check failed"),
        ("/storage/shared", "PVEDatastoreUser", "Permission check failed (/storage/shared, Datastore.AllocateSpace)"),
        (
            "/sdn/zones/localnetwork",
            "PVESDNUser",
            "Permission check failed (/sdn/zones/localnetwork/vmbr0, SDN.Use)",
        ),
    ],
)
def test_each_right_a_clone_needs(lab: Lab, path: str, role: str, text: str) -> None:
    lab.template()
    form = {"newid": 201, "pool": "shop"}
    grant(lab, path, role, delete=1)
    refused = lab.raw("POST", f"/nodes/pve1/qemu/{TEMPLATE}/clone", data=form)
    assert text_of(refused)[:2] == (403, text)
    grant(lab, path, role)
    assert lab.raw("POST", f"/nodes/pve1/qemu/{TEMPLATE}/clone", data=form).status_code == 200


def test_a_clone_without_a_pool_needs_the_right_to_the_id(lab: Lab) -> None:
    lab.template()
    refused = lab.raw("POST", f"/nodes/pve1/qemu/{TEMPLATE}/clone", data={"newid": 201})
    assert text_of(refused)[:2] == (403, "Permission check failed")


@pytest.mark.parametrize(
    ("options", "privilege"),
    [
        ({"cores": 1}, "VM.Config.CPU"),
        ({"memory": 512}, "VM.Config.Memory"),
        ({"description": "x"}, "VM.Config.Options"),
        ({"net0": "virtio"}, "VM.Config.Network"),
        ({"ciuser": "x"}, "VM.Config.Cloudinit|VM.Config.Network"),
        ({"scsi0": "shared:1"}, "VM.Config.Disk"),
        ({"bios": "seabios"}, "VM.Config.HWType"),
    ],
)
def test_each_option_has_its_privilege(lab: Lab, options: dict[str, Any], privilege: str) -> None:
    lab.root.access.roles("Shop").put(privs="VM.Audit,VM.Config.CDROM")
    lab.fault("foreign-vm", vmid=500, pool="shop")
    refused = lab.raw("PUT", "/nodes/pve1/qemu/500/config", data=options)
    assert text_of(refused)[:2] == (403, f"Permission check failed (/vms/500, {privilege})")
    lab.root.access.roles("Shop").put(append=1, privs=privilege.partition("|")[0])
    assert lab.raw("PUT", "/nodes/pve1/qemu/500/config", data=options).status_code == 200


def test_some_options_are_for_root_with_a_password_only(lab: Lab) -> None:
    lab.fault("foreign-vm", vmid=500, pool="shop")
    for option, value in (("args", "-nodefaults"), ("lock", "backup")):
        refused = lab.raw("PUT", "/nodes/pve1/qemu/500/config", data={option: value})
        assert text_of(refused)[:2] == (500, f"only root can set '{option}' config")
    lab.root.nodes("pve1").qemu(500).config.put(lock="backup")
    secret = lab.root.access.users("root@pam").token("other").post(privsep=0)["value"]
    header = f"PVEAPIToken=root@pam!other={secret}"
    refused = lab.raw("PUT", "/nodes/pve1/qemu/500/config", token=header, data={"skiplock": 1, "cores": 1})
    assert text_of(refused)[2] == {"skiplock": "Only root may use this option."}


def test_creating_in_a_pool(lab: Lab) -> None:
    qemu = lab.user.nodes("pve1").qemu
    upid = qemu.post(vmid=9999, name="shop-record", pool="shop", memory=64, description="{}")
    assert lab.ended(upid, lab.user) == "OK"
    assert qemu(9999).config.get()["description"] == "{}"
    storage = "/storage/local, Datastore.AllocateSpace"
    for form, text in (
        ({"vmid": 9998}, "Permission check failed"),
        ({"vmid": 9998, "pool": "none"}, "Permission check failed (pool 'none' does not exist)"),
        ({"vmid": 9998, "pool": "shop", "ide2": "local:1"}, f"Permission check failed ({storage})"),
    ):  # fmt: skip
        assert text_of(lab.raw("POST", "/nodes/pve1/qemu", data=form))[:2] == (403, text)


def test_the_agent_has_privileges_of_its_own(lab: Lab) -> None:
    lab.template()
    lab.clone(201, "x")
    lab.start(201)
    lab.root.access.roles("Shop").put(privs="VM.Audit,VM.GuestAgent.Audit")
    assert lab.raw("POST", "/nodes/pve1/qemu/201/agent/ping").status_code == 200
    for method, path, privilege in (
        ("GET", "file-read", "VM.GuestAgent.FileRead|VM.GuestAgent.Unrestricted"),
        ("POST", "exec", "VM.GuestAgent.Unrestricted"),
    ):
        refused = lab.raw(method, f"/nodes/pve1/qemu/201/agent/{path}")
        assert text_of(refused)[:2] == (403, f"Permission check failed (/vms/201, {privilege})")


def test_permissions_are_shown_by_path(lab: Lab) -> None:
    mine = lab.user.access.permissions.get()
    assert mine["/storage/shared"] == {"Datastore.AllocateSpace": 1, "Datastore.Audit": 1}
    assert "VM.Allocate" in mine["/pool/shop"]
    assert "/" not in mine
    lab.fault("foreign-vm", vmid=500, pool="shop")
    assert "VM.PowerMgmt" in lab.user.access.permissions.get(path="/vms/500")["/vms/500"]
    assert lab.user.access.permissions.get(path="/vms/501") == {"/vms/501": {}}


def test_rights_do_not_pass_below_without_propagate_and_noaccess_takes_them(lab: Lab) -> None:
    lab.fault("foreign-vm", vmid=500, pool="other")
    grant(lab, "/vms", "PVEAuditor", propagate=0)
    assert lab.raw("GET", "/nodes/pve1/qemu/500/config").status_code == 403
    grant(lab, "/vms", "PVEAuditor", propagate=1)
    assert lab.raw("GET", "/nodes/pve1/qemu/500/config").status_code == 200
    grant(lab, "/vms/500", "NoAccess")
    assert lab.raw("GET", "/nodes/pve1/qemu/500/config").status_code == 403


def test_users_roles_and_tokens_are_managed_by_root_only(lab: Lab) -> None:
    for method, path, form in (
        ("POST", "/access/roles", {"roleid": "Mine", "privs": "Sys.Modify"}),
        ("PUT", "/access/acl", {"path": "/", "roles": "Administrator", "users": TOKEN_USER}),
        ("POST", "/access/users", {"userid": "evil@pve"}),
        ("POST", "/pools", {"poolid": "mine"}),
    ):
        assert lab.raw(method, path, data=form).status_code == 403
    with pytest.raises(ResourceException) as invalid:
        lab.root.access.roles.post(roleid="x", privs="VM.Monitor")
    assert invalid.value.errors == {"privs": "invalid privilege 'VM.Monitor'\n"}


def test_a_refused_disabled_or_removed_token_is_401(lab: Lab) -> None:
    lab.fault("token", token=f"{TOKEN_USER}!jobs", refused=True)
    assert lab.raw("GET", "/version").status_code == 401
    lab.fault("clear")
    assert lab.raw("GET", "/version").status_code == 200
    lab.root.access.users(TOKEN_USER).put(enable=0)
    assert lab.raw("GET", "/version").reason == "Authentication failed!"
    lab.root.access.users(TOKEN_USER).put(enable=1)
    lab.root.access.users(TOKEN_USER).token("jobs").delete()
    assert lab.raw("GET", "/version").status_code == 401
