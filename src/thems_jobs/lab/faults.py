"""Faults on demand: what is armed, and how to reach the API's control socket.

The socket takes one JSON object per line and answers with one. `do` says what; see api/control.py for all of them.
"""

import json
import re
import socket
import threading
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class CloneFault:
    """What happens to one clone: it ends in `text`, takes seconds longer, never ends, or its worker dies."""

    kind: Literal["fail", "slow", "hang", "lost"]
    text: str = "clone failed: copy failed: got signal 9"
    seconds: float = 0.0


@dataclass(frozen=True)
class AnswerFault:
    """What happens to one request: the answer is lost, after or before the effect."""

    method: str  # regular expression
    path: str  # regular expression, searched in the path below /api2/json
    status: int
    text: str
    executed: bool
    delay_s: float = 0.0


class Faults:
    """The armed faults. Every taker removes what it takes, so that a fault meant once happens once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        """Disarm all."""
        self._clones: deque[CloneFault] = deque()
        self._answers: deque[AnswerFault] = deque()
        self._next_boots = 0
        self.dead_boots: set[str] = set()  # VMIDs or names
        self.silent_agents: set[str] = set()
        self.offline_nodes: set[str] = set()
        self.quorum_lost = False

    def arm_clones(self, fault: CloneFault, times: int) -> None:
        """Let this happen to the next clones."""
        with self._lock:
            self._clones.extend([fault] * times)

    def arm_answers(self, fault: AnswerFault, times: int) -> None:
        """Let this happen to the next requests it fits."""
        with self._lock:
            self._answers.extend([fault] * times)

    def arm_boots(self, times: int) -> None:
        """Let the next started VMs never boot."""
        with self._lock:
            self._next_boots += times

    def take_clone(self) -> CloneFault | None:
        """Return what happens to this clone."""
        with self._lock:
            return self._clones.popleft() if self._clones else None

    def take_answer(self, method: str, path: str) -> AnswerFault | None:
        """Return what happens to this request."""
        with self._lock:
            for fault in self._answers:
                if re.fullmatch(fault.method, method) and re.search(fault.path, path):
                    self._answers.remove(fault)
                    return fault
        return None

    def takes_boot(self, vmid: int, name: str) -> bool:
        """Tell whether this VM shall not boot now."""
        with self._lock:
            if {str(vmid), name} & self.dead_boots:
                return True
            if self._next_boots > 0:
                self._next_boots -= 1
                return True
            return False

    def is_silent(self, vmid: int, name: str) -> bool:
        """Tell whether this VM's agent shall not answer."""
        return bool({str(vmid), name} & self.silent_agents)

    def armed(self) -> dict[str, Any]:
        """Return what is armed, for people."""
        with self._lock:
            return {
                "clones": [fault.kind for fault in self._clones],
                "answers": [f"{fault.method} {fault.path} {fault.status}" for fault in self._answers],
                "next_boots": self._next_boots,
                "dead_boots": sorted(self.dead_boots),
                "silent_agents": sorted(self.silent_agents),
                "offline_nodes": sorted(self.offline_nodes),
                "quorum_lost": self.quorum_lost,
            }


def ask(control: Path, command: dict[str, Any], timeout_s: float = 30.0) -> dict[str, Any]:
    """Given the path of the control socket and a command, return the answer. Raise ValueError with its `error`."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout_s)
        connection.connect(str(control))
        connection.sendall(json.dumps(command).encode() + b"\n")
        answer: dict[str, Any] = json.loads(connection.makefile().readline())
    if "error" in answer:
        raise ValueError(answer["error"])
    return answer
