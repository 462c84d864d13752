"""Numbers and times as people read them, in the terminal and in reports."""

from datetime import UTC, datetime

from thems_jobs.core.outcome import Exit

EXIT_WORDS = {
    Exit.OK: "ok",
    Exit.CRASHED: "crashed",
    Exit.USAGE: "usage",
    Exit.CHANGES: "changes",
    Exit.REFUSED: "refused",
    Exit.DEGRADED: "degraded",
    Exit.HALTED: "halted",
    Exit.ABORTED: "aborted",
}


def duration(seconds: float) -> str:
    """Given seconds, return 0.4 s, 12 s, 2 min 05 s or 1 h 02 min."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def moment(at: float) -> str:
    """Given unix seconds, return 2026-12-01 18:00:05 UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def minute(at: float) -> str:
    """Given unix seconds, return 2026-12-01 18:00 UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")


def iso(at: float) -> str:
    """Given unix seconds, return them in ISO 8601 with the zone, for programs."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def count(number: int, one: str, many: str = "") -> str:
    """Given a number and a noun, return `1 machine` or `3 machines`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def plain(text: str) -> str:
    """Given text of any origin, return it without control characters: they could drive a terminal or break XML."""
    kept = (sign if sign in "\t\n" or sign.isprintable() else " " if sign.isspace() else "" for sign in text)
    return "".join(sign for sign in kept if sign not in ("\ufffe", "\uffff"))
