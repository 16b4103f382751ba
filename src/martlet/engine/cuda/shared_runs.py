"""Which decoding requests share a beginning that is worth reading once for all of them.

Samples of one prompt hold the same blocks, and so do questions with the same instructions. Sorted
by their block tables, the sharers stand next to each other:

    rows     0 1 2 3 4 5 6        run  rows 0-6, blocks 0-1   (the same instructions)
    blocks   a a a a a a a        run  rows 0-3, blocks 2-4   (samples of one question)
             ...

Shapes: R requests, N blocks of the longest.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

MAX_NESTING = 2
"""Runs within runs: each costs every row of it one part more to merge."""
MIN_SAVED_KEYS = 1024
"""A run must spare the reading of so many keys, over all its rows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SharedRun:
    """Consecutive rows that hold the same blocks."""

    first_row: int
    end_row: int
    first_block: int
    """Counted from the beginning of their tables."""
    end_block: int

    @property
    def num_rows(self) -> int:
        return self.end_row - self.first_row


def sharing_order(tables: Ints) -> Ints:
    """An order of rows in which those with the same beginning follow each other.

    Args:
        tables: `[R, N]`, padded in any way.
    """
    rows = np.ascontiguousarray(tables)
    return np.argsort(rows.view(np.dtype((np.void, rows.itemsize * rows.shape[1])))[:, 0])


def find_shared_runs(tables: Ints, num_full: Ints, block_size: int) -> list[SharedRun]:
    """The runs that are worth it, outer ones before those within them.

    Args:
        tables: `[R, N]`, in `sharing_order`.
        num_full: `[R]`, the blocks of each row before the one that its token is in.
        block_size: Tokens in a block.
    """
    if len(tables) < 2:
        return []
    is_same = tables[1:] == tables[:-1]
    is_same[:, -1] = False
    common = np.minimum(is_same.argmin(axis=1), np.minimum(num_full[1:], num_full[:-1]))
    return list(_runs(common, 0, len(tables), 0, MAX_NESTING, block_size))


def _runs(
    common: Ints, first: int, end: int, depth: int, nesting: int, block_size: int
) -> Iterator[SharedRun]:
    """The runs among rows `first` to `end`, whose first `depth` blocks are dealt with.

    Args:
        common: `[R - 1]`, the blocks that each row shares with the next.
    """
    if nesting == 0 or end - first < 2:
        return
    shared = int(common[first : end - 1].min())
    if (shared - depth) * block_size * (end - first - 1) >= MIN_SAVED_KEYS:
        yield SharedRun(first_row=first, end_row=end, first_block=depth, end_block=shared)
        depth, nesting = shared, nesting - 1
    # Cut where neighbours share no more than all do.
    cuts = first + 1 + np.flatnonzero(common[first : end - 1] <= max(shared, depth))
    bounds = [first, *cuts.tolist(), end]
    for part_first, part_end in pairwise(bounds):
        if part_end - part_first < end - first:
            yield from _runs(common, part_first, part_end, depth, nesting, block_size)
