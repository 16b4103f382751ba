"""Products of a few rows with a packed bf16 weight, at the speed that memory has.

oneDNN reads a weight for one row at half the speed that memory gives. This reads the same packed
weight, panel by panel: 64 outputs, of which the pairs of the first two inputs lie side by side,
then those of the next two.

Shapes: M rows, K inputs, N outputs.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import cfunc, types
from numba.core import cgutils
from numba.extending import intrinsic

from martlet.models.compiled.vectors import (
    PAIRS,
    SUMS,
    VECTOR_BYTES,
    WIDTH,
    Builder,
    Value,
    add_products,
    at,
    broadcast_pair,
    fetch_add,
    floats_at,
    load,
    round_to,
    store,
)

PANEL = 64
"""Outputs of a panel."""
_NUM_VECTORS = PANEL // WIDTH


@cache
def multiply_rows() -> Any:
    """The compiled product; its argument is the address of eight whole numbers.

    These are: the address of a number in which threads count the panels that they took; those of
    the rows `[M, K]` in bf16, of the packed weight, of the bias `[N]` in fp32 or 0, and of the
    result `[M, N]` in bf16; M; the number of panels; and that of pairs of inputs.
    """
    # A pass over a panel holds four rows at most; what it reads again is in the cache.
    by_four, by_two, by_one = (_multiply_panel_by(num_rows) for num_rows in (4, 2, 1))

    @cfunc(types.void(types.CPointer(types.int64)))  # type: ignore[untyped-decorator]
    def work(arguments: Any) -> None:
        rows, weight, bias, out = arguments[1], arguments[2], arguments[3], arguments[4]
        num_rows, num_panels, num_pairs = arguments[5], arguments[6], arguments[7]
        scratch = np.empty(num_rows * PANEL, np.float32).ctypes.data
        while True:
            panel = fetch_add(arguments[0], 1)
            if panel >= num_panels:
                break
            panel_weight = weight + panel * num_pairs * PANEL * 4
            row = 0
            while row < num_rows:
                some, sums = rows + row * num_pairs * 4, scratch + row * PANEL * 4
                if num_rows - row >= 4:
                    by_four(some, panel_weight, num_pairs, sums)
                    row += 4
                elif num_rows - row >= 2:
                    by_two(some, panel_weight, num_pairs, sums)
                    row += 2
                else:
                    by_one(some, panel_weight, num_pairs, sums)
                    row += 1
            for row in range(num_rows):
                if bias != 0:
                    for column in range(PANEL):
                        own = floats_at(bias)[panel * PANEL + column]
                        floats_at(scratch)[row * PANEL + column] += own
                first = (row * num_panels + panel) * PANEL
                round_to(scratch + row * PANEL * 4, _NUM_VECTORS, out + 2 * first)

    return work


def _multiply_panel_by(num_rows: int) -> Callable[..., None]:
    """`(rows, weight, num_pairs, sums)`: all outputs of a panel, `[num_rows, PANEL]` in fp32."""

    @intrinsic  # type: ignore[untyped-decorator]
    def multiply_panel(_: Any, rows: Any, weight: Any, num_pairs: Any, sums: Any) -> Any:
        def generate(context: Any, builder: Builder, _: Any, arguments: Any) -> Value:
            _multiply_panel(builder, num_rows, *arguments)
            return context.get_dummy_value()

        return types.void(rows, weight, num_pairs, sums), generate

    function: Callable[..., None] = multiply_panel
    return function


def _multiply_panel(
    builder: Builder, num_rows: int, rows: Value, weight: Value, num_pairs: Value, sums: Value
) -> None:
    zero = ir.Constant(SUMS, None)
    held = [
        [cgutils.alloca_once_value(builder, zero) for _ in range(_NUM_VECTORS)]
        for _ in range(num_rows)
    ]  # The compiler keeps them in registers.
    row_bytes = builder.mul(num_pairs, num_pairs.type(4))
    with cgutils.for_range(builder, num_pairs) as loop:
        column = at(builder, weight, loop.index, PANEL * 4)
        weights = [
            load(builder, at(builder, column, index, VECTOR_BYTES), PAIRS)
            for index in range(_NUM_VECTORS)
        ]
        for row in range(num_rows):
            place = at(builder, at(builder, rows, row, row_bytes), loop.index, 4)
            pair = broadcast_pair(builder, place)
            for variable, each in zip(held[row], weights, strict=True):
                added = add_products(builder, builder.load(variable), each, pair)
                builder.store(added, variable)
    for row in range(num_rows):
        for index, variable in enumerate(held[row]):
            place = at(builder, sums, row * _NUM_VECTORS + index, VECTOR_BYTES)
            store(builder, builder.load(variable), place)
