"""Which rows of a step belong to which adapter.

    rows    | a b a . c a | b b b b b b b | . . . . |     a, b, c adapters, . the base
    parts   |    mixed    |      one      |

Long stretches of one adapter are computed by themselves; stretches of short ones together, with
the matrices of all adapters that occur stacked on each other and a mask.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, groupby

import numpy as np
import torch
from torch import Tensor

from martlet.lora.revision import AdapterRevision

MIN_RUN_ROWS = 8
"""From so many rows on, a stretch of one adapter is computed by itself."""
MAX_STACK_WASTE = 2
"""A stack is kept while it has at most this many times the adapters that are needed: making one
copies the matrices of every layer."""

Segment = tuple[int, AdapterRevision | None]
"""Consecutive rows, and their adapter; None for the base."""
Run = tuple[range, AdapterRevision | None]
"""The same, with their places among all rows."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Consecutive rows that are computed in one go."""

    rows: slice
    adapters: tuple[AdapterRevision, ...]
    """The adapters that `slots` counts; a part without slots has one."""
    slots: Tensor | None = None
    """`[rows]`, the place of each row's adapter in `adapters`, -1 for the base; None if all rows
    have the one adapter."""
    sorted_rows: Tensor | None = None
    """Where there are slots: the rows that have an adapter, those of each one together, as an index
    into all rows."""
    ends: Tensor | None = None
    """`[adapters]` in int32, where the rows of each adapter end in `sorted_rows`."""
    masks: dict[tuple[int, ...], Tensor] = field(default_factory=dict)
    """By the ranks of the adapters; the same in most layers."""

    def mask(self, ranks: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """`[rows, sum of ranks]`: one where a row's own adapter stands in the stack, else zero."""
        assert self.slots is not None
        if ranks not in self.masks:
            device = self.slots.device
            owners = torch.repeat_interleave(
                torch.arange(len(ranks), device=device), torch.tensor(ranks, device=device)
            )
            self.masks[ranks] = (self.slots[:, None] == owners).to(dtype)
        return self.masks[ranks]

    def each(self) -> Iterator[tuple[AdapterRevision, slice | Tensor]]:
        """Every adapter with its rows, as an index into all rows."""
        if self.slots is None:
            yield self.adapters[0], self.rows
            return
        for slot, adapter in enumerate(self.adapters):
            rows = (self.slots == slot).nonzero()[:, 0]
            if rows.numel():
                yield adapter, rows + self.rows.start


@dataclass(frozen=True, kw_only=True)
class RowMap:
    """The adapters of all rows that a layer sees in a step."""

    num_rows: int = 0
    parts: tuple[Part, ...] = ()
    """Empty if every row is the base's."""
    stack: tuple[AdapterRevision, ...] = ()
    """The adapters of the mixed parts, and perhaps more."""
    runs: tuple[Run, ...] = ()

    @cached_property
    def whole(self) -> Part:
        """All rows as one part, on the CPU, for leaves whose adapters are compiled."""
        adapters = {adapter for _, adapter in self.runs if adapter is not None}
        in_order = sorted(adapters, key=lambda adapter: adapter.namespace)
        return self.whole_among(tuple(in_order))

    def whole_among(self, adapters: tuple[AdapterRevision, ...]) -> Part:
        """The same, counted through these adapters, all that occur among them."""
        return _mixed_part(self.runs, adapters, torch.device("cpu"))


def map_rows(
    segments: Iterable[Segment],
    stack: Sequence[AdapterRevision],
    device: torch.device,
    *,
    min_run_rows: int = MIN_RUN_ROWS,
) -> RowMap:
    """Divides a step's rows into parts.

    Args:
        segments: All rows, in order.
        stack: The stack of the step before, which is kept if it still serves.
        device: Where the slots go.
        min_run_rows: A stretch of one adapter with fewer rows is mixed with its neighbours.
    """
    runs = _merged(segments)
    groups = [list(group) for _, group in groupby(runs, key=lambda run: len(run[0]) < min_run_rows)]
    is_mixed = [len(group) > 1 and len(group[0][0]) < min_run_rows for group in groups]
    needed = {
        adapter
        for group, mixed in zip(groups, is_mixed, strict=True)
        for _, adapter in group
        if mixed and adapter is not None
    }
    stack = _choose_stack(needed, stack)
    parts: list[Part] = []
    for group, mixed in zip(groups, is_mixed, strict=True):
        if not mixed:
            parts.extend(
                Part(rows=slice(rows.start, rows.stop), adapters=(adapter,))
                for rows, adapter in group
                if adapter is not None
            )
        elif any(adapter is not None for _, adapter in group):
            parts.append(_mixed_part(group, tuple(stack), device))
    return RowMap(
        num_rows=runs[-1][0].stop if runs else 0,
        parts=tuple(parts),
        stack=tuple(stack),
        runs=tuple(runs),
    )


def _merged(segments: Iterable[Segment]) -> list[Run]:
    """Segments with those of the same adapter that follow each other made one."""
    lengths = [
        (adapter, sum(length for length, _ in group))
        for adapter, group in groupby(segments, key=lambda segment: segment[1])
    ]
    ends = list(accumulate(length for _, length in lengths))
    return [
        (range(end - length, end), adapter)
        for end, (adapter, length) in zip(ends, lengths, strict=True)
    ]


def _choose_stack(
    needed: set[AdapterRevision], previous: Sequence[AdapterRevision]
) -> Sequence[AdapterRevision]:
    if not needed:
        return previous  # The next step may need it again.
    if needed <= set(previous) and len(previous) <= MAX_STACK_WASTE * len(needed):
        return previous
    kept = [adapter for adapter in previous if adapter in needed]
    added = sorted(needed - set(kept), key=lambda adapter: adapter.namespace)
    return [*kept, *added]


def _mixed_part(
    group: Sequence[Run],
    stack: tuple[AdapterRevision, ...],
    device: torch.device,
) -> Part:
    places = {adapter: place for place, adapter in enumerate(stack)}
    own_places = [-1 if adapter is None else places[adapter] for _, adapter in group]
    slots = np.repeat(own_places, [len(rows) for rows, _ in group])
    first_row = group[0][0].start
    in_order = np.argsort(slots, kind="stable")[np.count_nonzero(slots < 0) :]
    ends = np.bincount(slots[in_order], minlength=len(stack)).cumsum().astype(np.int32)
    return Part(
        rows=slice(first_row, group[-1][0].stop),
        adapters=stack,
        slots=torch.from_numpy(slots).to(device),
        sorted_rows=torch.from_numpy(first_row + in_order).to(device),
        ends=torch.from_numpy(ends).to(device),
    )
