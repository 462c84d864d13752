"""Calls about users, tokens, roles and access control lists."""

from typing import Any

from thems_jobs.lab.api.cluster import Call
from thems_jobs.lab.api.errors import bad_parameters, failed
from thems_jobs.lab.api.formats import split_list
from thems_jobs.lab.api.roles import BUILT_IN, PRIVILEGES

SHOWN = ("enable", "expire", "comment", "email", "firstname", "lastname", "groups", "keys")
TOP_PATHS = ("/", "/access", "/nodes", "/pool", "/sdn", "/storage", "/vms")


def open_ticket_page(_call: Call) -> None:
    """GET access/ticket: nothing; it exists for login pages."""


def log_in(call: Call) -> dict[str, Any]:
    """POST access/ticket."""
    user, realm = call.params["username"], call.params.get("realm")
    name = f"{user}@{realm}" if realm and "@" not in user else user
    return call.cluster.access.log_in(name, call.params["password"])


def permissions(call: Call) -> dict[str, dict[str, int]]:
    """GET access/permissions: privileges by path, 1 where they are inherited below."""
    who = call.params.get("userid", call.who)
    if who != call.who and not who.startswith(f"{call.who}!"):
        call.demand("/access", "Sys.Audit")
    access = call.cluster.access
    if "path" in call.params:
        path = call.params["path"]
        return {path: access.privileges(who, path)}
    pools = access.entries["pools"]
    paths = {*TOP_PATHS, *access.entries["acl"], *(f"/pool/{pool}" for pool in pools)}
    for pool in pools.values():
        paths |= {f"/vms/{vmid}" for vmid in pool["vms"]} | {f"/storage/{name}" for name in pool["storage"]}
    found = {path: access.privileges(who, path) for path in sorted(paths)}
    return {path: granted for path, granted in found.items() if granted}


def list_users(call: Call) -> list[dict[str, Any]]:
    """GET access/users: oneself, or all for those who may."""
    sees_all = call.may("/access/groups", "User.Modify", "Sys.Audit", any_of=True)
    wanted = call.params.get("enabled")
    users = []
    for userid, user in sorted(call.cluster.access.entries["users"].items()):
        if (sees_all or userid == call.who.partition("!")[0]) and wanted in (None, user.get("enable", 1)):
            entry = {"userid": userid, "realm-type": userid.rpartition("@")[2], **_shown(user)}
            users.append({**entry, "tokens": _tokens(call, userid)} if call.params.get("full") else entry)
    return users


def _shown(user: dict[str, Any]) -> dict[str, Any]:
    return {key: user[key] for key in SHOWN if user.get(key) is not None}


def _tokens(call: Call, userid: str) -> list[dict[str, Any]]:
    return [
        {"tokenid": name.partition("!")[2], **{key: value for key, value in token.items() if key != "value"}}
        for name, token in sorted(call.cluster.access.entries["tokens"].items())
        if name.startswith(f"{userid}!")
    ]


def _user(entries: dict[str, Any], userid: str) -> dict[str, Any]:
    user: dict[str, Any] | None = entries["users"].get(userid)
    if user is None:
        raise failed(f"no such user ('{userid}')")
    return user


def create_user(call: Call) -> None:
    """POST access/users."""
    params, access = call.params, call.cluster.access
    with access.changed() as entries:
        if params["userid"] in entries["users"]:
            raise failed(f"create user failed: user '{params['userid']}' already exists")
        user = {"enable": 1, "expire": 0, **{key: params[key] for key in SHOWN if key in params}}
        if "password" in params:
            user["password"] = access.hash_password(params["password"])
        entries["users"][params["userid"]] = user


def read_user(call: Call) -> dict[str, Any]:
    """GET access/users/{userid}."""
    userid = call.params["userid"]
    user = _user(call.cluster.access.entries, userid)
    tokens = {token.pop("tokenid"): token for token in _tokens(call, userid)}
    return {**_shown(user), "groups": [], "tokens": tokens}


def change_user(call: Call) -> None:
    """PUT access/users/{userid}."""
    with call.cluster.access.changed() as entries:
        _user(entries, call.params["userid"]).update({k: call.params[k] for k in SHOWN if k in call.params})


def delete_user(call: Call) -> None:
    """DELETE access/users/{userid}: with its tokens and rights."""
    userid = call.params["userid"]
    with call.cluster.access.changed() as entries:
        _user(entries, userid)
        del entries["users"][userid]
        for token in [name for name in entries["tokens"] if name.startswith(f"{userid}!")]:
            del entries["tokens"][token]
        for granted in entries["acl"].values():
            for who in [who for who in granted if who == userid or who.startswith(f"{userid}!")]:
                del granted[who]


def list_tokens(call: Call) -> list[dict[str, Any]]:
    """GET access/users/{userid}/token."""
    _user(call.cluster.access.entries, call.params["userid"])
    return _tokens(call, call.params["userid"])


def _token_id(call: Call) -> str:
    return f"{call.params['userid']}!{call.params['tokenid']}"


def _token(entries: dict[str, Any], name: str) -> dict[str, Any]:
    token: dict[str, Any] | None = entries["tokens"].get(name)
    if token is None:
        userid, _, short = name.partition("!")
        raise failed(f"no such token '{short}' for user '{userid}'")
    return token


