"""Where a sequence said the same before: its last tokens, looked up in all that came earlier."""

from collections.abc import Sequence
from dataclasses import dataclass

SIZES = (8, 4, 2)
"""Tokens that must agree, most first: one alone foretells little."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Match:
    """An earlier place where the sequence read as it does at its end."""

    position: int
    """Of the token that followed there."""
    size: int
    """Tokens that agree; one of `SIZES`."""


class NgramIndex:
    """The latest place of every n-gram of a sequence that only grows.

    An n-gram is entered once the token after it is known, so the end of the sequence never finds
    itself. A token costs a few entries of a dictionary, a search a few look-ups.
    """

    def __init__(self) -> None:
        self._num_seen = 0
        # By hash: an n-gram mistaken for another is a wrong guess and nothing more.
        self._hash_to_next: dict[int, int] = {}

    def catch_up(self, token_ids: Sequence[int]) -> None:
        """Enters what was not there at the last call."""
        for position in range(max(self._num_seen, SIZES[-1]), len(token_ids)):
            before = tuple(token_ids[max(0, position - SIZES[0]) : position])
            for size in SIZES:
                self._hash_to_next[hash(before[-size:])] = position
        self._num_seen = len(token_ids)

    def find(self, token_ids: Sequence[int]) -> Match | None:
        """The latest place that agrees with the end of the sequence in the most tokens."""
        for size in SIZES:
            position = self._hash_to_next.get(hash(tuple(token_ids[-size:])))
            if position is not None and len(token_ids) >= size:
                return Match(position=position, size=size)
        return None
