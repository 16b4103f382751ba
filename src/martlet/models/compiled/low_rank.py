"""The thin products of many adapters, compiled: each row meets the matrices of its own adapter.

A row is multiplied with `down`, rounded to bf16, multiplied with `up`, and added to what is there
already: once rounded, or in fp32. The sums of a row have the same order whoever its neighbours are.

Shapes: K inputs, N outputs, G adapters, R the rank of one, filled up to a multiple of 16.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from martlet.models.compiled.panel import PANEL, add_panel
from martlet.models.compiled.results import load_sums, store_sums
from martlet.models.compiled.threads import version
from martlet.models.compiled.vectors import (
    ADDRESS,
    WIDTH,
    Builder,
    Value,
    at,
    compiled,
    constant,
    counts_at,
    fetch_add,
    load,
    numbers_at,
    round_sums,
    store,
)
from martlet.models.compiled.writing import ROUNDED

ROWS_AT_ONCE = 12
"""Rows that a thread takes."""


def _reduce_by(num_rows: int) -> Callable[..., None]:
    """16 columns of `x @ down.T` for the rows of some ids, which `x` has."""

    @intrinsic  # type: ignore[untyped-decorator]
    def reduce(
        _: Any,
        ids: Any,
        first: Any,
        x: Any,
        x_bytes: Any,
        down: Any,
        num_pairs: Any,
        ranks: Any,
        ranks_bytes: Any,
    ) -> Any:
        def generate(context: Any, builder: Builder, _: Any, arguments: Any) -> Value:
            ids, first, x, x_bytes, down, num_pairs, ranks, ranks_bytes = arguments
            rows = _rows(builder, num_rows, at(builder, ids, first, 8), x, x_bytes)
            sums = add_panel(builder, [[constant(0)]] * num_rows, rows, down, num_pairs)
            own = at(builder, ranks, first, ranks_bytes)
            for row, (total,) in enumerate(sums):
                store(builder, round_sums(builder, total), at(builder, own, row, ranks_bytes))
            return context.get_dummy_value()

        kinds = (ids, first, x, x_bytes, down, num_pairs, ranks, ranks_bytes)
        return types.void(*kinds), generate

    function: Callable[..., None] = reduce
    return function


def _expand_by(num_rows: int) -> Callable[..., None]:
    """Adds 64 columns of `ranks @ up` to the rows of some ids, which `out` has."""

    @intrinsic  # type: ignore[untyped-decorator]
    def expand(
        _: Any,
        ids: Any,
        first: Any,
        ranks: Any,
        ranks_bytes: Any,
        up: Any,
        num_pairs: Any,
        out: Any,
        target: Any,
    ) -> Any:
        def generate(context: Any, builder: Builder, _: Any, arguments: Any) -> Value:
            ids, first, ranks, ranks_bytes, up, num_pairs, out, target = arguments
            out_bytes, way = cgutils.unpack_tuple(builder, target)
            targets = _rows(builder, num_rows, at(builder, ids, first, 8), out, out_bytes)
            starts = [load_sums(builder, each, way) for each in targets]
            own = at(builder, ranks, first, ranks_bytes)
            rows = [at(builder, own, row, ranks_bytes) for row in range(num_rows)]
            store_sums(builder, add_panel(builder, starts, rows, up, num_pairs), targets, way)
            return context.get_dummy_value()

        kinds = (ids, first, ranks, ranks_bytes, up, num_pairs, out, target)
        return types.void(*kinds), generate

    function: Callable[..., None] = expand
    return function


def _rows(
    builder: Builder, num_rows: int, ids: Value, table: Value, row_bytes: Value
) -> list[Value]:
    """The addresses of the rows of a table whose numbers are `ids`."""
    numbers = [load(builder, at(builder, ids, row, 8), ADDRESS) for row in range(num_rows)]
    return [at(builder, table, number, row_bytes) for number in numbers]


def _all_rows_by(some_rows_by: Callable[[int], Callable[..., None]]) -> Callable[..., None]:
    """The same for any number of rows: `num_rows` takes the place of the first one's number."""
    six, four, two, one = (some_rows_by(num_rows) for num_rows in (6, 4, 2, 1))

    @njit  # type: ignore[untyped-decorator]
    def all_rows(
        ids: int,
        num_rows: int,
        source: int,
        source_bytes: int,
        panel: int,
        num_pairs: int,
        target: int,
        others: Any,
    ) -> None:
        row = 0
        while row < num_rows:
            if num_rows - row >= 6:
                six(ids, row, source, source_bytes, panel, num_pairs, target, others)
                row += 6
            elif num_rows - row >= 4:
                four(ids, row, source, source_bytes, panel, num_pairs, target, others)
                row += 4
            elif num_rows - row >= 2:
                two(ids, row, source, source_bytes, panel, num_pairs, target, others)
                row += 2
            else:
                one(ids, row, source, source_bytes, panel, num_pairs, target, others)
                row += 1

    function: Callable[..., None] = all_rows
    return function


