"""The first tile of a group of weights of four bits, which makes bytes of them for all tiles."""

from collections.abc import Sequence
from functools import reduce

from llvmlite import ir

from martlet.models.machine_code.emit import (
    BYTES,
    FLAG,
    INTS,
    LANES,
    POINTER,
    VECTOR_BYTES,
    WORD,
    Value,
    at,
    each,
    load,
    repeat,
)
from martlet.models.machine_code.kind import PANEL, ProductKind
from martlet.models.machine_code.tile import COLUMNS, STEP_BYTES, group_scales
from martlet.models.machine_code.tile_rows import TileRows
from martlet.models.machine_code.unpacking import Factors, Unpacking, halves
from martlet.models.machine_code.worker import ask_for, new_function

_PARAMETERS = [POINTER] * 8 + [WORD] + [POINTER] * 2 + [FLAG]
MOST_ROWS = 12
"""Of a first tile: more instructions that multiply leave more room for those that unpack."""
_FEWEST_TO_LOOK_UP = 6
"""Rows: with fewer, those that multiply leave their pipes to the ones that unpack."""
_PAIRS_AT_ONCE = 2
"""Of steps, written out one by one: as many as a part has at least."""


def write_first_tiles(module: ir.Module, kind: ProductKind, counts: Sequence[int]) -> ir.Function:
    """A function that calls the first tile of as many rows as there are, and returns their number.

    Args:
        counts: Of rows, for each a tile, down to one. The parameters are the number of rows that
            there are, and then those of the tile.
    """
    tiles = [(count, _write_first_tile(module, kind, count)) for count in counts]
    function = ir.Function(module, ir.FunctionType(WORD, [WORD, *_PARAMETERS]), "first_tile")
    b = ir.IRBuilder(function.append_basic_block("begin"))
    num_rows, *others = function.args
    for count, tile in tiles:
        with b.if_then(b.icmp_unsigned(">=", num_rows, WORD(count))):
            is_last = b.icmp_unsigned("==", num_rows, WORD(count))
            b.call(tile, [*others, b.select(is_last, WORD(0), WORD(2 * VECTOR_BYTES))])
            b.ret(WORD(count))
    b.ret(WORD(0))
    return function


def _write_first_tile(module: ir.Module, kind: ProductKind, num_rows: int) -> ir.Function:
    """A function that does what a tile does, and writes the weights' bytes for the next.

    The instructions that unpack find room between those that multiply. Its parameters are those of
    a tile, with the stored weights for their bytes, then the parts' codes, and where the bytes
    go; and how far apart those of two steps lie, 0 where no other tile will read them: memory that
    is not in the cache's first level would hold one row up. Memory is asked for a whole group
    ahead meanwhile.
    """
    assert kind.part_size is not None
    # With two sums of each of few rows, an instruction need not wait for the one before.
    sums_of_row = 2 if num_rows < MOST_ROWS else 1
    looks_up = kind.looks_up and num_rows >= _FEWEST_TO_LOOK_UP
    part_steps = kind.part_size * PANEL // 2 // STEP_BYTES
    function, b = new_function(module, f"first_tile_of_{num_rows}", [*_PARAMETERS, WORD])
    *tokens, stored, weight_scales, codes, out, totals = function.args[:8]
    size, ahead_weights, ahead_codes, is_first, pair_bytes = function.args[8:]
    rows = TileRows(module, b, num_rows, tuple(tokens), totals, size, is_first)
    column_bytes = b.mul(size, WORD(LANES))

    def column(number: Value, _: list[Value]) -> list[Value]:
        across = b.mul(number, WORD(VECTOR_BYTES))
        source, target = at(b, stored, across), at(b, out, b.mul(number, column_bytes))
        of_column = at(b, codes, b.mul(number, WORD(LANES)))

        def unit(index: Value, sums: list[Value]) -> list[Value]:
            unit_bytes = b.mul(index, WORD(PANEL))
            of_unit = at(b, of_column, unit_bytes)
            ask_for(module, b, at(b, ahead_codes, unit_bytes))
            unpacking = Unpacking(module, b, kind, of_unit, looks_up=looks_up)
            for place in range(kind.parts_of_code):
                part = b.add(b.mul(index, WORD(kind.parts_of_code)), WORD(place))
                sums = a_part(b.mul(part, WORD(part_steps)), unpacking.factors(place), sums)
            return sums

        def a_part(before: Value, factors: Factors, sums: list[Value]) -> list[Value]:
            def two_steps(inner: Value, sums: list[Value]) -> list[Value]:
                step = b.add(before, inner)
                offset = b.mul(step, WORD(STEP_BYTES))
                to = at(b, target, b.mul(step, pair_bytes))
                ask_for(module, b, at(b, ahead_weights, b.add(across, offset)))
                both = load(b, BYTES, source, offset, align=VECTOR_BYTES)
                results = list(sums)
                for half, values in enumerate(halves(b, both)):
                    weights = factors.applied(b, values)
                    b.store(weights, at(b, to, WORD(half * VECTOR_BYTES)), align=VECTOR_BYTES)
                    place = b.add(b.mul(step, WORD(2)), WORD(half))
                    for row in rows.numbers:
                        index = row + half % sums_of_row * num_rows
                        results[index] = rows.multiply(
                            results[index], b.bitcast(weights, INTS), rows.inputs(row, place)
                        )
                return results

            def some(number: Value, sums: list[Value]) -> list[Value]:
                for place in range(_PAIRS_AT_ONCE):
                    inner = b.add(b.mul(number, WORD(_PAIRS_AT_ONCE)), WORD(place))
                    sums = two_steps(inner, sums)
                return sums

            return repeat(b, WORD(part_steps // _PAIRS_AT_ONCE), sums, some)

        zeros = [each(INTS, 0)] * (num_rows * (sums_of_row - 1))
        first = [*map(rows.first_sum, rows.numbers), *zeros]
        sums = repeat(b, b.udiv(size, WORD(kind.inputs_of_code)), first, unit)
        scales = group_scales(b, kind, weight_scales, number)
        for row in rows.numbers:
            rows.add(row, number, reduce(b.add, sums[row::num_rows]), scales)
        return []

    repeat(b, WORD(len(COLUMNS)), [], column)
    b.ret_void()
    return function
