"""The balancers' lists of servers, over SSH, by the program `thems-balancer` that the balancer role installs.

Before database machines it is the same program: there one server at a time is the writer, the others are in reserve.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_fixed

from thems_jobs.core.facts import Backend, Balancer, Counters, Proxy, Server, Unknown
from thems_jobs.errors import EffectFailed, Transient, Unreachable

if TYPE_CHECKING:
    from thems_jobs.clients.ssh import Ssh

PROGRAM = "/usr/local/sbin/thems-balancer"
TIMEOUT_S = 40.0  # it waits up to 15 s for its lock and follows reloads of haproxy
MOVED = 9  # its exit code when the list is not the expected one
AT_ONCE = 16

T = TypeVar("T")
Table = Mapping[str, tuple[str, int]]  # what a balancer starts from: address and weight by server


class Balancers:
    """All balancers of a platform; they are asked and changed at the same time."""

    def __init__(self, ssh: Ssh) -> None:
        self._ssh = ssh
        self._one_change = threading.Lock()  # of ours at a time; anybody else's is found by the generation
        self._written: dict[str, str] = {}  # generation of the list that we wrote last, by balancer

    def show(self, hosts: Mapping[str, str]) -> dict[str, Balancer | Unknown]:
        """Given addresses by balancer name, return what each one tells, or why it could not be had."""

        def ask(name: str, address: str) -> Balancer | Unknown:
            try:
                return self._show(name, address)[0]
            except (Unreachable, EffectFailed) as error:
                return Unknown(error.detail)

        return self._each(hosts, ask)

    def show_proxies(self, hosts: Mapping[str, str]) -> dict[str, Proxy | Unknown]:
        """Given addresses of database proxies by name, return what each one tells, or why it could not be had."""

        def ask(name: str, address: str) -> Proxy | Unknown:
            try:
                return read_proxy(name, self._show_text(name, address))
            except (Unreachable, EffectFailed) as error:
                return Unknown(error.detail)

        return self._each(hosts, ask)

    def change(
        self,
        hosts: Mapping[str, str],
        wanted: Mapping[str, tuple[str, int | None]],
        least_serving: int = 0,
        generations: Mapping[str, str] | None = None,
        order: Sequence[str] = (),
    ) -> None:
        """Give servers ("ip:port", weight) on every balancer; weight None takes a server out, others stay as they are.

        Nothing is changed anywhere if a balancer does not answer, if one would be left with fewer than least_serving
        servers that are up and have weight, or if a list is neither of the generation given for it nor the one that
        we wrote last; the last two raise Transient. Raise Unreachable or EffectFailed when some of the balancers may
        have changed and others not: the same change again finishes. `order` is for database proxies: the first one
        that is up and has weight is the writer; () leaves the order as it is.
        """
        with self._one_change:
            self._change(hosts, wanted, least_serving, generations or {}, order)

    def _change(
        self,
        hosts: Mapping[str, str],
        wanted: Mapping[str, tuple[str, int | None]],
        least_serving: int,
        generations: Mapping[str, str],
        order: Sequence[str],
    ) -> None:
        views = self._each(hosts, self._show)
        for name, (view, _) in views.items():
            known = (generations.get(name, view.generation), self._written.get(name))
            if view.generation not in known:
                raise Transient(name, "its list of servers was changed by somebody else meanwhile.")
            _demand_serving(name, view, wanted, least_serving)

        def apply(name: str, address: str) -> None:
            view, table = views[name]
            servers = _changed(table, wanted)
            entries = {key: {"address": to, "weight": weight} for key, (to, weight) in servers.items()}
            whole = {"servers": entries, **({"order": _in_order(servers, order)} if order else {})}
            answer = self._ask(name, address, ["apply", "--expect", view.generation], json.dumps(whole))
            self._written[name] = read_view(name, answer)[0].generation

        self._each(hosts, apply)

    def hand_over(self, name: str, address: str) -> None:
        """If a balancer has a VRRP address, make it give it to a peer; without a living peer it takes it again.

        Visitors' connections move with the address: requests in flight on it at that moment are repeated or lost.
        """
        if self._show(name, address)[0].holds:
            self.let_go(name, address)

    def let_go(self, name: str, address: str) -> None:
        """Make a machine give its VRRP addresses to a peer: keepalived says goodbye, and comes back as a backup."""
        answer = self._ssh.run(address, ["sudo", "systemctl", "restart", "keepalived"])
        if answer.code:
            raise EffectFailed(name, f"keepalived does not restart: {answer.error.strip()}")

    def _show(self, name: str, address: str) -> tuple[Balancer, Table]:
        """Return what one balancer does, and its table. Raise Unreachable or EffectFailed when it does not serve."""
        return read_view(name, self._show_text(name, address))

    @retry(retry=retry_if_exception_type(Unreachable), stop=stop_after_attempt(2), wait=wait_fixed(0.5), reraise=True)
    def _show_text(self, name: str, address: str) -> str:
        return self._ask(name, address, ["show"])

    def _ask(self, name: str, address: str, arguments: list[str], stdin: str = "") -> str:
        answer = self._ssh.run(address, ["sudo", PROGRAM, *arguments], stdin, TIMEOUT_S)
        if answer.code == MOVED:
            raise Transient(name, "its list of servers was changed by somebody else meanwhile.")
        if answer.code:
            raise EffectFailed(name, f"{arguments[0]} ended with {answer.code}: {answer.error.strip()}")
        return answer.output

    def _each(self, hosts: Mapping[str, str], work: Callable[[str, str], T]) -> dict[str, T]:
        """Do the same with every balancer at once; all are waited for before the first error is raised."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            futures = {name: pool.submit(work, name, address) for name, address in hosts.items()}
        return {name: future.result() for name, future in futures.items()}


