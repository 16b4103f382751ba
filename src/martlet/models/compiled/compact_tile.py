"""Tiles of a few rows and some steps of a weight: their sums in registers, see `compact`.

A tile takes tuples of whole numbers:

    rows    the address of the first row, and how many bytes two of them are apart
    steps   the address of the first step, how many there are; and where memory is asked for a line
            or two with each of them, and how many bytes apart
    sums    where the sums of the first row begin that are added to, and how many bytes two rows are
            apart; where the first row goes, and the same of it; a `Writing`
"""

from collections.abc import Callable, Sequence
from typing import Any

from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from martlet.models.compiled.compact import (
    PANEL_STEP_BYTES,
    STEP_BYTES,
    exponents_at,
    restore,
    step_of,
    unpacked,
)
from martlet.models.compiled.panel import VECTORS, add_steps
from martlet.models.compiled.results import store_sums
from martlet.models.compiled.vectors import (
    PAIRS,
    SUMS,
    VECTOR_BYTES,
    Builder,
    Value,
    at,
    load,
    prefetch_line,
    store,
)


def _compact_tile(num_rows: int) -> Callable[..., Any]:
    """`(rows, steps, sums, compact)`: the steps are compact, and written down as they are unpacked.

    `compact` is the address of the panel's table; the number of the first step, counted through all
    panels; the address of the first exception that lies behind it; where the steps go, and how many
    bytes apart: 0 where nobody reads them. What it returns is the address of the first exception
    behind the last step. Memory is asked for two lines a step.
    """

    @intrinsic  # type: ignore[untyped-decorator]
    def tile(_: Any, rows: Any, steps: Any, sums: Any, compact: Any) -> Any:
        def generate(_: Any, builder: Builder, __: Any, arguments: Any) -> Value:
            *others, compact = _numbers(builder, arguments)
            table, number, first_exception, copy, copy_bytes = compact
            exponents = exponents_at(builder, table)
            exception = cgutils.alloca_once_value(builder, first_exception)
            exceptional = cgutils.alloca_once_value(builder, step_of(builder, first_exception))

            def columns(step: Value, index: Value) -> list[Value]:
                vectors = unpacked(builder, at(builder, step, index, STEP_BYTES), exponents)
                target, own = at(builder, copy, index, copy_bytes), builder.add(number, index)
                places = [at(builder, target, each, VECTOR_BYTES) for each in VECTORS]
                for place, vector in zip(places, vectors, strict=True):
                    store(builder, vector, place)
                variables = [cgutils.alloca_once_value(builder, vector) for vector in vectors]
                has_any = builder.icmp_signed("==", builder.load(exceptional), own)
                with builder.if_then(has_any, likely=False):
                    restore(builder, target, own, exception)
                    builder.store(step_of(builder, builder.load(exception)), exceptional)
                    for place, variable in zip(places, variables, strict=True):
                        builder.store(load(builder, place, PAIRS), variable)
                return [builder.load(variable) for variable in variables]

            _write_tile(builder, num_rows, others, columns, num_lines=2)
            return builder.load(exception)

        return types.int64(rows, steps, sums, compact), generate

    function: Callable[..., Any] = tile
    return function


def _panel_tile(num_rows: int) -> Callable[..., Any]:
    """`(rows, steps, sums)`: the steps are those of a panel. Memory is asked for a line a step."""

    @intrinsic  # type: ignore[untyped-decorator]
    def tile(_: Any, rows: Any, steps: Any, sums: Any) -> Any:
        def generate(context: Any, builder: Builder, _: Any, arguments: Any) -> Value:
            def columns(step: Value, index: Value) -> list[Value]:
                own = at(builder, step, index, PANEL_STEP_BYTES)
                places = [at(builder, own, each, VECTOR_BYTES) for each in VECTORS]
                return [load(builder, place, PAIRS) for place in places]

            _write_tile(builder, num_rows, _numbers(builder, arguments), columns, num_lines=1)
            return context.get_dummy_value()

        return types.void(rows, steps, sums), generate

    function: Callable[..., Any] = tile
    return function


def _numbers(builder: Builder, tuples: Sequence[Value]) -> list[list[Value]]:
    return [cgutils.unpack_tuple(builder, each) for each in tuples]


def _write_tile(
    builder: Builder,
    num_rows: int,
    arguments: Sequence[Sequence[Value]],
    columns: Callable[[Value, Value], Sequence[Value]],
    *,
    num_lines: int,
) -> None:
    """Adds the products of some rows with steps to sums.

    Args:
        arguments: Rows, steps and sums.
        columns: Writes what loads the vectors of a step, by the address of the first and its index.
        num_lines: That memory is asked for with each.
    """
    (rows, row_bytes), (steps, num_steps, ahead, ahead_bytes), sums = arguments
    starts, start_bytes, out, out_bytes, way = sums

    def columns_while_asking(index: Value) -> Sequence[Value]:
        line = at(builder, ahead, index, ahead_bytes)
        for each in range(num_lines):
            prefetch_line(builder, at(builder, line, each, VECTOR_BYTES))
        return columns(steps, index)

    places = [at(builder, rows, row, row_bytes) for row in range(num_rows)]
    first = [_load_sums(builder, at(builder, starts, row, start_bytes)) for row in range(num_rows)]
    totals = add_steps(builder, first, places, columns_while_asking, num_steps)
    targets = [at(builder, out, row, out_bytes) for row in range(num_rows)]
    store_sums(builder, totals, targets, way)


def _load_sums(builder: Builder, address: Value) -> list[Value]:
    return [load(builder, at(builder, address, each, VECTOR_BYTES), SUMS) for each in VECTORS]


_compact_by_four, _compact_by_two, _compact_by_one = map(_compact_tile, (4, 2, 1))
# The sums of six rows, and what is multiplied, are what the registers hold.
_by_six, _by_four, _by_two, _by_one = map(_panel_tile, (6, 4, 2, 1))


@njit  # type: ignore[untyped-decorator]
def num_first_rows(num_rows: int) -> int:
    """How many of some rows unpack the steps for all of them."""
    return 4 if num_rows >= 4 else 2 if num_rows >= 2 else 1


@njit  # type: ignore[untyped-decorator]
def multiply_first(num_rows: int, rows: Any, steps: Any, sums: Any, compact: Any) -> Any:
    """A tile of compact steps; the exception that comes next."""
    if num_rows == 4:
        return _compact_by_four(rows, steps, sums, compact)
    if num_rows == 2:
        return _compact_by_two(rows, steps, sums, compact)
    return _compact_by_one(rows, steps, sums, compact)


@njit  # type: ignore[untyped-decorator]
def multiply_others(num_rows: int, rows: Any, steps: Any, sums: Any) -> None:
    """Tiles of unpacked steps, until all rows are through."""
    (row, row_bytes), (start, start_bytes, out, out_bytes, way) = rows, sums
    while num_rows:
        some, own = (row, row_bytes), (start, start_bytes, out, out_bytes, way)
        if num_rows >= 6:
            count = 6
            _by_six(some, steps, own)
        elif num_rows >= 4:
            count = 4
            _by_four(some, steps, own)
        elif num_rows >= 2:
            count = 2
            _by_two(some, steps, own)
        else:
            count = 1
            _by_one(some, steps, own)
        row, num_rows = row + count * row_bytes, num_rows - count
        start, out = start + count * start_bytes, out + count * out_bytes
