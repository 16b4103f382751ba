"""A tile of a product: a panel's outputs of a few rows, whose sums stay in registers."""

from llvmlite import ir

from martlet.models.machine_code.emit import (
    FLAG,
    HALVES,
    INTS,
    LANES,
    POINTER,
    VECTOR_BYTES,
    WORD,
    Builder,
    Value,
    at,
    from_bf16,
    load,
    repeat,
)
from martlet.models.machine_code.kind import PANEL, ProductKind
from martlet.models.machine_code.tile_rows import STEP, TileRows
from martlet.models.machine_code.worker import ask_for, new_function

COLUMNS = range(PANEL // LANES)
"""The vectors of a row of sums."""
STEP_BYTES = PANEL * STEP
_STEPS_AT_ONCE = 4
"""Written out one by one: of a loop with few rounds the CPU foresees the end."""
_PARAMETERS = [POINTER] * 6 + [WORD, POINTER, FLAG]


def write_tile(module: ir.Module, kind: ProductKind, num_rows: int) -> ir.Function:
    """A function that adds the products of a group of inputs to what the rows have.

    Its parameters, each beginning at the tile: the tokens' values, scales and offsets; the panel's
    weights plus 128, of four bits column by column, and their scales of this group; the totals,
    `[rows, panel]` in fp32, which are changed; the inputs of the group; where memory is asked for a
    quarter of a group meanwhile, of weights of eight bits; and whether no group was before.
    """
    function, b = new_function(module, f"tile_of_{num_rows}", _PARAMETERS)
    *tokens, weight, weight_scales, totals, size, ahead, is_first = function.args
    rows = TileRows(module, b, num_rows, tuple(tokens), totals, size, is_first)
    if kind.part_size is None:
        step_bytes, column_bytes = WORD(STEP_BYTES), WORD(VECTOR_BYTES)
    else:
        step_bytes, column_bytes = WORD(VECTOR_BYTES), b.mul(size, WORD(LANES))
    of_columns = [at(b, weight, b.mul(column_bytes, WORD(column))) for column in COLUMNS]

    def step(number: Value, sums: list[Value]) -> list[Value]:
        if kind.part_size is None:
            ask_for(module, b, at(b, ahead, b.mul(number, WORD(VECTOR_BYTES))))
        step = b.mul(number, step_bytes)
        columns = [load(b, INTS, column, step, align=VECTOR_BYTES) for column in of_columns]
        results: list[Value] = []
        for row in rows.numbers:
            inputs = rows.inputs(row, number)
            for weights in columns:
                results.append(rows.multiply(sums[len(results)], weights, inputs))
        return results

    first = [sum_ for sum_ in map(rows.first_sum, rows.numbers) for _ in COLUMNS]

    def steps(number: Value, sums: list[Value]) -> list[Value]:
        for place in range(_STEPS_AT_ONCE):
            sums = step(b.add(b.mul(number, WORD(_STEPS_AT_ONCE)), WORD(place)), sums)
        return sums

    sums = repeat(b, b.udiv(size, WORD(STEP * _STEPS_AT_ONCE)), first, steps)
    scales = [group_scales(b, kind, weight_scales, WORD(column)) for column in COLUMNS]
    for index, products in enumerate(sums):
        row, column = divmod(index, len(COLUMNS))
        rows.add(row, WORD(column), products, scales[column])
    b.ret_void()
    return function


def group_scales(b: Builder, kind: ProductKind, scales: Value, column: Value) -> Value | None:
    """Of the weights of a column, where they have a scale for each group."""
    if not kind.has_group_scales:
        return None
    return from_bf16(b, load(b, HALVES, scales, b.mul(column, WORD(LANES * 2))))
