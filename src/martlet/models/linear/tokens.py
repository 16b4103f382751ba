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


@dataclass(frozen=True, slots=True)
class RoundedTokens:
    """Tokens as the compiled products take them."""

    memory: Tensor
    """In one piece, since a step rounds a hundred times: the values `[G, T, K / G]` in int8, from
    -127 to 127, the scales `[G, T]` in fp32, and the offsets `[G, T]` in int32: the sum of a
    group's values times -128, for what weights have too much. A product goes through it group by
    group."""
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


def round_tokens(x: Tensor, group_size: int) -> RoundedTokens:
    """Rounds to the nearest, in a compiled function: `can_compile` must hold.

    Args:
        x: `[..., K]` on the CPU.
        group_size: K / G, a multiple of 16.
    """
    width = x.shape[-1]
    rows = x if x.dtype == torch.bfloat16 else x.float()
    rows = rows.contiguous()
    num_rows, num_groups = rows.numel() // width, width // group_size
    memory = torch.empty(num_rows * (width + 2 * _SCALE_BYTES * num_groups), dtype=torch.int8)
    tokens = RoundedTokens(memory, num_rows, num_groups, x.shape, x.dtype)
    _rounding(rows.dtype)(
        -(-num_rows // TOKENS_AT_ONCE),
        rows.data_ptr(),
        *tokens.addresses(),
        *(num_rows, width, group_size),
        alone=num_rows * width <= _FEW_VALUES,
    )
    return tokens


@cache
def _rounding(dtype: torch.dtype) -> "Worker":
    from martlet.models.machine_code.token_rounding import token_rounding

    return token_rounding(dtype)
