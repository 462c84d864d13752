"""Everything that can go wrong, once.

ThemsError                what, where, what to do next
├── UsageError            bad flag, file or secret: nothing was changed (exit 2)
├── Refused               a gate is closed or the answer was no: nothing was changed (exit 4)
├── Unreachable           a system did not answer (exit 4 before a change, 6 after one)
├── EffectFailed          an effect was tried and failed for good (exit 6)
│   ├── IdentityMismatch  the thing is not, or no longer, ours: it was left alone
│   └── LeaseLost         another run holds the platform now: nothing more may be done
└── Transient             worth looking again: a lock, a lost answer, a digest that moved
"""

from dataclasses import dataclass


@dataclass
class ThemsError(Exception):
    """Given where it happened, what was found and what to do next, be one clear sentence each.

    `reference` is kebab-case and the name of a page under docs/runbooks.
    """

    reference: str
    subject: str
    detail: str
    remedy: str = ""

    def __str__(self) -> str:
        text = f"{self.subject}: {self.detail}"
        return f"{text} {self.remedy}" if self.remedy else text


class UsageError(ThemsError):
    """A mistake in what was given to us; `mistakes` has one sentence for each of them."""

    def __init__(self, reference: str, subject: str, mistakes: list[str], remedy: str = "") -> None:
        super().__init__(reference, subject, " ".join(mistakes), remedy)
        self.mistakes = mistakes


class Refused(ThemsError):
    """A gate is closed; nothing was changed."""


class Unreachable(ThemsError):
    """A system did not answer, or would not let us in."""

    def __init__(self, subject: str, detail: str, remedy: str = "", reference: str = "unreachable") -> None:
        super().__init__(reference, subject, detail, remedy)


class EffectFailed(ThemsError):
    """An effect was tried and failed; running the same command again is safe."""

    def __init__(self, subject: str, detail: str, remedy: str = "", reference: str = "effect-failed") -> None:
        super().__init__(reference, subject, detail, remedy)


class IdentityMismatch(EffectFailed):
    """The machine is not ours, or no longer what was planned for; it was left alone."""

    def __init__(self, subject: str, detail: str, remedy: str = "") -> None:
        super().__init__(subject, detail, remedy, reference="identity-mismatch")


class LeaseLost(EffectFailed):
    """Another run holds the platform; this one must not go on."""

    def __init__(self, subject: str, detail: str, remedy: str = "") -> None:
        super().__init__(subject, detail, remedy, reference="lease-lost")


class Transient(ThemsError):
    """The same effect may succeed after looking again; the runner bounds the attempts."""

    def __init__(self, subject: str, detail: str, remedy: str = "") -> None:
        super().__init__("transient", subject, detail, remedy)
