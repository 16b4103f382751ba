"""The tokens of a step attend through one compiled function, where there is one for their layer.

Decoding requests and prompts are the same to it: tiles of consecutive tokens of a request.

Shapes as in `martlet.engine.attention`.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from martlet.engine.panel_pool import PanelPool
from martlet.models.compiled.threads import run

MAX_ROWS = 64
"""Query rows of a tile, tokens times heads: their scores stay in the cache of a core."""


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """Consecutive packed tokens of one request."""

    first_row: int
    num_tokens: int
    start: int
    """Position of the first token."""
    block_ids: Sequence[int]


class TokenTiles:
    """The tokens of a step as the compiled function takes them; the same for layers alike.

    Args:
        stretches: Of all tokens, in the order of their rows.
        num_groups: Query heads of a key-value head.
    """

    def __init__(self, stretches: Sequence[Stretch], num_groups: int) -> None:
        size = max(1, MAX_ROWS // num_groups)
        tiles = [
            (first, min(size, each.first_row + each.num_tokens - first), index)
            for index, each in enumerate(stretches)
            for first in range(each.first_row, each.first_row + each.num_tokens, size)
        ]
        positions = [
            position
            for each in stretches
            for position in range(each.start, each.start + each.num_tokens)
        ]
        width = max(len(each.block_ids) for each in stretches)
        self._numbers = np.array(
            [
                *chain.from_iterable(tiles),
                *positions,
                *chain.from_iterable(
                    (*each.block_ids, *(0,) * (width - len(each.block_ids))) for each in stretches
                ),
            ],
            dtype=np.int64,
        )
        """One array, since what takes long is to make one, and to ask for its address: the tiles
        `[tiles, 3]`, each its first token, how many there are, and the row of the table; the
        positions `[T]`; and the table `[R, N]`, the blocks of each stretch's request."""
        tiles_end, table_start = 3 * len(tiles), 3 * len(tiles) + len(positions)
        self.positions = self._numbers[tiles_end:table_start]
        """`[T]`."""
        address = self._numbers.ctypes.data
        self._places = (address + 8 * table_start, address, address + 8 * tiles_end)
        self._sizes = (len(tiles), max(count for _, count, _ in tiles), width)

    def arguments(self, first_keys: int) -> tuple[int, ...]:
        """The first `NUM_STEP_ARGUMENTS` of a call, the same for layers alike.

        Args:
            first_keys: The address of the first position that each token sees, `[T]`.
        """
        table, tiles, positions = self._places
        return (table, tiles, first_keys, positions, *self._sizes)


NUM_STEP_ARGUMENTS = 7


class LayerAttention:
    """What a call of the compiled function knows of a layer, whatever the step.

    Args:
        num_heads: Hq.
        dim: D.
    """

    def __init__(self, pool: PanelPool, *, num_heads: int, dim: int, scaling: float) -> None:
        self._pool = pool
        num_kv_heads = pool.blocks.shape[1]
        self._shape = (num_kv_heads, num_heads // num_kv_heads, dim)
        self._scale = ctypes.c_float(scaling)

    def arguments(self, query: int, out: int, token_bytes: int, head_bytes: int) -> tuple[int, ...]:
        """The arguments behind the step's.

        Args:
            query, out: Addresses.
            token_bytes, head_bytes: How far apart tokens and heads of the query are.
        """
        tensors = (self._pool.blocks.data_ptr(), self._pool.scales.data_ptr())
        places = (query, *tensors, ctypes.addressof(self._scale), out)
        return (*places, token_bytes, head_bytes, *self._shape)


def attend(
    query: Tensor,
    pool: PanelPool,
    tiles: TokenTiles,
    *,
    first_keys: npt.NDArray[np.int64],
    scaling: float,
) -> Tensor:
    """Attends for all tokens of a step; their own keys and values are in the pool.

    Args:
        query: `[Hq, T, D]`, in fp32 or bf16.
        first_keys: `[T]`, the first position that each token sees; the last one is its own.

    Returns:
        `[T, Hq, D]` in bf16.
    """
    from martlet.models.compiled import attention

    query = query.float()
    if query.stride(-1) != 1:
        query = query.contiguous()
    num_heads, num_tokens, dim = query.shape
    out = query.new_empty(num_tokens, num_heads, dim, dtype=torch.bfloat16)
    own = LayerAttention(pool, num_heads=num_heads, dim=dim, scaling=scaling)
    strides = query.stride(1) * query.itemsize, query.stride(0) * query.itemsize
    arguments = own.arguments(query.data_ptr(), out.data_ptr(), *strides)
    function = attention.attend(is_rounded=pool.is_rounded)
    run(function, (*tiles.arguments(first_keys.ctypes.data), *arguments))
    return out
