"""What a request may draw next: constraints, asked before each draw. No text in here.

A constraint advances with drawn tokens alone, so preemption, which computes known tokens again,
does not disturb it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from martlet.engine.request import Request

TokenMask = npt.NDArray[np.uint32]
"""`[W]`, W = ceil(V / 32): bit i of word w is set if token 32 w + i may be drawn."""


class TokenConstraint(Protocol):
    """The state of one reply that must have a form. Not shared between requests."""

    def fill(self, mask: TokenMask) -> None:
        """Writes which tokens may be drawn next; whatever it raises ends its request alone."""
        ...

    def accept(self, token_id: int) -> None:
        """Advances by a drawn token, which was allowed."""
        ...

    @property
    def is_finished(self) -> bool:
        """Whether the reply is complete and nothing can follow: its request ends."""
        ...


def fill_masks(requests: Sequence[Request], vocab_size: int) -> Mapping[int, TokenMask]:
    """Asks the constraints of a step's requests.

    Returns:
        Row to mask, for each request with a constraint. A request whose constraint fails or
        allows nothing gets its `error`, and no mask.
    """
    row_to_mask: dict[int, TokenMask] = {}
    for row, request in enumerate(requests):
        if request.constraint is None:
            continue
        mask = np.zeros(-(-vocab_size // 32), dtype=np.uint32)
        try:
            request.constraint.fill(mask)
        except Exception as error:  # a library's parser: one request's trouble, not the step's
            request.error = f"the form of the reply cannot be kept: {error}"
            continue
        if not mask.any():
            request.error = "the form of the reply allows no token of this model"
            continue
        row_to_mask[row] = _without(mask, request.barred_ids)
    return row_to_mask


def only_token(mask: TokenMask) -> int | None:
    """The one token that a mask allows; None if there are several."""
    words = mask.nonzero()[0]
    bits = int(mask[words[0]])
    if len(words) > 1 or bits & (bits - 1):
        return None
    return int(words[0]) * 32 + bits.bit_length() - 1


def _without(mask: TokenMask, token_ids: frozenset[int]) -> TokenMask:
    """The mask without some tokens, unless nothing would be left: the constraint wins."""
    if not token_ids:
        return mask
    rest = mask.copy()
    for token_id in token_ids:
        rest[token_id // 32] &= ~np.uint32(1 << token_id % 32)
    return rest if rest.any() else mask
