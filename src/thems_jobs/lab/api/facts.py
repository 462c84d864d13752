"""The calls the lab serves, with the facts of the real API about each: parameters, permissions, where it runs."""

import json
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

Shape = dict[str, Any]  # a schema: type, format, enum, minimum ... as the API viewer of Proxmox VE states them

# How many numbered options there are of each kind. A name such as net[n] in the facts stands for net0 .. net31.
NUMBERED = {
    "hostpci": 16, "ide": 4, "ipconfig": 32, "net": 32, "numa": 8, "parallel": 3, "sata": 6, "scsi": 31,
    "serial": 4, "unused": 256, "usb": 14, "virtio": 16, "virtiofs": 10,
}  # fmt: skip


@dataclass(frozen=True)
class Endpoint:
    """One method of one path."""

    method: str
    path: str  # with {names}
    parameters: dict[str, Shape]
    permissions: dict[str, Any]
    protected: bool  # runs in pvedaemon
    by_node: bool  # is proxied to the node in its path
    for_tokens: bool

    def shape(self, name: str) -> Shape | None:
        """Return the schema of a parameter, numbered ones included, or None if the call does not know it."""
        if name in self.parameters:
            return self.parameters[name]
        numbered = re.fullmatch(r"([a-z]+)(0|[1-9][0-9]*)", name)
        if numbered and int(numbered[2]) < NUMBERED.get(numbered[1], 0):
            return self.parameters.get(f"{numbered[1]}[n]")
        return None


@cache
def endpoints() -> tuple[tuple[re.Pattern[str], dict[str, Endpoint]], ...]:
    """Return a pattern per served path with its methods."""
    facts = json.loads(files(__package__).joinpath("facts.json").read_text())
    served = []
    for path, methods in facts["paths"].items():
        by_method = {}
        for method, fact in methods.items():
            parameters = {
                name: facts["shapes"][shape] if isinstance(shape, str) else shape
                for name, shape in fact["parameters"].items()
            }
            by_method[method] = Endpoint(
                method,
                path,
                parameters,
                fact.get("permissions", {}),
                bool(fact.get("protected")),
                "proxyto" in fact,
                bool(fact.get("allowtoken", 1)),
            )
        served.append((_pattern(path), by_method))
    return tuple(served)


def find(method: str, path: str) -> tuple[Endpoint, dict[str, str]] | None:
    """Given a method and a path below /api2/json, return the call and the values in its path, or None."""
    for pattern, methods in endpoints():
        match = pattern.fullmatch(path)
        if match and method in methods:
            return methods[method], match.groupdict()
    return None


def _pattern(path: str) -> re.Pattern[str]:
    """A volume id may contain slashes, all else ends at one."""
    return re.compile(re.sub(r"\{(\w+)\}", lambda m: f"(?P<{m[1]}>{'.+' if m[1] == 'volume' else '[^/]+'})", path))