_reduce, _expand = _all_rows_by(_reduce_by), _all_rows_by(_expand_by)


@njit  # type: ignore[untyped-decorator]
def _add_adapter(
    ids: int,
    num_rows: int,
    x: int,
    x_bytes: int,
    num_inputs: int,
    adapter: Any,
    ranks: int,
    out: int,
    target: Any,
    num_panels: int,
) -> None:
    """Adds one adapter to its rows.

    Args:
        adapter: The addresses of `down` and `up`, and R.
        target: How many bytes the rows of `out` are apart, and a `Writing`.
    """
    down, up, rank = adapter[0], adapter[1], adapter[2]
    ranks_bytes = rank * 2
    for part in range(rank // WIDTH):
        _reduce(
            ids,
            num_rows,
            x,
            x_bytes,
            down + part * num_inputs * WIDTH * 2,
            num_inputs // 2,
            ranks + part * WIDTH * 2,
            ranks_bytes,
        )
    panel_bytes = PANEL * (2 if target[1] == ROUNDED else 4)
    for panel in range(num_panels):
        _expand(
            ids,
            num_rows,
            ranks,
            ranks_bytes,
            up + panel * rank * PANEL * 2,
            rank // 2,
            out + panel * panel_bytes,
            target,
        )


@cache
def add_low_rank() -> Any:
    """The compiled function; its argument is the address of 13 whole numbers.

    These are: the address of a number in which threads count what they took; of the step, the
    address of the numbers of the rows that have an adapter, those of each adapter together, how
    many there are, and the address of where each adapter's end among them `[G]` in int32; the
    addresses of the input `[T, K]` in bf16 and of the output `[T, N]`, and how many bytes apart the
    rows of each are; K; the number of panels of 64 outputs; the address of three numbers for each
    adapter: the addresses of its `down` `[R / 16, K / 2, 16, 2]` and its `up`
    `[N / 64, R / 2, 64, 2]`, and R, which may be 0; the largest R; and a `Writing` of the output.
    """
    sources = version()

    @compiled
    def work(arguments: Any) -> None:
        _ = sources
        ids, num_rows, ends = arguments[1], arguments[2], counts_at(arguments[3])
        scratch = np.empty(ROWS_AT_ONCE * arguments[11] * 2, np.uint8)
        while True:
            row = fetch_add(arguments[0], 1) * ROWS_AT_ONCE
            if row >= num_rows:
                break
            last, adapter = min(row + ROWS_AT_ONCE, num_rows), 0
            while row < last:
                while ends[adapter] <= row:
                    adapter += 1
                end = min(last, ends[adapter])
                _add_adapter(
                    ids + row * 8,
                    end - row,
                    arguments[4],
                    arguments[6],
                    arguments[8],
                    numbers_at(arguments[10] + 24 * adapter),
                    scratch.ctypes.data,
                    arguments[5],
                    (arguments[7], arguments[12]),
                    arguments[9],
                )
                row = end

    return work
