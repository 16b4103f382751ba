"""What functions are compiled for, and how their work is divided."""

from dataclasses import dataclass

import torch

TOKENS_AT_ONCE = 16
"""Tokens that are rounded together."""
ROWS_AT_ONCE = 192
"""Tokens for which a panel of weights is read from memory once, and then from the cache."""
WEIGHT_ZERO = 128
"""The byte that stands for 0 in a weight: the instruction takes it unsigned, tokens signed."""
PANEL = 64
"""Outputs that are computed together, and whose weights lie together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProductKind:
    """A product of rounded tokens with weights of few bits."""

    bits: int
    """8 or 4."""
    part_size: int | None
    """Inputs whose weights have a multiplier and a zero of their own, in four bits."""
    dtype: torch.dtype
    """Of the output: bf16 or fp32."""
