"""Tokens rounded to eight bits, each by scales of its own, so that no neighbour matters.

Shapes: T tokens of K inputs in G groups; the inputs of a group have one scale.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

_FEW_VALUES = 2**16
"""As many are rounded before another thread is awake."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenFormat:
    """How a layer wants tokens to be rounded."""

    group_size: int
    """A multiple of 16."""
    middle: int
    """What the layer's stored weights have too much, which are unsigned."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundedTokens:
    """Tokens as the compiled products take them."""

    values: Tensor
    """`[T, K]` in int8, from -127 to 127."""
    scales: Tensor
    """`[T, G]` in fp32."""
    offsets: Tensor
    """`[T, G]` in int32: the sum of a group's values times the middle, negative."""
    shape: torch.Size
    """Of what was rounded."""
    dtype: torch.dtype


def round_tokens(x: Tensor, token_format: TokenFormat) -> RoundedTokens:
    """Rounds to the nearest, in a compiled function: `can_compile` must hold.

    Args:
        x: `[..., K]` on the CPU.
    """
    from martlet.models.machine_code.token_rounding import ROWS_AT_ONCE, token_rounding

    width, size = x.shape[-1], token_format.group_size
    rows = x.reshape(-1, width).contiguous()
    if rows.dtype != torch.bfloat16:
        rows = rows.float()
    num_rows = len(rows)
    values = torch.empty(num_rows, width, dtype=torch.int8)
    scales = torch.empty(num_rows, width // size)
    offsets = torch.empty(num_rows, width // size, dtype=torch.int32)
    token_rounding(rows.dtype)(
        -(-num_rows // ROWS_AT_ONCE),
        *(tensor.data_ptr() for tensor in (rows, values, scales, offsets)),
        *(num_rows, width, size, token_format.middle),
        alone=rows.numel() <= _FEW_VALUES,
    )
    return RoundedTokens(
        values=values, scales=scales, offsets=offsets, shape=x.shape, dtype=x.dtype
    )
