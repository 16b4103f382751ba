"""Tokens rounded to eight bits, each by scales of its own, so that no neighbour matters.

Shapes: T tokens of K inputs in G groups; the inputs of a group have one scale.
"""

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from martlet.models.machine_code.kind import TOKENS_AT_ONCE, TokenKind
from martlet.models.openmp import Call, run

if TYPE_CHECKING:
    from martlet.models.machine_code.worker import Worker

LEAST_GROUP = 16
"""Inputs that have one scale, at least; groups are a multiple of it."""
_SCALE_BYTES = 4
_FEW_VALUES = 2**16
"""As many are rounded before another thread is awake."""


@dataclass(frozen=True, slots=True)
class RoundedTokens:
    """Tokens as the compiled products take them."""

    memory: Tensor
    """In one piece, since a step rounds a hundred times: the values `[G, T, K / G]` in int8, the
    scales `[G, T]` in fp32, and the offsets `[G, T]` in int32: the sum of a group's values times
    -128, for what weights have too much. A product goes through it group by group. Tokens with
    zeros have one group, and behind the offsets the sum of the values `[T]` and the number that
    stands for zero `[T]`, both in fp32 and times the scale."""
    num_rows: int
    num_groups: int
    shape: torch.Size
    """Of what was rounded."""
    dtype: torch.dtype

    def addresses(self) -> tuple[int, int, int]:
        """Of the values, the scales and the offsets."""
        return places(self.memory.data_ptr(), self.num_rows, self.shape[-1], self.num_groups)


def places(memory: int, num_rows: int, width: int, num_groups: int) -> tuple[int, int, int]:
    """Where the values, the scales and the offsets of rounded tokens lie in a piece of memory."""
    scales = memory + num_rows * width
    return memory, scales, scales + _SCALE_BYTES * num_rows * num_groups


def num_bytes(num_rows: int, width: int, num_groups: int) -> int:
    """The memory that rounded tokens take."""
    return num_rows * (width + 2 * _SCALE_BYTES * (num_groups + 1))


def round_tokens(x: Tensor, group_size: int, kind: TokenKind) -> RoundedTokens:
    """Rounds to the nearest, in a compiled function: `can_compile` must hold.

    Args:
        x: `[..., K]` on the CPU.
        group_size: K / G, a multiple of 16.
        kind: What they are to be rounded as.
    """
    width = x.shape[-1]
    rows = x.to(kind.dtype).contiguous()
    num_rows, num_groups = rows.numel() // width, width // group_size
    memory = torch.empty(num_bytes(num_rows, width, num_groups), dtype=torch.int8)
    tokens = RoundedTokens(memory, num_rows, num_groups, x.shape, x.dtype)
    sizes = (num_rows, width, group_size)
    call = rounding(rows.data_ptr(), memory.data_ptr(), *sizes, kind)
    run(call, alone=num_rows * width <= _FEW_VALUES)
    return tokens


def rounding(
    x: int, memory: int, num_rows: int, width: int, group_size: int, kind: TokenKind
) -> Call:
    """What rounds tokens of a kind at one address, and writes them to another."""
    return compiled_rounding(kind).call(
        -(-num_rows // TOKENS_AT_ONCE),
        x,
        *places(memory, num_rows, width, width // group_size),
        *(num_rows, width, group_size),
    )


@cache
def compiled_rounding(kind: TokenKind) -> "Worker":
    """What rounds tokens of a kind; the first to ask waits for it."""
    from martlet.models.machine_code.token_rounding import token_rounding

    return token_rounding(kind)
