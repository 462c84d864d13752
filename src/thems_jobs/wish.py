"""How a run was asked for, and the command that asks for it again."""

import shlex
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Wish:
    """How a run was asked for."""

    arguments: tuple[str, ...]
    plan_only: bool
    yes: bool
    expect_plan: str
    detailed: bool
    as_json: bool
    report_dir: Path | None
    started_by: str

    @property
    def command(self) -> str:
        """The command as it was written, to be shown and run again."""
        return shlex.join(["thems-jobs", *self.arguments])

    def approved_command(self, digest: str) -> str:
        """Given a plan's digest, return the command that does that plan and no other."""
        arguments, skip = list[str](), False
        for argument in self.arguments:
            if not skip and argument not in ("--plan", "--detailed-exitcode") and argument != "--expect-plan":
                arguments += [] if argument.startswith("--expect-plan=") else [argument]
            skip = argument == "--expect-plan"
        return shlex.join(["thems-jobs", *arguments, "--expect-plan", digest])
