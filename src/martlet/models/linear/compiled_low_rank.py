"""The thin products of adapters by a compiled function, for each row those of its own adapter.

`low_rank` multiplies every row by all adapters that occur and masks what is not wanted; the
operations of PyTorch that it uses are slow besides where a matrix is as thin as these.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from martlet.models.compiled.threads import is_compiled_for
from martlet.models.compiled.writing import Writing
from martlet.models.openmp import Call, run

_PANEL, _VECTOR = 64, 16
"""Columns of a panel, and of a vector."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RankPanels:
    """The two matrices of one adapter in one layer, in the order that they are read in.

    R is the rank, filled up to a multiple of 16.
    """

    rank: int
    down: Tensor
    """`[R / 16, in / 2, 16, 2]` in bf16."""
    up: Tensor
    """`[out / 64, R / 2, 64, 2]` in bf16."""

    @classmethod
    def of(cls, down: Tensor, up: Tensor) -> Self | None:
        """Lays matrices out.

        Args:
            down: `[r, in]`. It is read, not kept.
            up: `[r, out]`, likewise.

        Returns:
            None if nothing is compiled for them.
        """
        (rank, num_inputs), num_outputs = down.shape, up.shape[1]
        if num_outputs % _PANEL or not is_compiled_for(down, num_inputs):
            return None
        filling = (0, 0, 0, -rank % _VECTOR)
        vectors = F.pad(down, filling).view(-1, _VECTOR, num_inputs // 2, 2)
        panels = F.pad(up, filling).view(-1, 2, num_outputs // _PANEL, _PANEL)
        return cls(
            rank=rank,
            down=vectors.transpose(1, 2).contiguous(),
            up=panels.permute(2, 0, 3, 1).contiguous(),
        )

    @property
    def padded_rank(self) -> int:
        """R."""
        return len(self.down) * _VECTOR


class CompiledLowRank:
    """Adds `(x @ down.T) @ up` to the rows of each of G adapters.

    A row comes out the same to the last bit, whoever its neighbours are.

    Args:
        adapters: None for one that adds nothing here. They are kept.
    """

    def __init__(self, adapters: Sequence[RankPanels | None]) -> None:
        from martlet.models.compiled.low_rank import ROWS_AT_ONCE, add_low_rank

        self._function: int = add_low_rank().address
        self._rows_at_once = ROWS_AT_ONCE
        self._kept = adapters
        numbers = [
            (0, 0, 0)
            if panels is None
            else (panels.down.data_ptr(), panels.up.data_ptr(), panels.padded_rank)
            for panels in adapters
        ]
        self._table = np.array(numbers, np.int64)
        self._largest_rank = max(rank for _, _, rank in numbers)

    def add_(self, out: Tensor, x: Tensor, rows: Tensor, ends: Tensor) -> None:
        """Adds to `out`, in place.

        Args:
            out: `[T, out]` in bf16 or fp32; its rows may lie apart.
            x: `[T, in]` in bf16, likewise.
            rows: `[N]`, the rows that have an adapter, those of each adapter together.
            ends: `[G]` in int32, where the rows of each adapter end among these.
        """
        assert out.stride(1) == x.stride(1) == 1
        places, shape = (x.data_ptr(), out.data_ptr()), (x.shape[1], out.shape[1])
        apart = x.stride(0) * x.element_size(), out.stride(0) * out.element_size()
        call = self.call(places, apart, shape, out.dtype, rows_of(rows, ends))
        run(call, alone=len(rows) <= self._rows_at_once)

    def call(
        self,
        places: tuple[int, int],
        row_bytes: tuple[int, int],
        shape: tuple[int, int],
        out_dtype: torch.dtype,
        rows: tuple[int, int, int] = (0, 0, 0),
    ) -> Call:
        """What adds to rows at an address.

        Args:
            places: Of x and of the rows that are added to.
            row_bytes: How far apart the rows of each are.
            shape: The numbers of inputs and outputs.
            out_dtype: Of the rows that are added to, bf16 or fp32.
            rows: What `rows_of` gives: the first arguments, which belong to a step.
        """
        sizes = (shape[0], shape[1] // _PANEL, self._table.ctypes.data, self._largest_rank)
        way = Writing.ROUNDED if out_dtype == torch.bfloat16 else Writing.WIDE
        return Call(self._function, (*rows, *places, *row_bytes, *sizes, way))


def rows_of(rows: Tensor, ends: Tensor) -> tuple[int, int, int]:
    """See `CompiledLowRank.add_`."""
    return rows.data_ptr(), len(rows), ends.data_ptr()
