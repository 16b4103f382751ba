"""Names that a person mistypes."""

from collections.abc import Sequence
from difflib import get_close_matches


def unknown(name: str, known: Sequence[str], *, what: str) -> str:
    """Says that a name is not known, and which one is meant, or which there are.

    Args:
        name: As it was typed.
        known: The names that there are.
        what: What they name.
    """
    close = get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(known) or 'none'}"
    return f"unknown {what} {name}; {hint}"
