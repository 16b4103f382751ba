"""What functions are compiled for, and how their work is divided."""

from dataclasses import dataclass

import torch

TOKENS_AT_ONCE = 16
"""Tokens that are rounded together."""
ROWS_AT_ONCE = 264
"""Tokens for which a panel of weights is read from memory once, and then from the cache. They are
whole tiles, and so few that a core's second level keeps them from panel to panel."""
WEIGHT_ZERO = 128
"""The byte that stands for 0 in a weight: the instruction takes it unsigned, tokens signed."""
TURN = 128
"""Inputs that are mixed with each other before they are rounded, see `linear/turned`."""
PANEL = 64
"""Outputs that are computed together, and whose weights lie together."""
MULTIPLIERS = (2, 3, 5, 7, 9, 11, 13, 15)
STEPS = tuple((multiplier, zero) for multiplier in MULTIPLIERS for zero in (7, 8))
"""What the sixteen codes of a part of weights of four bits stand for: a value `q` is
`(q - zero) * multiplier`, and with the zero on the other side of its largest weight, a part has a
value more for it."""
LARGEST_VALUE = 15
"""Of four bits."""
LARGEST_STEPS = 8 * MULTIPLIERS[-1]
"""Of an output's largest weight in steps of its scale, in four bits."""
LEAST_SCALE = 1e-12
"""Of an output whose weights are zeros."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenKind:
    """Tokens, and how they are rounded."""

    dtype: torch.dtype
    """Before: bf16 or fp32."""
    is_turned: bool
    """Whether they are turned first, because the weights were."""
    has_zeros: bool
    """Whether their range is that from the smallest to the largest value, and each has a number
    that stands for zero; else it reaches as far to both sides of zero."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProductKind:
    """A product of rounded tokens with weights of few bits."""

    tokens: TokenKind
    """If they have zeros, the outputs of weights do too."""

    part_size: int | None
    """Inputs whose weights have a code of their own, in four bits; None for eight."""
    has_group_scales: bool
    """Whether weights have a scale for each group of inputs. Then, in four bits, a part's code is a
    zero, and else half a byte that says its step."""
    looks_up: bool
    """Whether the values of many rows are multiplied by looking up their products, in four bits."""

    @property
    def weights_of_byte(self) -> int:
        return 1 if self.part_size is None else 2

    @property
    def parts_of_code(self) -> int:
        """Parts that share a byte of codes."""
        return 1 if self.has_group_scales else 2

    @property
    def inputs_of_code(self) -> int:
        """Inputs of parts that share a byte, in four bits."""
        assert self.part_size is not None
        return self.part_size * self.parts_of_code
