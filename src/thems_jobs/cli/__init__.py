"""The command line: the only package that prints and exits. What a command runs is imported when it is run.

`main` is where it begins and ends. The commands are in `machines`, `database`, `looking` and `jenkins`, their common
options in `options`; `running` carries out what was asked for, `endings` says how a command ended that could not.
"""

import os
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import Any, NoReturn

import typer

from thems_jobs.cli import database, jenkins, looking, machines
from thems_jobs.cli.endings import ABORTED, OK, crash, say, show_warnings
from thems_jobs.errors import ThemsError

THREADS_END_S = 3.0  # what a run began and gave up gets so long to end; Jenkins kills 20 s after SIGTERM

EXAMPLES = """
\b
Examples:
  thems-jobs lab up                                   a platform to try it on
  thems-jobs doctor                                   is all there for a first run?
  thems-jobs template build web                       what machines are cloned from
  thems-jobs provision --plan                         what would be done, and for how long
  thems-jobs provision                                ... and do it
  thems-jobs scale --tier web=6 --event gala \\
      --until 2026-12-01T23:00+01:00                  more machines until the gala is over
  thems-jobs galera-health --for restart shop-db-2    would the database cluster bear it?
  thems-jobs galera-recover                           after a full crash: whose data is the newest?
  thems-jobs status                                   the platform as it is
\b
Exit codes: 0 done or nothing to do, 2 usage, 3 the plan has changes, 4 refused (nothing was changed),
5 done with items skipped, 6 halted (run it again), 143 aborted (run it again), 1 a bug.
"""


class Commands(typer.core.TyperGroup):
    """The commands; those of the lab are imported only when one of them is asked for."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] == "lab":
            from thems_jobs.lab.cli import app as lab

            return "lab", typer.main.get_command(lab), args[1:]
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=Commands,
    name="thems-jobs",
    help="Runs WooCommerce shops on a Proxmox cluster: shows what will happen, does it, and can be run again.",
    epilog=EXAMPLES,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
about = typer.Typer(rich_markup_mode=None)


@about.command()
def version() -> None:
    """Print the version."""
    from thems_jobs import __version__

    print(f"thems-jobs {__version__}")


@about.command("lab", add_help_option=False)
def lab_stands_in() -> None:
    """A whole platform on this machine, to try things on: see thems-jobs lab --help."""


for commands in (machines.app, database.app, looking.app, about):
    app.add_typer(commands)
app.add_typer(machines.template, name="template")
app.add_typer(jenkins.app, name="jobs-sync")


def main() -> None:
    """Run the command line, and end, whatever hangs."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # an old terminal shows ? for a tick
    signal.signal(signal.SIGINT, lambda *_: sys.exit(ABORTED))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(ABORTED))
    try:
        code: Any = run()
    except SystemExit as ending:  # of the command, or a signal, also while something is said of an error
        code = ending.code
    leave(code)


def run() -> int:
    """Run what was asked for; return the exit code of every ending but SystemExit."""
    try:
        show_warnings()
        app(prog_name="thems-jobs")
    except ThemsError as error:
        return say(error)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever read us has gone, as `| head` does
    except Exception as error:
        return crash(error)
    return OK


def leave(code: Any) -> NoReturn:
    """Given an exit code, end with it, even if a thread hangs in a system call that nothing can break off."""
    deadline = time.monotonic() + THREADS_END_S
    others = [t for t in threading.enumerate() if t is not threading.current_thread() and not t.daemon]
    with suppress(SystemExit):  # a signal: they have got enough time
        for thread in others:
            thread.join(max(0.0, deadline - time.monotonic()))
    if not any(thread.is_alive() for thread in others) or not isinstance(code, int):
        sys.exit(code)
    with suppress(OSError):  # whoever read us has gone
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)
