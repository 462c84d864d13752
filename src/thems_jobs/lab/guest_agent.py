"""Guest agent calls, answered from outside: commands are run in the machine's own namespaces."""

import subprocess
from pathlib import Path

from thems_jobs.lab.hypervisor import GuestError

NOT_RUNNING = "QEMU guest agent is not running"
GUEST_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def answers(leader: int) -> bool:
    """Given the guest's pid 1, tell whether its agent unit is active (the unit's runtime folder is there)."""
    return Path(f"/proc/{leader}/root/run/lab-agent").is_dir()


def execute(leader: int, groups: list[Path], argv: list[str], input_data: bytes) -> tuple[int, bytes, bytes]:
    """Run argv in the guest whose pid 1 is leader and whose control groups these are.

    Return exit code, stdout, stderr. Raise GuestError when the program is missing or the guest is gone.
    """
    joins = "".join(f'echo $$ > "{folder}/cgroup.procs"; ' for folder in groups)
    enter = ["nsenter", "-t", str(leader), "-m", "-u", "-i", "-n", "-p", "-C", "--", *argv]
    done = subprocess.run(
        ["sh", "-c", joins + 'exec "$@"', "agent", *enter],
        input=input_data, capture_output=True, check=False, env={"PATH": GUEST_PATH, "LANG": "C.UTF-8"},
    )  # fmt: skip
    if done.stderr.startswith(b"nsenter: failed to execute"):
        reason = done.stderr.decode(errors="replace").rsplit(": ", 1)[-1].strip()
        raise GuestError(f"Failed to execute child process “{argv[0]}” ({reason})")
    if done.stderr.startswith(b"nsenter: "):
        raise GuestError(NOT_RUNNING)
    return done.returncode, done.stdout, done.stderr


def read_file(leader: int, groups: list[Path], path: str) -> bytes:
    """Return a file's content. Raise GuestError if it cannot be read."""
    code, content, errors = execute(leader, groups, ["cat", "--", path], b"")
    if code != 0:
        raise GuestError(f"failed to open file '{path}' (mode: 'r'): {_reason(errors)}")
    return content


def write_file(leader: int, groups: list[Path], path: str, content: bytes) -> None:
    """Write a file. Raise GuestError if that fails."""
    code, _, errors = execute(leader, groups, ["dd", "status=none", f"of={path}"], content)
    if code != 0:
        raise GuestError(f"failed to open file '{path}' (mode: 'w'): {_reason(errors)}")


def _reason(errors: bytes) -> str:
    return errors.decode(errors="replace").strip().rsplit(": ", 1)[-1]
