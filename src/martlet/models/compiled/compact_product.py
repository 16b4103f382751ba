"""Products of rows with a bf16 weight that is stored in twelve bits, see `compact`.

One row takes three quarters of the time that the memory needs for the weight as it was. For many
rows, the first of them unpack some steps of a panel into the cache, for all others; the
instructions that unpack find room beside those that multiply. A sum is what `product` computes, to
the last bit: exceptions are put back before they are multiplied.

Shapes: M rows, K inputs, N outputs, P panels, E exceptions.
"""

from functools import cache
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from martlet.models.compiled.compact import PANEL_STEP_BYTES, STEP_BYTES, TABLE_BYTES
from martlet.models.compiled.compact_tile import multiply_first, multiply_others, num_first_rows
from martlet.models.compiled.elementwise import activate
from martlet.models.compiled.panel import PANEL, VECTORS
from martlet.models.compiled.threads import version
from martlet.models.compiled.vectors import (
    ADDRESS,
    PAIR_BYTES,
    VECTOR_BYTES,
    Builder,
    Value,
    compiled,
    fetch_add,
    numbers_at,
)
from martlet.models.compiled.writing import ROUNDED, WIDE

ROWS_AT_ONCE = 196
"""Rows for which a panel is unpacked once: four, and tiles of six."""
STEPS_AT_ONCE = 512
"""Steps that are unpacked before all rows are multiplied with them: as much as the second level of
the cache holds beside the rows and what is asked for meanwhile."""
_AHEAD_BYTES = 4096
"""How far ahead a single tile asks for what it reads."""
_SUMS_BYTES, _NUM_VECTORS = PANEL * 4, len(VECTORS)
"""Of a row, of the outputs of a panel."""
_SUMS_AT = STEPS_AT_ONCE * PANEL_STEP_BYTES
_GATES_AT = _SUMS_AT + ROWS_AT_ONCE * _SUMS_BYTES
_SCRATCH_BYTES = _GATES_AT + ROWS_AT_ONCE * _SUMS_BYTES
"""Of a block, behind it sums, and behind these the sums of a gate."""


