"""What functions are compiled for, and how their work is divided."""

from dataclasses import dataclass

import torch

TOKENS_AT_ONCE = 16
"""Tokens that are rounded together."""
ROWS_AT_ONCE = 192
"""Tokens for which a panel of weights is read from memory once, and then from the cache."""
_LANES = 16
_VECTORS_OF_PANEL = {8: 4, 4: 2}
"""By bits. Scaling groups one by one takes as many registers again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProductKind:
    """A product of rounded tokens with weights of few bits."""

    bits: int
    """8 or 4."""
    group_size: int | None
    """Inputs that share a scale; None for all of them, in eight bits."""
    has_zeros: bool
    """Whether groups differ in the stored value that stands for 0."""
    dtype: torch.dtype
    """Of the output: bf16 or fp32."""

    @property
    def panel(self) -> int:
        """Outputs that are computed together."""
        return panel_of(self.bits)


def panel_of(bits: int) -> int:
    """Outputs that are computed together, and whose weights lie together."""
    return _LANES * _VECTORS_OF_PANEL[bits]
