"""The rows of a tile: what their sums begin with, and what becomes of these."""

from llvmlite import ir

from martlet.models.machine_code.emit import (
    FLOAT,
    FLOATS,
    INT,
    INTS,
    VECTOR_BYTES,
    WORD,
    Builder,
    Value,
    at,
    each,
    load,
    load_each,
)
from martlet.models.machine_code.kind import PANEL
from martlet.models.machine_code.worker import known_function

STEP = 4
"""Inputs that an instruction multiplies for each output."""
_NUMBER_BYTES = 4


class TileRows:
    """Writes what a tile does with its rows.

    Args:
        tokens: The addresses of the rows' values, scales and offsets.
        totals: Of the sums over groups, `[rows, panel]` in fp32.
        size: The inputs of a group.
        is_first: Whether no group was before, and totals begin.
    """

    def __init__(
        self,
        module: ir.Module,
        b: Builder,
        num_rows: int,
        tokens: tuple[Value, Value, Value],
        totals: Value,
        size: Value,
        is_first: Value,
    ) -> None:
        values, self._scales, self._offsets = tokens
        self._b, self._totals, self._is_first = b, totals, is_first
        self.numbers = range(num_rows)
        self._values = [at(b, values, b.mul(size, WORD(row))) for row in self.numbers]
        self._dot = known_function(module, "llvm.x86.avx512.vpdpbusd.512", INTS, [INTS] * 3)
        self._fma = known_function(module, "llvm.fma.v16f32", FLOATS, [FLOATS] * 3)

    def first_sum(self, row: int) -> Value:
        """What makes up for the 128 that the weights have too much."""
        return load_each(self._b, INT, self._offsets, WORD(_NUMBER_BYTES * row))

    def inputs(self, row: int, step: Value) -> Value:
        """The four inputs of a step, once for each output."""
        b = self._b
        return load_each(b, INT, self._values[row], b.mul(step, WORD(STEP)))

    def multiply(self, products: Value, weights: Value, inputs: Value) -> Value:
        """Sums with the products of a step added."""
        return self._b.call(self._dot, [products, weights, inputs])

    def add(self, row: int, column: Value, products: Value, weight_scales: Value | None) -> None:
        """Adds the sums of a group to the totals, times the scale of the token and the weights'."""
        b = self._b
        place = b.add(b.mul(column, WORD(VECTOR_BYTES)), WORD(row * PANEL * _NUMBER_BYTES))
        before = load(b, FLOATS, self._totals, place, align=VECTOR_BYTES)
        total = b.select(self._is_first, b.bitcast(each(INTS, 0), FLOATS), before)
        factor, number = self._scale(row), b.sitofp(products, FLOATS)
        if weight_scales is not None:
            factor, number = weight_scales, b.fmul(number, factor)
        total = b.call(self._fma, [number, factor, total])
        b.store(total, at(b, self._totals, place), align=VECTOR_BYTES)

    def _scale(self, row: int) -> Value:
        return load_each(self._b, FLOAT, self._scales, WORD(_NUMBER_BYTES * row))