def read_token(call: Call) -> dict[str, Any]:
    """GET one token, without its value."""
    token = _token(call.cluster.access.entries, _token_id(call))
    return {key: value for key, value in token.items() if key != "value"}


def create_token(call: Call) -> dict[str, Any]:
    """POST one token: its value is shown this once."""
    params, access, name = call.params, call.cluster.access, _token_id(call)
    with access.changed() as entries:
        _user(entries, params["userid"])
        if name in entries["tokens"]:
            raise bad_parameters({"tokenid": "Token already exists."})
        token = access.new_token(params.get("privsep", 1), params.get("expire", 0), params.get("comment"))
        entries["tokens"][name] = token
    info = {key: value for key, value in token.items() if key != "value"}
    return {"full-tokenid": name, "value": token["value"], "info": info}


def change_token(call: Call) -> dict[str, Any]:
    """PUT one token."""
    with call.cluster.access.changed() as entries:
        token = _token(entries, _token_id(call))
        token.update({key: call.params[key] for key in ("privsep", "expire", "comment") if key in call.params})
        return {key: value for key, value in token.items() if key != "value"}


def delete_token(call: Call) -> None:
    """DELETE one token, with its rights."""
    name = _token_id(call)
    with call.cluster.access.changed() as entries:
        _token(entries, name)
        del entries["tokens"][name]
        for granted in entries["acl"].values():
            granted.pop(name, None)


def list_roles(call: Call) -> list[dict[str, Any]]:
    """GET access/roles."""
    own = call.cluster.access.entries["roles"]
    roles = [(name, sorted(privileges), 1) for name, privileges in BUILT_IN.items()]
    roles += [(name, privileges, 0) for name, privileges in own.items()]
    return [{"roleid": name, "privs": ",".join(privileges), "special": special} for name, privileges, special in roles]


def read_role(call: Call) -> dict[str, int]:
    """GET access/roles/{roleid}."""
    privileges = call.cluster.access.role(call.params["roleid"])
    if privileges is None:
        raise failed(f"role '{call.params['roleid']}' does not exist")
    return dict.fromkeys(sorted(privileges), 1)


def _privileges_param(call: Call) -> list[str]:
    names = split_list(call.params.get("privs", ""))
    for name in names:
        if name not in PRIVILEGES:
            raise bad_parameters({"privs": f"invalid privilege '{name}'\n"})
    return sorted(set(names))


def create_role(call: Call) -> None:
    """POST access/roles."""
    roleid, privileges = call.params["roleid"], _privileges_param(call)
    with call.cluster.access.changed() as entries:
        if call.cluster.access.role(roleid) is not None:
            raise failed(f"role '{roleid}' already exists")
        entries["roles"][roleid] = privileges


def change_role(call: Call) -> None:
    """PUT access/roles/{roleid}."""
    roleid, privileges = call.params["roleid"], _privileges_param(call)
    with call.cluster.access.changed() as entries:
        _check_own_role(entries, roleid)
        kept = entries["roles"][roleid] if call.params.get("append") else []
        entries["roles"][roleid] = sorted({*kept, *privileges})


def delete_role(call: Call) -> None:
    """DELETE access/roles/{roleid}."""
    roleid = call.params["roleid"]
    with call.cluster.access.changed() as entries:
        _check_own_role(entries, roleid)
        del entries["roles"][roleid]


def _check_own_role(entries: dict[str, Any], roleid: str) -> None:
    if roleid in BUILT_IN:
        raise failed(f"auto-generated role '{roleid}' cannot be modified")
    if roleid not in entries["roles"]:
        raise failed(f"role '{roleid}' does not exist")


def list_acl(call: Call) -> list[dict[str, Any]]:
    """GET access/acl: the entries at paths whose rights the caller may change or audit."""
    sees_all = call.may("/access", "Sys.Audit", "Permissions.Modify", any_of=True)
    return [
        {"path": path, "ugid": who, "roleid": role, "propagate": propagate, "type": "token" if "!" in who else "user"}
        for path, granted in sorted(call.cluster.access.entries["acl"].items())
        for who, roles in sorted(granted.items())
        for role, propagate in sorted(roles.items())
        if sees_all or call.may(path, "Permissions.Modify")
    ]


def change_acl(call: Call) -> None:
    """PUT access/acl: grant or take away."""
    params, access = call.params, call.cluster.access
    path = "/" + params["path"].strip("/")
    receivers = [("users", who) for who in split_list(params.get("users", ""))]
    receivers += [("tokens", who) for who in split_list(params.get("tokens", ""))]
    if not receivers:
        raise bad_parameters(dict.fromkeys(("users", "groups"), "either 'users', 'groups' or 'tokens' is required."))
    with access.changed() as entries:
        for kind, who in receivers:
            if who not in entries[kind]:
                raise failed(f"{kind.removesuffix('s')} '{who}' does not exist")
            for role in split_list(params["roles"]):
                if access.role(role) is None:
                    raise failed(f"role '{role}' does not exist")
                granted = entries["acl"].setdefault(path, {}).setdefault(who, {})
                if params.get("delete"):
                    granted.pop(role, None)
                else:
                    granted[role] = params.get("propagate", 1)
