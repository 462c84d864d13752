"""Starting and stopping database members, over SSH, by the program `thems-galera` that the database role installs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from thems_jobs.core.facts import Standing
from thems_jobs.errors import EffectFailed, Transient

if TYPE_CHECKING:
    import subprocess

    from thems_jobs.clients.ssh import Ssh

PROGRAM = "/usr/local/sbin/thems-galera"
TIMEOUT_S = 90.0  # it waits up to 60 s for the first member of a cluster
STOP_S = 900.0  # as the program itself gives a clean stop
RECOVER_S = 660.0  # reading the log of a database that was killed
UNEXPECTED = 9  # its exit code when things are not as we think


class GaleraMachines:
    """The database program of each machine."""

    def __init__(self, ssh: Ssh) -> None:
        self._ssh = ssh

    def show(self, name: str, address: str) -> Standing:
        """Return where a member stands. Raise Unreachable or EffectFailed if that cannot be known."""
        return self._do(name, address, ["show"], RECOVER_S)

    def join(self, name: str, address: str, donors: Sequence[str], members: Sequence[str]) -> None:
        """Start a member so that it joins these addresses, with data from these donors; one that runs already does.

        Raise Transient if things are not as they must be.
        """
        if not self.show(name, address).running:
            self._do(name, address, ["join", "--donor", ",".join(donors), "--members", ",".join(members)])

    def bootstrap(self, name: str, address: str, standing: Standing, absent: Sequence[str]) -> None:
        """Make a cluster of one member that stands as it was seen, while nobody answers on the other addresses."""
        position = ["--uuid", standing.uuid, "--seqno", str(standing.seqno)]
        self._do(name, address, ["bootstrap", *position, "--absent", ",".join(absent)])

    def forbid_bootstrap(self, name: str, address: str) -> None:
        """Make sure that the member's next start joins others."""
        self._do(name, address, ["forbid-bootstrap"])

    def leave(self, name: str, address: str) -> Standing:
        """Stop a member cleanly, also for its next boot; return where it stands then."""
        return self._do(name, address, ["leave"], STOP_S)

    def begin_backup(self, address: str, stopped: bool) -> subprocess.Popen[bytes]:
        """Begin to copy all data of a member to standard output; of one that does not run if `stopped`."""
        how = ["--stopped"] if stopped else []
        return self._ssh.begin(address, ["sudo", PROGRAM, "backup", "--attended", *how])

    def _do(self, name: str, address: str, arguments: list[str], timeout_s: float = TIMEOUT_S) -> Standing:
        answer = self._ssh.run(address, ["sudo", PROGRAM, *arguments], timeout_s=timeout_s)
        try:
            told: dict[str, Any] = json.loads(answer.output)
            if answer.code == UNEXPECTED:
                raise Transient(name, f"{told['error']}.")
            if answer.code:
                raise EffectFailed(name, f"{arguments[0]} failed: {told['error']}.")
            return Standing(bool(told["running"]), str(told["uuid"]), int(told["seqno"]), str(told["view"]))
        except (ValueError, KeyError, TypeError) as error:
            said = (answer.error or answer.output).strip()[:200]
            raise EffectFailed(name, f"thems-galera {arguments[0]} ended with {answer.code}: {said}") from error
