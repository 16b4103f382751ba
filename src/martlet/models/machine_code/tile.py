"""A tile of a product: a panel's outputs of a few rows, whose sums stay in registers."""

from llvmlite import ir

from martlet.models.machine_code.emit import (
    FLOAT,
    FLOATS,
    HALVES,
    INT,
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
    load_each,
    repeat,
)
from martlet.models.machine_code.kind import PANEL, ProductKind
from martlet.models.machine_code.worker import known_function, new_function

COLUMNS = range(PANEL // LANES)
"""The vectors of a row of sums."""
STEP = 4
"""Inputs that an instruction multiplies for each output."""
STEP_BYTES = PANEL * STEP
_PARAMETERS = [POINTER] * 6 + [WORD]


def write_tile(module: ir.Module, kind: ProductKind, num_rows: int) -> ir.Function:
    """A function that adds the products of a group of inputs to what the rows have.

    Its parameters, each beginning at the tile: the tokens' values, scales and offsets; the panel's
    weights plus 128, and their scales; the totals, `[rows, panel]` in fp32, which are changed; and
    the inputs of the group.
    """
    function, b = new_function(module, f"tile_of_{num_rows}", _PARAMETERS)
    _Tile(module, b, kind, num_rows, *function.args).write()
    b.ret_void()
    return function


class _Tile:
    """Writes the code of a tile. Its sums are a list of vectors, row by row."""

    def __init__(
        self,
        module: ir.Module,
        b: Builder,
        kind: ProductKind,
        num_rows: int,
        values: Value,
        scales: Value,
        offsets: Value,
        weight: Value,
        weight_scales: Value,
        totals: Value,
        size: Value,
    ) -> None:
        self._b, self._kind, self._rows = b, kind, range(num_rows)
        self._values = [at(b, values, b.mul(size, WORD(row))) for row in self._rows]
        self._scales, self._offsets = scales, offsets
        self._weight, self._weight_scales = weight, weight_scales
        self._totals, self._size = totals, size
        self._dot = known_function(module, "llvm.x86.avx512.vpdpbusd.512", INTS, [INTS] * 3)
        self._fma = known_function(module, "llvm.fma.v16f32", FLOATS, [FLOATS] * 3)

    def write(self) -> None:
        b = self._b
        # Sums begin with what makes up for the 128 that the weights have too much.
        offsets = [load_each(b, INT, self._offsets, WORD(4 * row)) for row in self._rows]
        first = [offset for offset in offsets for _ in COLUMNS]
        self._add_scaled(repeat(b, b.udiv(self._size, WORD(STEP)), first, self._multiply))

    def _multiply(self, number: Value, sums: list[Value]) -> list[Value]:
        """Adds the products of four inputs to the sums."""
        b = self._b
        panel = at(b, self._weight, b.mul(number, WORD(STEP_BYTES)))
        columns = [
            load(b, INTS, panel, WORD(VECTOR_BYTES * column), align=VECTOR_BYTES)
            for column in COLUMNS
        ]
        results: list[Value] = []
        for values in self._values:
            inputs = load_each(b, INT, values, b.mul(number, WORD(STEP)))
            for weights in columns:
                results.append(b.call(self._dot, [sums[len(results)], weights, inputs]))
        return results

    def _add_scaled(self, sums: list[Value]) -> None:
        """Adds the sums to the totals, times the scales of tokens and weights."""
        b = self._b
        columns = [self._weight_scale(column) for column in COLUMNS]
        scales = [load_each(b, FLOAT, self._scales, WORD(4 * row)) for row in self._rows]
        for index, products in enumerate(sums):
            row, column = divmod(index, len(columns))
            place = WORD(VECTOR_BYTES * index)
            of_token = b.fmul(b.sitofp(products, FLOATS), scales[row])
            total = load(b, FLOATS, self._totals, place, align=VECTOR_BYTES)
            total = b.call(self._fma, [of_token, columns[column], total])
            b.store(total, at(b, self._totals, place), align=VECTOR_BYTES)

    def _weight_scale(self, column: int) -> Value:
        b, scales = self._b, self._weight_scales
        if self._kind.bits == 8:
            return load(b, FLOATS, scales, WORD(LANES * column * 4))
        return from_bf16(b, load(b, HALVES, scales, WORD(LANES * column * 2)))
