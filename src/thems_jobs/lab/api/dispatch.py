"""From a request to its answer, in the order of the real thing: who, path, permission, node, schema, effect."""

import json
import logging
import re
import threading
import time
from collections import Counter
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, unquote

from thems_jobs.lab.api.checks import checked
from thems_jobs.lab.api.cluster import Call, Cluster
from thems_jobs.lab.api.errors import ApiError, bad_parameters, failed, gateway
from thems_jobs.lab.api.facts import Endpoint, find
from thems_jobs.lab.api.permissions import check_permissions
from thems_jobs.lab.api.routes import ROUTES
from thems_jobs.lab.hypervisor import GuestError

log = logging.getLogger(__name__)

PREFIX = "/api2/json"
OPEN_TO_WORLD = {("GET", "/access/ticket"), ("POST", "/access/ticket")}
# What a cluster without quorum still allows besides reading: what does not write to its file system.
NO_CLUSTER_WRITE = re.compile(r"/status/|/agent|/tasks/|/access/ticket")


@dataclass(frozen=True)
class Request:
    """What came over the wire."""

    method: str
    target: str  # path and query
    headers: dict[str, str]  # names in lower case
    body: bytes


@dataclass(frozen=True)
class Answer:
    """What goes back."""

    status: int
    reason: str
    body: bytes


