"""The logits that a step computes, and what it found in them on the way.

Shapes: N rows, V tokens of the vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


class Likeliest(NamedTuple):
    """The most likely token of each row, of equals the first, and its logit; N of both.

    The logit of a row that is not finite may be any number that is not.
    """

    token_ids: Sequence[int]
    logits: Sequence[float]


@dataclass(frozen=True, slots=True)
class Logits:
    """Rows of logits."""

    values: Tensor
    """`[N, V]`, as the model gave them."""
    likeliest: Likeliest | None = None
    """None where it was not looked for."""

    def take(self, rows: Sequence[int]) -> "Logits":
        """Some of the rows, in ascending order."""
        found = self.likeliest
        # Of a step of one row, to ask a tensor for its length is a twentieth of all Python.
        if len(rows) == (len(self.values) if found is None else len(found.token_ids)):
            return self
        if found is not None:
            token_ids, logits = found
            found = Likeliest([token_ids[row] for row in rows], [logits[row] for row in rows])
        return Logits(take(self.values, rows), found)


def take(table: Tensor, rows: Sequence[int]) -> Tensor:
    """Some rows of a table, in ascending order; not copied where they lie together."""
    if rows[-1] - rows[0] == len(rows) - 1:
        return table[rows[0] : rows[-1] + 1]
    return table[rows]
