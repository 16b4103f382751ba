"""The inner loop of every compiled product: a few rows times a panel, their sums in registers.

A panel has 64 columns, or fewer where a row has fewer sums. Of all columns the pairs of the first
two inputs lie side by side, then those of the next two. Memory is passed by address, as in
`vectors`.
"""

from collections.abc import Callable, Sequence
from typing import Any

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from martlet.models.compiled.vectors import (
    ADDRESS,
    PAIR_BYTES,
    PAIRS,
    VECTOR_BYTES,
    WIDTH,
    Builder,
    Value,
    add_products,
    at,
    broadcast_pair,
    load,
    prefetch_line,
    store,
    transpose,
)

PANEL = 64
"""Columns of a panel."""
VECTORS = range(PANEL // WIDTH)
"""Of the columns."""


def add_panel(
    builder: Builder,
    starts: Sequence[Sequence[Value]],
    rows: Sequence[Value],
    panel: Value,
    num_pairs: Value,
    *,
    ahead: Value | None = None,
) -> list[list[Value]]:
    """Adds the products of rows with a panel.

    Args:
        starts: What sums begin with: the vectors of each row.
        rows: Addresses of bf16 values.
        num_pairs: Of inputs.
        ahead: Where memory is asked for a quarter of a panel meanwhile.
    """
    vectors = range(len(starts[0]))

    def columns(index: Value) -> list[Value]:
        if ahead is not None:
            prefetch_line(builder, at(builder, ahead, index, VECTOR_BYTES))
        inputs = at(builder, panel, index, len(vectors) * VECTOR_BYTES)
        return [load(builder, at(builder, inputs, each, VECTOR_BYTES), PAIRS) for each in vectors]

    return add_steps(builder, starts, rows, columns, num_pairs)


def add_steps(
    builder: Builder,
    starts: Sequence[Sequence[Value]],
    rows: Sequence[Value],
    columns: Callable[[Value], Sequence[Value]],
    num_pairs: Value,
) -> list[list[Value]]:
    """Adds the products of rows with a panel whose vectors are loaded in any way.

    Args:
        starts: What sums begin with: the vectors of each row.
        rows: Addresses of bf16 values.
        columns: Writes what loads the vectors of a pair of inputs, by its index.
        num_pairs: Of inputs.
    """
    # Variables that the compiler keeps in registers.
    sums = [[cgutils.alloca_once_value(builder, start) for start in row] for row in starts]
    with cgutils.for_range(builder, num_pairs) as loop:
        loaded = columns(loop.index)
        for row, variables in zip(rows, sums, strict=True):
            pair = broadcast_pair(builder, at(builder, row, loop.index, PAIR_BYTES))
            for variable, column in zip(variables, loaded, strict=True):
                added = add_products(builder, builder.load(variable), column, pair)
                builder.store(added, variable)
    return [[builder.load(variable) for variable in row] for row in sums]


@intrinsic  # type: ignore[untyped-decorator]
def turn_rows(_: Any, rows: Any, width: Any, panel: Any, index: Any) -> Any:
    """Writes 16 rows of bf16 values to a panel, as its columns from 16 times the index on."""

    def generate(context: Any, builder: Builder, _: Any, arguments: Any) -> Value:
        rows, width, panel, index = arguments
        row_bytes = builder.mul(width, ADDRESS(2))
        own = at(builder, panel, index, VECTOR_BYTES)
        with cgutils.for_range(builder, builder.udiv(width, ADDRESS(2 * WIDTH))) as part:
            columns = at(builder, rows, part.index, VECTOR_BYTES)
            vectors = [
                load(builder, at(builder, columns, row, row_bytes), PAIRS) for row in range(WIDTH)
            ]
            target = at(builder, own, part.index, WIDTH * PANEL * PAIR_BYTES)
            for pair, turned in enumerate(transpose(builder, vectors)):
                store(builder, turned, at(builder, target, pair, PANEL * PAIR_BYTES))
        return context.get_dummy_value()

    return types.void(rows, width, panel, index), generate
