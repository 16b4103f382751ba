"""Tokens rounded to eight bits, each by scales of its own, so that no neighbour matters.

Shapes: T tokens of K inputs in G groups; the inputs of a group have one scale.
"""

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from martlet.models.machine_code.kind import TOKENS_AT_ONCE

if TYPE_CHECKING:
    from martlet.models.machine_code.worker import Worker

_SCALE_BYTES = 4
_FEW_VALUES = 2**16
"""As many are rounded before another thread is awake."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenFormat:
    """How a layer wants tokens to be rounded."""

    group_size: int
    """A multiple of 16."""
    middle: int
    """What the layer's stored weights have too much, which are unsigned."""


@dataclass(frozen=True, slots=True)
class RoundedTokens:
    """Tokens as the compiled products take them."""

    memory: Tensor
    """In one piece, since a step rounds a hundred times: the values `[G, T, K / G]` in int8, from
    -127 to 127, the scales `[G, T]` in fp32, and the offsets `[G, T]` in int32, which are the sum
    of a group's values times the middle, negative. A product goes through it group by group."""
    num_rows: int
    num_groups: int
    shape: torch.Size
    """Of what was rounded."""
    dtype: torch.dtype

    def addresses(self) -> tuple[int, int, int]:
        """Of the values, the scales and the offsets."""
        values = self.memory.data_ptr()
        num_scales = self.num_rows * self.num_groups
        scales = values + self.num_rows * self.shape[-1]
        return values, scales, scales + _SCALE_BYTES * num_scales


def round_tokens(x: Tensor, token_format: TokenFormat) -> RoundedTokens:
    """Rounds to the nearest, in a compiled function: `can_compile` must hold.

    Args:
        x: `[..., K]` on the CPU.
    """
    width, size = x.shape[-1], token_format.group_size
    rows = x if x.dtype == torch.bfloat16 else x.float()
    rows = rows.contiguous()
    num_rows, num_groups = rows.numel() // width, width // size
    memory = torch.empty(num_rows * (width + 2 * _SCALE_BYTES * num_groups), dtype=torch.int8)
    tokens = RoundedTokens(memory, num_rows, num_groups, x.shape, x.dtype)
    _rounding(rows.dtype)(
        -(-num_rows // TOKENS_AT_ONCE),
        rows.data_ptr(),
        *tokens.addresses(),
        *(num_rows, width, size, token_format.middle),
        alone=num_rows * width <= _FEW_VALUES,
    )
    return tokens


@cache
def _rounding(dtype: torch.dtype) -> "Worker":
    from martlet.models.machine_code.token_rounding import token_rounding

    return token_rounding(dtype)
