"""The work items of a step: which program of the attention kernel reads which keys for whom.

A token of a reply is an item of its own, cut along its keys while there are too few items to keep
the device busy. Tokens of a prompt go in tiles. Rows that share a beginning have items in common
for it (`shared_runs`); the parts of each row's softmax are then merged.

    fields of an item   first row | rows | its block table | first key | end key | ordinal

The ordinal says which of its rows' parts the item makes; WHOLE if there is only one.
Shapes: R decoding rows, T rows of the step.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from martlet.engine.cuda.shared_runs import MAX_NESTING, Ints, SharedRun

WHOLE = -1
NUM_FIELDS = 6
MIN_SPAN = 256
"""Keys that an item reads at least, where it could be cut: merging costs about as much as these."""
SPAN_STEP = 64


@dataclass(frozen=True, kw_only=True)
class WorkShape:
    """How items are cut for a model on a device."""

    num_wide_tokens: int
    """Tokens of a wide item: with their query heads, the rows of one product."""
    num_items_wanted: int
    """Items from which on all multiprocessors are busy."""

    def max_narrow(self, num_rows: int) -> int:
        """Narrow items of so many decoding rows, at most."""
        return num_rows + self.num_items_wanted

    def max_wide(self, num_rows: int) -> int:
        """Wide items of so many decoding rows, at most."""
        tiles = MAX_NESTING * (num_rows // self.num_wide_tokens + num_rows // 2 + 1)
        return self.num_items_wanted + tiles

    def max_parts(self, num_rows: int) -> int:
        """Parts that so many decoding rows are cut into, at most."""
        shared = self.num_wide_tokens * self.num_items_wanted + MAX_NESTING * num_rows
        return self.max_narrow(num_rows) + shared


@dataclass(frozen=True, kw_only=True)
class Work:
    """The items of a step, and the parts that its rows are made of."""

    narrow: Ints
    """`[items, NUM_FIELDS]`, of one row each."""
    wide: Ints
    """`[items, NUM_FIELDS]`, of several rows."""
    first_parts: Ints
    """`[T]`"""
    num_parts: Ints
    """`[T]`, 1 for a row that one item makes as a whole."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptRows:
    """Consecutive tokens of one request, as rows of the step."""

    first_row: int
    num_rows: int
    start: int
    """Position of the first."""
    table: int
    """Where its block table starts."""


def plan_work(
    shape: WorkShape,
    *,
    lengths: Ints,
    tables: Ints,
    runs: Sequence[SharedRun],
    block_size: int,
    prompts: Sequence[PromptRows] = (),
) -> Work:
    """Cuts the attention of a step into items.

    Args:
        lengths: `[R]`, the keys that each decoding row sees; these rows come first.
        tables: `[R]`, where the block table of each starts.
        runs: What decoding rows share, outer runs before inner ones.
        prompts: The rows that follow.
    """
    num_shared, own_first = np.zeros_like(lengths), np.zeros_like(lengths)
    shared = _shared_items(shape, runs, tables, block_size, num_shared)
    for run in runs:
        own_first[run.first_row : run.end_row] = run.end_block * block_size
    narrow, num_own = _own_items(shape, lengths, tables, own_first, num_shared)
    num_rows = len(lengths) + sum(prompt.num_rows for prompt in prompts)
    num_parts = np.ones(num_rows, dtype=np.int64)
    num_parts[: len(lengths)] = num_shared + num_own
    narrow[num_parts[narrow[:, 0]] == 1, 5] = WHOLE
    sizes = np.where(num_parts > 1, num_parts, 0)
    return Work(
        narrow=narrow,
        wide=_stacked([*shared, *_prompt_items(shape, prompts)]),
        first_parts=np.cumsum(sizes) - sizes,
        num_parts=num_parts,
    )


def _shared_items(
    shape: WorkShape, runs: Sequence[SharedRun], tables: Ints, block_size: int, num_parts: Ints
) -> list[Ints]:
    """The items of what rows share; `num_parts` of the rows, `[R]`, is counted up."""
    tiles = [-(-run.num_rows // shape.num_wide_tokens) for run in runs]
    keys = [(run.end_block - run.first_block) * block_size for run in runs]
    span = _span(shape, sum(a * b for a, b in zip(tiles, keys, strict=True)))
    items = []
    for run in runs:
        first_rows = np.arange(run.first_row, run.end_row, shape.num_wide_tokens)
        first_keys = np.arange(run.first_block * block_size, run.end_block * block_size, span)
        rows, firsts = (each.ravel() for each in np.meshgrid(first_rows, first_keys))
        ordinals = num_parts[run.first_row] + np.repeat(np.arange(len(first_keys)), len(first_rows))
        items.append(
            _items(
                rows,
                np.minimum(shape.num_wide_tokens, run.end_row - rows),
                tables[run.first_row],
                firsts,
                np.minimum(firsts + span, run.end_block * block_size),
                ordinals,
            )
        )
        num_parts[run.first_row : run.end_row] += len(first_keys)
    return items


def _own_items(
    shape: WorkShape, lengths: Ints, tables: Ints, own_first: Ints, first_ordinals: Ints
) -> tuple[Ints, Ints]:
    """The items of what each row has for itself, and how many each row has."""
    span = _span(shape, int((lengths - own_first).sum()))
    counts = -(-(lengths - own_first) // span)
    rows = np.repeat(np.arange(len(lengths)), counts)
    within = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    firsts = own_first[rows] + within * span
    ends = np.minimum(firsts + span, lengths[rows])
    ordinals = first_ordinals[rows] + within
    return _items(rows, np.ones_like(rows), tables[rows], firsts, ends, ordinals), counts


def _prompt_items(shape: WorkShape, prompts: Iterable[PromptRows]) -> list[Ints]:
    items = []
    for prompt in prompts:
        offsets = np.arange(0, prompt.num_rows, shape.num_wide_tokens)
        num_rows = np.minimum(shape.num_wide_tokens, prompt.num_rows - offsets)
        ends = prompt.start + offsets + num_rows
        items.append(
            _items(prompt.first_row + offsets, num_rows, prompt.table, 0 * ends, ends, WHOLE)
        )
    return items


def _span(shape: WorkShape, num_keys: int) -> int:
    """Keys an item, so that so many keys make the items that are wanted."""
    span = max(MIN_SPAN, -(-num_keys // shape.num_items_wanted))
    return -(-span // SPAN_STEP) * SPAN_STEP


def _items(*fields: Ints | int) -> Ints:
    return np.stack(np.broadcast_arrays(*fields), axis=-1).astype(np.int64)


def _stacked(items: Sequence[Ints]) -> Ints:
    return np.concatenate([np.empty((0, NUM_FIELDS), dtype=np.int64), *items])