def read_view(name: str, text: str) -> tuple[Balancer, Table]:
    """Given what `thems-balancer show` printed, return it typed: what haproxy does, and its table.

    Raise EffectFailed if it makes no sense, or haproxy does not run.
    """
    try:
        view: dict[str, Any] = json.loads(text)
        front = view["frontend"]
        seen = Balancer(
            servers={key: _server(entry) for key, entry in view["servers"].items()},
            generation=view["generation"],
            holds=tuple(view["holds"]),
            connections=front["connections"],
            counters=Counters(requests=front["requests"], failed=front["5xx"] + front["cut"]),
        )
        table = {key: (entry["address"], entry["weight"]) for key, entry in view["list"].items()}
        runs = view["haproxy"] == "running"
    except (ValueError, KeyError, TypeError) as error:
        raise EffectFailed(name, f"its answer makes no sense ({error!r}): {text[:200]!r}") from error
    if not runs:
        raise EffectFailed(name, "haproxy does not run there.", "Look at its journal: journalctl -u haproxy.")
    return seen, table


def read_proxy(name: str, text: str) -> Proxy:
    """Given what `thems-balancer show` printed on a database proxy, return it typed.

    Raise EffectFailed if it makes no sense, or haproxy does not run.
    """
    view, _ = read_view(name, text)
    writer = json.loads(text).get("writer")
    if not isinstance(writer, str):
        raise EffectFailed(name, "it is no database proxy: it names no writer.")
    backends = {
        key: Backend(server.address, "drained" if not server.weight else "up" if server.up else "down",
                     server.connections)
        for key, server in view.servers.items()
    }  # fmt: skip
    return Proxy(writer, backends, view.holds, view.generation)


def _server(entry: Mapping[str, Any]) -> Server:
    return Server(
        address=entry["address"],
        weight=entry["weight"],
        up=entry["state"] in ("up", "no-check"),
        connections=entry["connections"],
    )


def _changed(table: Table, wanted: Mapping[str, tuple[str, int | None]]) -> dict[str, tuple[str, int]]:
    """Given a table and what to change in it, return the whole new one."""
    servers = {name: entry for name, entry in table.items() if name not in wanted}
    servers.update({name: (address, weight) for name, (address, weight) in wanted.items() if weight is not None})
    return servers


def _in_order(servers: Mapping[str, object], order: Sequence[str]) -> list[str]:
    """Given all servers and those that come first, return all of them in order."""
    first = [name for name in order if name in servers]
    return first + [name for name in servers if name not in first]


def _demand_serving(
    name: str, view: Balancer, wanted: Mapping[str, tuple[str, int | None]], least_serving: int
) -> None:
    """Raise Transient if the change takes servers that serve now and leaves fewer than least_serving of them."""
    serving = {key for key, server in view.servers.items() if server.up and server.weight > 0}
    taken = {key for key in serving if key in wanted and not wanted[key][1]}
    if taken and len(serving - taken) < least_serving:
        raise Transient(
            name, f"only {len(serving - taken)} servers would go on serving there, at least {least_serving} must."
        )
