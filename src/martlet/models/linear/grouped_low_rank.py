"""The thin products of many adapters, each with its own rows alone, in two grouped products.

A stack of all adapters and a mask (`low_rank`) multiplies every row by every adapter. With many
rows and many adapters that is much work for nothing; a grouped product does only what is wanted.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_MULTIPLE = 8
"""Of ranks and widths, so that each row of a matrix in bf16 starts at a multiple of 16 bytes."""


def groups_pay(down: Tensor, up: Tensor) -> bool:
    """Whether PyTorch has a fast grouped product for such matrices, `[r, in]` and `[r, out]`."""
    fits = down.shape[1] % _MULTIPLE == 0 and up.shape[1] % _MULTIPLE == 0
    is_fast = down.device.type == "cuda" and down.dtype == torch.bfloat16
    return fits and is_fast and hasattr(F, "grouped_mm")


class GroupedLowRank:
    """Adds `(x @ down.T) @ up` to the rows of each of G adapters.

    Args:
        pairs: For each adapter, `down` `[r, in]` and `up` `[r, out]`, with its own rank r; None for
            one that adds nothing. At least one adds something. They are read, not kept.
    """

    def __init__(self, pairs: Sequence[tuple[Tensor, Tensor] | None]) -> None:
        down, up = next(pair for pair in pairs if pair is not None)
        largest = max(len(pair[0]) for pair in pairs if pair is not None)
        rank = -(-largest // _MULTIPLE) * _MULTIPLE
        self._downs = down.new_zeros(len(pairs), down.shape[1], rank)  # [G, in, R]
        self._ups = up.new_zeros(len(pairs), rank, up.shape[1])  # [G, R, out]
        for group, pair in enumerate(pairs):
            if pair is not None:
                own_rank = len(pair[0])
                self._downs[group, :, :own_rank] = pair[0].T
                self._ups[group, :own_rank] = pair[1]

    def add_(self, out: Tensor, x: Tensor, rows: Tensor, ends: Tensor) -> None:
        """Adds to `out`, in place.

        Args:
            out: `[T, out]`.
            x: `[T, in]`.
            rows: `[N]`, the rows that have an adapter, those of each adapter together.
            ends: `[G]` in int32, where the rows of each adapter end among these.
        """
        ranks = F.grouped_mm(x[rows], self._downs, offs=ends)  # [N, R]
        out.index_add_(0, rows, F.grouped_mm(ranks, self._ups, offs=ends))
