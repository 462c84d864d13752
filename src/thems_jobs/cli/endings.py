"""How a command ends that could not be carried out: what is said of it, and the exit code."""

import sys
from contextlib import suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from thems_jobs.errors import ThemsError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

OK, CRASHED, USAGE, REFUSED, ABORTED = 0, 1, 2, 4, 143  # as core.outcome.Exit, without importing it for --help
REPORT_S, STOPPED_REPORT_S = 15.0, 3.0  # a folder for reports that does not answer for so long is on a share that hangs

ASKED = SimpleNamespace(report_dir=None)  # of the command that runs: where its ending is written down, too


def console_on(stream: Any) -> "Console":
    from rich.console import Console

    return Console(file=stream, highlight=False)


def say(error: ThemsError) -> int:
    """Given a known error that ended a command, say it, and return the exit code that it means."""
    from thems_jobs import display

    mistakes = error.mistakes if isinstance(error, UsageError) else [f"{error.subject}: {error.detail}"]
    console = console_on(sys.stderr)
    view = display.mistakes_view(error.subject, mistakes, error.remedy)
    console.print(view, soft_wrap=not console.is_terminal)  # a sentence stays one line in a log
    if ASKED.report_dir:
        from thems_jobs import report
        from thems_jobs.clock import detached

        text = " ".join([*mistakes, error.remedy])
        with suppress(OSError):
            detached(lambda: report.write_message(text, ASKED.report_dir)).result(REPORT_S)
    return USAGE if isinstance(error, UsageError) else REFUSED


def crash(error: Exception) -> int:
    """Given what nobody expected, write the traceback to a file, and say so in one line."""
    from thems_jobs.host import write_crash
    from thems_jobs.phrases import plain

    path = write_crash(error, None)
    text = " ".join(plain(f"{type(error).__name__}: {error}").split())[:300]
    where = f"its traceback is in {path}" if path else "its traceback could not be written anywhere"
    print(f"thems-jobs has a bug: {text}; {where}. Running the command again is safe.", file=sys.stderr)
    return CRASHED


def show_warnings() -> None:
    """Let what the layers below warn of appear on stderr, cleaned."""
    import logging

    class ToStderr(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            from thems_jobs.display import words

            with suppress(OSError):
                console_on(sys.stderr).print(words(record.getMessage(), "yellow"))

    logging.getLogger("thems_jobs").addHandler(ToStderr(logging.WARNING))
