"""May the caller make this call at all? The rules are those the facts state per endpoint."""

import re
from typing import Any

from thems_jobs.lab.api.access import ROOT
from thems_jobs.lab.api.cluster import Call
from thems_jobs.lab.api.errors import ApiError, denied
from thems_jobs.lab.api.facts import Endpoint


def check_permissions(endpoint: Endpoint, call: Call, path: str) -> None:
    """Raise 403 unless the caller may make this call, whether or not what it names exists."""
    if "!" in call.who and not endpoint.for_tokens:
        raise ApiError(403, f"URI '{path}' not available with API token, need proper ticket.")
    if call.who == ROOT or "check" not in endpoint.permissions:
        return
    _check(endpoint.permissions["check"], call)


def _check(rule: list[Any], call: Call) -> None:
    match rule[0]:
        case "and":
            for part in rule[1:]:
                _check(part, call)
        case "or":
            if not any(_holds(part, call) for part in rule[1:]):
                raise denied()
        case "perm":
            _check_privileges(rule, call)
        case "perm-modify":
            _check_modify(_filled(rule[1], call), call)
        case "userid-param":
            _check_user(rule[1], call)
        case "userid-group":
            call.demand("/access/groups", *rule[1], any_of=True)
        case _:
            raise AssertionError(f"the facts state a permission rule nobody reads: {rule[0]}")


def _holds(rule: list[Any], call: Call) -> bool:
    try:
        _check(rule, call)
    except ApiError:
        return False
    return True


def _check_privileges(rule: list[Any], call: Call) -> None:
    path, names = rule[1], rule[2]
    options = dict(zip(rule[3::2], rule[4::2], strict=True))
    needed = options.get("require_param")
    if needed and needed not in call.params:
        raise denied()
    call.demand(_filled(path, call), *names, any_of=bool(options.get("any")))


def _filled(path: str, call: Call) -> str:
    return re.sub(r"\{(\w+)\}", lambda match: str(call.params.get(match[1], "")), path)


def _check_modify(path: str, call: Call) -> None:
    owner = {"storage": "Datastore.Allocate", "vms": "VM.Allocate", "pool": "Pool.Allocate"}
    own = owner.get(path.strip("/").partition("/")[0])
    if not (own and call.may(path, own)):
        call.demand(path, "Permissions.Modify")


def _check_user(what: str, call: Call) -> None:
    user = str(call.params.get("userid", ""))
    if what == "self":
        if user != call.who:
            raise denied()
    else:
        call.demand(f"/access/realm/{user.rpartition('@')[2]}", what)
