"""Whether a reply is the reference, but for case, spaces and outer punctuation."""

import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from martlet.score.exercise import Exercise


class ExactMatch:
    """The share of replies that say just what the reference says."""

    figures = ("exact match",)
    is_mean = True
    how = "NFKC, without regard to case, runs of spaces and outer punctuation"

    def statistics(self, exercise: Exercise, replies: Sequence[str]) -> Sequence[float]:
        """The share of samples that match."""
        reference = normalised(exercise.reference)
        return (float(np.mean([normalised(reply) == reference for reply in replies])),)

    def total(self, sums: NDArray[np.float64], num_rows: int) -> NDArray[np.float64]:
        """The mean."""
        return sums / num_rows


def normalised(text: str) -> str:
    """A text in the form in which it is compared."""
    words = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    start, end = 0, len(words)
    while start < end and _is_outer(words[start]):
        start += 1
    while end > start and _is_outer(words[end - 1]):
        end -= 1
    # A text of nothing but punctuation is compared as it stands.
    return words[start:end] or words


def _is_outer(character: str) -> bool:
    return character == " " or unicodedata.category(character).startswith("P")
