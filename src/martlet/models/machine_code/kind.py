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
STEP_BITS = 3
"""Steps of four bits are counted in eighths."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProductKind:
    """A product of rounded tokens with weights of few bits."""

    part_size: int | None
    """Inputs whose weights have a step or a zero of their own, in four bits; None for eight."""
    has_group_scales: bool
    """Whether weights have a scale for each group of inputs. Then, in four bits, a part has a zero,
    and else a step."""
    dtype: torch.dtype
    """Of the output: bf16 or fp32."""
