"""Products of rows with a bf16 weight that is stored in twelve bits, see `compact`.

One row takes three quarters of the time that the memory needs for the weight as it was. For many
rows, the first of them unpack some steps of a panel into the cache, for all others; the
instructions that unpack find room beside those that multiply. A sum is what `product` computes, to
the last bit: exceptions are put back before they are multiplied.

Shapes: M rows, K inputs, N outputs, P panels, E exceptions.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from martlet.models.compiled.compact import (
    PANEL_STEP_BYTES,
    STEP_BYTES,
    TABLE_BYTES,
    exponents_at,
    restore,
    step_of,
    unpacked,
)
from martlet.models.compiled.panel import PANEL, VECTORS, add_steps
from martlet.models.compiled.threads import version
from martlet.models.compiled.vectors import (
    ADDRESS,
    PAIR_BYTES,
    PAIRS,
    SUMS,
    VECTOR_BYTES,
    Builder,
    Value,
    at,
    compiled,
    fetch_add,
    load,
    numbers_at,
    prefetch_line,
    round_sums,
    store,
)

ROWS_AT_ONCE = 192
"""Rows for which a panel is unpacked once."""
STEPS_AT_ONCE = 512
"""Steps that are unpacked before all rows are multiplied with them: as much as the second level of
the cache holds beside the rows and what is asked for meanwhile."""
SUMS_BYTES = PANEL * 4
"""Of a row, of the outputs of a panel."""
_SCRATCH_BYTES = STEPS_AT_ONCE * PANEL_STEP_BYTES + ROWS_AT_ONCE * SUMS_BYTES


def _compact_tile(num_rows: int) -> Callable[..., int]:
    """`(rows, weight, sums, (table, number, exception, copy, copy_bytes))`: a tile of compact steps.

    They are written down as they were unpacked. What follows on the sums: the table of the panel's
    exponents; the number of the first step, counted through all panels; the address of the first
    exception that lies behind it; where the steps are written to, and how many bytes apart: 0 where
    nobody reads them. It returns the address of the first exception behind the last step.
    """

    @intrinsic  # type: ignore[untyped-decorator]
    def tile(_: Any, rows: Any, weight: Any, sums: Any, compact: Any) -> Any:
        def generate(_: Any, builder: Builder, __: Any, arguments: Any) -> Value:
            rows, weight, sums, compact = _numbers(builder, arguments)
            table, number, first_exception, copy, copy_bytes = compact
            exponents = exponents_at(builder, table)
            exception = cgutils.alloca_once_value(builder, first_exception)
            following = cgutils.alloca_once_value(builder, step_of(builder, first_exception))

            def columns(index: Value) -> list[Value]:
                target, step = at(builder, copy, index, copy_bytes), builder.add(number, index)
                vectors = unpacked(builder, at(builder, weight[0], index, STEP_BYTES), exponents)
                places = [at(builder, target, each, VECTOR_BYTES) for each in VECTORS]
                for place, vector in zip(places, vectors, strict=True):
                    store(builder, vector, place)
                variables = [cgutils.alloca_once_value(builder, vector) for vector in vectors]
                is_whole = builder.icmp_signed("!=", builder.load(following), step)
                with builder.if_then(builder.not_(is_whole), likely=False):
                    restore(builder, target, step, exception)
                    builder.store(step_of(builder, builder.load(exception)), following)
                    for place, variable in zip(places, variables, strict=True):
                        builder.store(load(builder, place, PAIRS), variable)
                return [builder.load(variable) for variable in variables]

            _write_tile(builder, num_rows, rows, weight, sums, columns, 2)
            return builder.load(exception)

        return types.int64(rows, weight, sums, compact), generate

    function: Callable[..., int] = tile
    return function


def _panel_tile(num_rows: int) -> Callable[..., None]:
    """`(rows, weight, sums)`: a tile whose steps are those of a panel."""

    @intrinsic  # type: ignore[untyped-decorator]
    def tile(_: Any, rows: Any, weight: Any, sums: Any) -> Any:
        def generate(context: Any, builder: Builder, _: Any, arguments: Any) -> Value:
            rows, weight, sums = _numbers(builder, arguments)

            def columns(index: Value) -> list[Value]:
                step = at(builder, weight[0], index, PANEL_STEP_BYTES)
                return [
                    load(builder, at(builder, step, place, VECTOR_BYTES), PAIRS)
                    for place in VECTORS
                ]

            _write_tile(builder, num_rows, rows, weight, sums, columns, 1)
            return context.get_dummy_value()

        return types.void(rows, weight, sums), generate

    function: Callable[..., None] = tile
    return function


def _numbers(builder: Builder, tuples: Sequence[Value]) -> list[list[Value]]:
    return [cgutils.unpack_tuple(builder, each) for each in tuples]


def _write_tile(
    builder: Builder,
    num_rows: int,
    rows: Sequence[Value],
    weight: Sequence[Value],
    sums: Sequence[Value],
    columns: Callable[[Value], Sequence[Value]],
    num_lines: int,
) -> None:
    """Adds the products of some rows with steps to sums.

    Args:
        rows: The first one's address, and how many bytes they are apart.
        weight: The address of the steps, their number, and where memory is asked for two lines
            with each of them.
        sums: The address of what they begin with, how many bytes it is apart for two rows; the
            address that they are written to, and the same of it; whether they are rounded.
        columns: Writes what loads the vectors of a step.
    """
    _, num_steps, ahead, ahead_bytes = weight
    starts, start_bytes, out, out_bytes, rounds = sums

    def columns_while_asking(index: Value) -> Sequence[Value]:
        line = at(builder, ahead, index, ahead_bytes)
        for each in range(num_lines):
            prefetch_line(builder, at(builder, line, each, VECTOR_BYTES))
        return columns(index)

    def vector_at(address: Value, row: int, row_bytes: Value, index: int, num_bytes: int) -> Value:
        return at(builder, at(builder, address, row, row_bytes), index, num_bytes)

    first = [
        [
            load(builder, vector_at(starts, row, start_bytes, each, VECTOR_BYTES), SUMS)
            for each in VECTORS
        ]
        for row in range(num_rows)
    ]
    places = [at(builder, rows[0], row, rows[1]) for row in range(num_rows)]
    totals = add_steps(builder, first, places, columns_while_asking, num_steps)
    with builder.if_else(builder.trunc(rounds, ir.IntType(1))) as (are_rounded, are_not):
        with are_rounded:
            for row, vectors in enumerate(totals):
                for index, total in enumerate(vectors):
                    place = vector_at(out, row, out_bytes, index, VECTOR_BYTES // 2)
                    store(builder, round_sums(builder, total), place)
        with are_not:
            for row, vectors in enumerate(totals):
                for index, total in enumerate(vectors):
                    store(builder, total, vector_at(out, row, out_bytes, index, VECTOR_BYTES))


_compact_by_four, _compact_by_two, _compact_by_one = map(_compact_tile, (4, 2, 1))
# The sums of six rows, and what is multiplied, are what the registers hold.
_by_six, _by_four, _by_two, _by_one = map(_panel_tile, (6, 4, 2, 1))


@njit  # type: ignore[untyped-decorator]
def _multiply_first(num_rows: int, rows: Any, weight: Any, sums: Any, compact: Any) -> int:
    if num_rows == 4:
        return _compact_by_four(rows, weight, sums, compact)
    elif num_rows == 2:
        return _compact_by_two(rows, weight, sums, compact)
    return _compact_by_one(rows, weight, sums, compact)


@njit  # type: ignore[untyped-decorator]
def _multiply_some(num_rows: int, rows: Any, weight: Any, sums: Any) -> int:
    """As many rows as go through at once; their number."""
    if num_rows >= 6:
        _by_six(rows, weight, sums)
        return 6
    elif num_rows >= 4:
        _by_four(rows, weight, sums)
        return 4
    elif num_rows >= 2:
        _by_two(rows, weight, sums)
        return 2
    _by_one(rows, weight, sums)
    return 1


@njit  # type: ignore[untyped-decorator]
def _multiply_block(
    num_rows: int, rows: Any, weight: Any, sums: Any, compact: Any, scratch: int
) -> int:
    """Rows times a block of steps, of which the first rows make a panel; the next exception."""
    address, row_bytes = rows
    steps, num_steps, ahead = weight
    starts, start_bytes, out, out_bytes, rounds = sums
    row = 4 if num_rows >= 4 else 2 if num_rows >= 2 else 1
    copy_bytes = PANEL_STEP_BYTES if row < num_rows else 0
    some = (ahead, 2 * VECTOR_BYTES) if row < num_rows else (steps + 512, STEP_BYTES)
    exception = _multiply_first(
        row, rows, (steps, num_steps, *some), sums, (*compact, scratch, copy_bytes)
    )
    ahead += num_steps * 2 * VECTOR_BYTES
    while row < num_rows:
        row += _multiply_some(
            num_rows - row,
            (address + row * row_bytes, row_bytes),
            (scratch, num_steps, ahead, VECTOR_BYTES),
            (starts + row * start_bytes, start_bytes, out + row * out_bytes, out_bytes, rounds),
        )
    return exception


@njit  # type: ignore[untyped-decorator]
def _multiply_panel(
    num_rows: int, rows: Any, panel: Any, bias: int, out: Any, ahead: int, scratch: int
) -> None:
    """Rows times a panel, block by block.

    Args:
        rows: Their address, and how many bytes they are apart.
        panel: Its address, the number of its first step, how many it has, its table, and the
            address of its first exception.
        out: The address of the results, and how many bytes they are apart.
        ahead: The address of what is wanted next.
        scratch: That of room for a block, and for sums.
    """
    address, number, num_steps, table, exception = panel
    totals = scratch + STEPS_AT_ONCE * PANEL_STEP_BYTES
    num_blocks = 1 if num_rows <= 2 or num_rows == 4 else (num_steps - 1) // STEPS_AT_ONCE + 1
    size = (num_steps - 1) // num_blocks + 1
    for first in range(0, num_steps, size):
        some = min(size, num_steps - first)
        is_last = first + some == num_steps
        block = address + first * STEP_BYTES
        following = ahead if is_last else block + some * STEP_BYTES
        starts = (bias, 0) if first == 0 else (totals, SUMS_BYTES)
        target = (*out, 1) if is_last else (totals, SUMS_BYTES, 0)
        exception = _multiply_block(
            num_rows,
            (rows[0] + first * PAIR_BYTES, rows[1]),
            (block, some, following),
            (*starts, *target),
            (table, number + first, exception),
            scratch,
        )


@intrinsic  # type: ignore[untyped-decorator]
def _scratch(_: Any) -> Any:
    """The address of room for a block and for sums, on the stack of the thread."""

    def generate(_: Any, builder: Builder, __: Any, ___: Any) -> Value:
        size = ir.ArrayType(ir.IntType(8), _SCRATCH_BYTES)
        with builder.goto_entry_block():
            room = builder.alloca(size)
        room.align = VECTOR_BYTES
        return builder.ptrtoint(room, ADDRESS)

    return types.int64(), generate


@cache
def multiply_compact() -> Any:
    """The compiled product; its argument is the address of eleven whole numbers.

    These are: the address of a number in which threads count what they took; those of the rows
    `[M, K]` in bf16, of the steps `[P, K / 2, 192]`, of the tables `[P, 32]` of 16 bits, of the
    exceptions `[E + 1]` of 64 bits, of the numbers of each panel's first one `[P]` of 64 bits, of
    the bias `[N]` in fp32, and of the result `[M, N]` in bf16; M; P; and the pairs of inputs.
    """
    sources = version()

    @compiled
    def work(arguments: Any) -> None:
        _ = sources
        rows, weight, tables, exceptions = arguments[1], arguments[2], arguments[3], arguments[4]
        firsts, bias, out = numbers_at(arguments[5]), arguments[6], arguments[7]
        num_rows, num_panels, num_steps = arguments[8], arguments[9], arguments[10]
        row_bytes, out_bytes = num_steps * PAIR_BYTES, num_panels * PANEL * 2
        panel_bytes = num_steps * STEP_BYTES
        num_parts = (num_rows + ROWS_AT_ONCE - 1) // ROWS_AT_ONCE
        scratch = _scratch()
        item = fetch_add(arguments[0], 1)
        while item < num_panels * num_parts:
            following = fetch_add(arguments[0], 1)
            panel, first = item // num_parts, item % num_parts * ROWS_AT_ONCE
            _multiply_panel(
                min(ROWS_AT_ONCE, num_rows - first),
                (rows + first * row_bytes, row_bytes),
                (
                    weight + panel * panel_bytes,
                    panel * num_steps,
                    num_steps,
                    tables + panel * TABLE_BYTES,
                    exceptions + 8 * firsts[panel],
                ),
                bias + panel * PANEL * 4,
                (out + first * out_bytes + panel * PANEL * 2, out_bytes),
                weight + min(following // num_parts, num_panels - 1) * panel_bytes,
                scratch,
            )
            item = following

    return work