@cache
def multiply_compact() -> Any:
    """The compiled product; its argument is the address of 18 whole numbers.

    These are: the address of a number in which threads count what they took; those of the rows
    `[M, K]` in bf16 and of the result `[M, N]`; M; P; the pairs of inputs; how many panels a thread
    takes at a time; a `Writing` of the result; and of a layer the addresses of the steps
    `[P, K / 2, 192]`, of the tables `[P, 32]` of 16 bits, of the exceptions `[E + 1]` of 64 bits,
    of the numbers of each panel's first one `[P]` of 64 bits, and of the bias `[N]` in fp32. Behind
    these are the same five of a second layer, or zeros. With it the result is
    `silu(first) * second` in bf16, and neither is ever in memory.
    """
    sources = version()

    @compiled
    def work(arguments: Any) -> None:
        _ = sources
        rows, out, num_rows, num_panels = arguments[1], arguments[2], arguments[3], arguments[4]
        num_steps, at_once, way = arguments[5], arguments[6], arguments[7]
        layer, other = _layer(arguments, 8), _layer(arguments, 13)
        is_gated = other[0] != 0
        value_bytes = 2 if way == ROUNDED else 4
        row_bytes, out_bytes = num_steps * PAIR_BYTES, num_panels * PANEL * value_bytes
        panel_bytes = num_steps * STEP_BYTES
        num_parts = (num_rows + ROWS_AT_ONCE - 1) // ROWS_AT_ONCE
        scratch, num_items = _scratch(), num_panels * num_parts
        first_item = fetch_add(arguments[0], at_once)
        while first_item < num_items:
            following = fetch_add(arguments[0], at_once)
            end = min(first_item + at_once, num_items)
            for item in range(first_item, end):
                panel, first = item // num_parts, item % num_parts * ROWS_AT_ONCE
                after = item + 1 if item + 1 < end else following
                ahead = layer[0] + min(after // num_parts, num_panels - 1) * panel_bytes
                count = min(ROWS_AT_ONCE, num_rows - first)
                some = rows + first * row_bytes, row_bytes
                own = panel, num_steps
                target = out + first * out_bytes + panel * PANEL * value_bytes
                if not is_gated:
                    result = target, out_bytes, way
                    _multiply_panel(count, some, layer, own, result, ahead, scratch)
                    continue
                gates, sums = scratch + _GATES_AT, scratch + _SUMS_AT
                between = other[0] + panel * panel_bytes
                result = gates, _SUMS_BYTES, WIDE
                _multiply_panel(count, some, layer, own, result, between, scratch)
                result = sums, _SUMS_BYTES, WIDE
                _multiply_panel(count, some, other, own, result, ahead, scratch)
                for row in range(count):
                    place = row * _SUMS_BYTES
                    activate(gates + place, sums + place, target + row * out_bytes, _NUM_VECTORS)
            first_item = following

    return work


@njit  # type: ignore[untyped-decorator]
def _layer(arguments: Any, first: int) -> Any:
    """Five addresses from the first on: steps, tables, exceptions, firsts, bias."""
    return (
        arguments[first],
        arguments[first + 1],
        arguments[first + 2],
        arguments[first + 3],
        arguments[first + 4],
    )


@njit  # type: ignore[untyped-decorator]
def _multiply_panel(
    num_rows: int, rows: Any, layer: Any, panel: Any, out: Any, ahead: int, scratch: int
) -> None:
    """All outputs of a panel, block by block.

    Args:
        rows: Their address, and how many bytes they are apart.
        layer: What `_layer` gives.
        panel: Its number, and how many steps it has.
        out: The address of the results, how many bytes they are apart, and a `Writing`.
        ahead: The address of the panel that is wanted next.
        scratch: That of room for a block, and for sums.
    """
    (steps, tables, exceptions, firsts, biases), (number, num_steps) = layer, panel
    address, table = steps + number * num_steps * STEP_BYTES, tables + number * TABLE_BYTES
    exception, bias = exceptions + 8 * numbers_at(firsts)[number], biases + number * PANEL * 4
    totals = scratch + _SUMS_AT
    num_blocks = (num_steps - 1) // STEPS_AT_ONCE + 1
    if num_rows == num_first_rows(num_rows):
        num_blocks = 1  # Nothing is kept.
    size = (num_steps - 1) // num_blocks + 1
    for first in range(0, num_steps, size):
        count = min(size, num_steps - first)
        is_last = first + count == num_steps
        block = address + first * STEP_BYTES
        starts = (bias, 0) if first == 0 else (totals, _SUMS_BYTES)
        target = out if is_last else (totals, _SUMS_BYTES, WIDE)
        exception = _multiply_block(
            num_rows,
            (rows[0] + first * PAIR_BYTES, rows[1]),
            (block, count, ahead if is_last else block + count * STEP_BYTES),
            (*starts, *target),
            (table, number * num_steps + first, exception),
            scratch,
        )


@njit  # type: ignore[untyped-decorator]
def _multiply_block(
    num_rows: int, rows: Any, block: Any, sums: Any, compact: Any, scratch: int
) -> Any:
    """Rows times a block of steps, which the first of them unpack; the exception that comes next.

    Two thirds of what is ahead are asked for by the first tile, the rest by each of the others.
    """
    steps, num_steps, ahead = block
    some = num_first_rows(num_rows)
    if some == num_rows:
        own = (steps, num_steps, steps + _AHEAD_BYTES, STEP_BYTES)
        return multiply_first(some, rows, own, sums, (*compact, scratch, 0))
    own = (steps, num_steps, ahead, 2 * VECTOR_BYTES)
    exception = multiply_first(some, rows, own, sums, (*compact, scratch, PANEL_STEP_BYTES))
    starts, start_bytes, out, out_bytes, way = sums
    multiply_others(
        num_rows - some,
        (rows[0] + some * rows[1], rows[1]),
        (scratch, num_steps, ahead + num_steps * 2 * VECTOR_BYTES, VECTOR_BYTES),
        (starts + some * start_bytes, start_bytes, out + some * out_bytes, out_bytes, way),
    )
    return exception


@intrinsic  # type: ignore[untyped-decorator]
def _scratch(_: Any) -> Any:
    """The address of room for a block and for sums twice, on the stack of the thread."""

    def generate(_: Any, builder: Builder, __: Any, ___: Any) -> Value:
        with builder.goto_entry_block():
            room = builder.alloca(ir.ArrayType(ir.IntType(8), _SCRATCH_BYTES))
        room.align = VECTOR_BYTES
        return builder.ptrtoint(room, ADDRESS)

    return types.int64(), generate