class RequestCounts:
    """Requests per method and path pattern, since the last reset."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def add(self, name: str) -> None:
        """Count one."""
        with self._lock:
            self._counts[name] += 1

    def read(self, *, reset: bool) -> dict[str, int]:
        """Return the counts, and begin again."""
        with self._lock:
            counts = dict(sorted(self._counts.items()))
            if reset:
                self._counts.clear()
            return counts


def answer(cluster: Cluster, counts: RequestCounts, request: Request) -> Answer:
    """Given a request, carry it out and return the answer, whatever happens."""
    if cluster.latencies.api_s > 0:
        time.sleep(cluster.latencies.api_s)
    try:
        data, extra = _carry_out(cluster, counts, request)
    except ApiError as error:
        if error.status == 401:
            time.sleep(cluster.settings.auth_delay_s)
        return _error_answer(error)
    except GuestError as error:
        return _error_answer(failed(str(error)))
    except Exception as error:
        log.exception("%s %s", request.method, request.target)
        return _error_answer(failed(f"the lab's API has a bug: {type(error).__name__}"))
    return Answer(200, "OK", json.dumps({"data": data, **extra}).encode())


def _error_answer(error: ApiError) -> Answer:
    if error.bare:
        return Answer(error.status, error.text, b"")
    if not error.text.isascii():
        return Answer(596, "Broken pipe", b"")  # such a text kills the connection between the daemons
    content: dict[str, Any] = {"data": None, "message": error.text.rstrip("\n") + "\n"}
    if error.errors:
        content["errors"] = error.errors
    return Answer(error.status, error.text.split("\n")[0], json.dumps(content).encode())


def _carry_out(cluster: Cluster, counts: RequestCounts, request: Request) -> tuple[Any, dict[str, Any]]:
    raw_path, _, query = request.target.partition("?")
    path = unquote(raw_path).removeprefix(PREFIX)
    found = find(request.method, path)
    counts.add(f"{request.method} {found[0].path if found else path}")
    if not raw_path.startswith(PREFIX + "/"):
        raise ApiError(404, f"no such file '{raw_path}'", bare=True)
    who = "" if (request.method, path) in OPEN_TO_WORLD else _authenticate(cluster, request)
    if request.method == "DELETE" and request.body:
        raise ApiError(501, "Unexpected content for method 'DELETE'", bare=True)
    if found is None:
        raise ApiError(501, f"Method '{request.method} {path}' not implemented")
    endpoint, in_path = found
    given = _parameters(request, query)
    _check_conflicts(given, in_path)
    call = Call(cluster, who, {**given, **in_path})
    check_permissions(endpoint, call, path)
    fault = cluster.faults.take_answer(request.method, path)
    if fault and fault.delay_s:
        time.sleep(fault.delay_s)
    if fault and not fault.executed and fault.status:
        raise gateway(fault.status, fault.text)
    data = _execute(cluster, endpoint, call)
    if fault and fault.status:
        raise gateway(fault.status, fault.text)
    return data, call.extra


def _execute(cluster: Cluster, endpoint: Endpoint, call: Call) -> Any:
    node = _reach_node(cluster, call) if endpoint.by_node else cluster.local_node
    if not endpoint.protected:
        return _run(cluster, endpoint, call)
    daemons = cluster.daemons[node]
    if not daemons.acquire(timeout=cluster.settings.proxy_wait_s):
        raise gateway(596, "Connection timed out")
    try:
        return _run(cluster, endpoint, call)
    finally:
        daemons.release()


def _run(cluster: Cluster, endpoint: Endpoint, call: Call) -> Any:
    call.params = checked(endpoint, call.params)
    writes = endpoint.method != "GET" and not NO_CLUSTER_WRITE.search(endpoint.path)
    if cluster.faults.quorum_lost and writes:
        raise failed("cluster not ready - no quorum?")
    return ROUTES[endpoint.method, endpoint.path](call)


def _reach_node(cluster: Cluster, call: Call) -> str:
    name = str(call.params["node"])
    node = cluster.local_node if name == "localhost" else name
    if cluster.settings.node(node) is None:
        why = "Name or service not known"
        raise failed(f"hostname lookup '{name}' failed - failed to get address info for: {name}: {why}")
    if node in cluster.faults.offline_nodes:
        time.sleep(cluster.settings.unreachable_s)
        raise gateway(595, "No route to host")
    return node


def _authenticate(cluster: Cluster, request: Request) -> str:
    header = request.headers.get("authorization", "")
    if match := re.match(r"PVEAPIToken[= ](.*)", header):
        return cluster.access.who_has_token(match[1])
    cookies: SimpleCookie = SimpleCookie()
    try:
        cookies.load(request.headers.get("cookie", ""))
    except CookieError as error:
        raise ApiError(401, "No ticket", bare=True) from error
    if "PVEAuthCookie" not in cookies:
        raise ApiError(401, "No ticket", bare=True)
    who = cluster.access.who_has_ticket(unquote(cookies["PVEAuthCookie"].value))
    if request.method != "GET":
        cluster.access.check_csrf(who, request.headers.get("csrfpreventiontoken"))
    return who


def _parameters(request: Request, query: str) -> dict[str, Any]:
    """Parameters of the body and of the query; a repeated key becomes a list."""
    given: dict[str, Any] = {}
    if request.method in ("POST", "PUT"):
        if request.headers.get("content-type", "").partition(";")[0].strip() == "application/json":
            given = _json_body(request.body)
        else:
            given = _form(request.body.decode(errors="replace"))
    return {**given, **_form(query)}


def _json_body(body: bytes) -> dict[str, Any]:
    try:
        content = json.loads(body)
    except ValueError as error:
        raise ApiError(500, f"malformed JSON string, {error}", bare=True) from error
    if not isinstance(content, dict):
        raise ApiError(500, "malformed JSON string, no object", bare=True)
    return content


def _form(text: str) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for key, value in parse_qsl(text, keep_blank_values=True):
        if key in given:
            given[key] = [*(given[key] if isinstance(given[key], list) else [given[key]]), value]
        else:
            given[key] = value
    return given


def _check_conflicts(given: dict[str, Any], in_path: dict[str, str]) -> None:
    text = "duplicate parameter (already defined in URI) with conflicting values!"
    errors = {key: text for key, value in in_path.items() if key in given and str(given[key]) != value}
    if errors:
        raise bad_parameters(errors)
