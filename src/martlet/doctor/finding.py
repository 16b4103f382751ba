"""What the doctor says about one subject."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from shlex import quote
from typing import Literal

from martlet.errors import MartletError

State = Literal["ok", "warning", "fault"]

PIP = f"{quote(sys.executable)} -m pip"
"""That of this environment, which the shell's own `pip` need not be."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One subject, its state, and what to do about it."""

    subject: str
    """What was looked at, in a word or two."""
    state: State
    """`fault`: something will fail or be wrong. `warning`: it works, worse than it could."""
    what: str
    remedy: str | None = None
    """One command for a shell; capitals stand for what only the user knows."""
    exit_code: int = 0
    """Of a fault: that of the error that a run would end with."""

    @classmethod
    def ok(cls, subject: str, what: str) -> "Finding":
        """Nothing to do."""
        return cls(subject=subject, state="ok", what=what)

    @classmethod
    def warning(cls, subject: str, what: str, *, remedy: str) -> "Finding":
        """It works, worse than it could."""
        return cls(subject=subject, state="warning", what=what, remedy=remedy)

    @classmethod
    def fault(cls, subject: str, error: MartletError, *, remedy: str) -> "Finding":
        """A run would end with this error."""
        return cls(
            subject=subject,
            state="fault",
            what=str(error),
            remedy=remedy,
            exit_code=error.exit_code,
        )


def exit_code_of(findings: Sequence[Finding]) -> int:
    """The exit code of the first fault, which mostly brings about the later ones; 0 without."""
    return next((each.exit_code for each in findings if each.state == "fault"), 0)
