"""Products of rows with a packed bf16 weight, at the speed that memory and the CPU have.

oneDNN reads a weight for one row at half the speed that memory gives, and multiplies many rows at
nine tenths of what the CPU can. This reads the same packed weight, panel by panel: 64 outputs, of
which the pairs of the first two inputs lie side by side, then those of the next two. Each row is
summed in the same order, however many there are.

Shapes: M rows, K inputs, N outputs.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from martlet.models.compiled.panel import PANEL, VECTORS, add_panel
from martlet.models.compiled.results import store_sums
from martlet.models.compiled.threads import version
from martlet.models.compiled.vectors import (
    ADDRESS,
    PAIR_BYTES,
    SUMS,
    VECTOR_BYTES,
    Builder,
    Value,
    at,
    compiled,
    fetch_add,
    load,
)
from martlet.models.compiled.writing import ROUNDED

ROWS_AT_ONCE = 96
"""Rows for which a panel is read from memory once, and then from the cache."""
_FEW_ROWS = 8
"""Memory has enough to do with one panel: nothing else is asked for."""
_LARGEST_AHEAD = 2**18
"""Bytes of a panel that fits into the second level of the cache beside another."""


def _multiply_panel_by(num_rows: int) -> Callable[..., None]:
    """`(rows, weight, num_pairs, bias, out, ahead)`: a panel's outputs of some rows.

    `out` has the address of the first, how many bytes two rows are apart, and a `Writing`.

    Meanwhile memory is asked for the quarter of a panel that lies `ahead`.
    """

    @intrinsic  # type: ignore[untyped-decorator]
    def multiply_panel(
        _: Any,
        rows: Any,
        weight: Any,
        num_pairs: Any,
        bias: Any,
        out: Any,
        ahead: Any,
    ) -> Any:
        def generate(context: Any, builder: Builder, _: Any, arguments: Any) -> Value:
            rows, weight, num_pairs, bias, out, ahead = arguments
            out = cgutils.unpack_tuple(builder, out)
            _multiply_panel(builder, num_rows, rows, weight, num_pairs, bias, out, ahead)
            return context.get_dummy_value()

        kinds = (rows, weight, num_pairs, bias, out, ahead)
        return types.void(*kinds), generate

    function: Callable[..., None] = multiply_panel
    return function


def _multiply_panel(
    builder: Builder,
    num_rows: int,
    rows: Value,
    weight: Value,
    num_pairs: Value,
    bias: Value,
    out: Sequence[Value],
    ahead: Value,
) -> None:
    row_bytes = builder.mul(num_pairs, ADDRESS(PAIR_BYTES))
    starts = [load(builder, at(builder, bias, index, VECTOR_BYTES), SUMS) for index in VECTORS]
    places = [at(builder, rows, row, row_bytes) for row in range(num_rows)]
    sums = add_panel(builder, [starts] * num_rows, places, weight, num_pairs, ahead=ahead)
    first, out_bytes, way = out
    targets = [at(builder, first, row, out_bytes) for row in range(num_rows)]
    store_sums(builder, sums, targets, way)


# The sums of six rows, and what is multiplied, are what the registers hold.
_by_six, _by_four, _by_two, _by_one = (_multiply_panel_by(num_rows) for num_rows in (6, 4, 2, 1))


@njit  # type: ignore[untyped-decorator]
def _multiply_rows(
    rows: int,
    num_rows: int,
    weight: int,
    num_pairs: int,
    bias: int,
    out: Any,
    ahead: int,
) -> None:
    """All outputs of a panel, while memory brings the one ahead."""
    row, row_bytes, quarter = 0, num_pairs * PAIR_BYTES, num_pairs * VECTOR_BYTES
    address, out_bytes, way = out
    while row < num_rows:
        some, target = rows + row * row_bytes, (address + row * out_bytes, out_bytes, way)
        part = ahead + min(row // 6, 3) * quarter
        if num_rows - row >= 6:
            _by_six(some, weight, num_pairs, bias, target, part)
            row += 6
        elif num_rows - row >= 4:
            _by_four(some, weight, num_pairs, bias, target, part)
            row += 4
        elif num_rows - row >= 2:
            _by_two(some, weight, num_pairs, bias, target, part)
            row += 2
        else:
            _by_one(some, weight, num_pairs, bias, target, part)
            row += 1


@cache
def multiply_rows() -> Any:
    """The compiled product; its argument is the address of nine whole numbers.

    These are: the address of a number in which threads count what they took; those of the rows
    `[M, K]` in bf16, of the packed weight, of the bias `[N]` in fp32, and of the result `[M, N]`;
    M; the number of panels; that of pairs of inputs; and a `Writing` of the result.
    """
    sources = version()

    @compiled
    def work(arguments: Any) -> None:
        _ = sources
        rows, weight, bias, out = arguments[1], arguments[2], arguments[3], arguments[4]
        num_rows, num_panels, num_pairs = arguments[5], arguments[6], arguments[7]
        way = arguments[8]
        value_bytes = 2 if way == ROUNDED else 4
        row_bytes, out_bytes = num_pairs * PAIR_BYTES, num_panels * PANEL * value_bytes
        panel_bytes = num_pairs * PANEL * PAIR_BYTES
        num_parts = (num_rows + ROWS_AT_ONCE - 1) // ROWS_AT_ONCE
        asks_ahead = num_rows > _FEW_ROWS and panel_bytes <= _LARGEST_AHEAD
        item = fetch_add(arguments[0], 1)
        while item < num_panels * num_parts:
            following = fetch_add(arguments[0], 1)
            panel, first = item // num_parts, item % num_parts * ROWS_AT_ONCE
            ahead = min(following // num_parts, num_panels - 1) if asks_ahead else panel
            _multiply_rows(
                rows + first * row_bytes,
                min(ROWS_AT_ONCE, num_rows - first),
                weight + panel * panel_bytes,
                num_pairs,
                bias + panel * PANEL * 4,
                (out + first * out_bytes + panel * PANEL * value_bytes, out_bytes, way),
                weight + ahead * panel_bytes,
            )
            item = following

    return work
