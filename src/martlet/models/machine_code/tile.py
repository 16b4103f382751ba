"""A tile of a product: a panel's outputs of a few rows, whose sums stay in registers."""

from collections.abc import Iterator

import torch
from llvmlite import ir

from martlet.models.machine_code.emit import (
    BYTE,
    BYTES,
    FLOAT,
    FLOATS,
    HALVES,
    INT,
    INTS,
    LANES,
    POINTER,
    VECTOR_BYTES,
    WORD,
    WORDS,
    Builder,
    Value,
    at,
    broadcast,
    each,
    from_bf16,
    load,
    load_each,
    repeat,
    to_bf16,
)
from martlet.models.machine_code.kind import ProductKind
from martlet.models.machine_code.worker import known_function, new_function

PARAMETERS = [POINTER] * 8 + [WORD] * 4
"""The types of the parameters of a product and of a tile."""
_STEP = 4
"""Inputs that an instruction multiplies for each output."""


def write_tile(module: ir.Module, kind: ProductKind, num_rows: int) -> ir.Function:
    """A function that computes a tile.

    It has the parameters of a product, beginning at the tile; in the place of the number of rows,
    the number of outputs that are still missing.
    """
    function, b = new_function(module, f"tile_of_{num_rows}", PARAMETERS)
    tile = _Tile(module, b, kind, num_rows, *function.args)
    tile.store(tile.sums_of_one_group() if kind.bits == 8 else tile.sums_of_groups())
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
        weight_zeros: Value,
        bias: Value,
        out: Value,
        missing: Value,
        width: Value,
        num_outputs: Value,
        num_groups: Value,
    ) -> None:
        self._module, self._b, self._kind = module, b, kind
        self._num_rows, self._num_columns = num_rows, kind.panel // LANES
        self._values = [at(b, values, b.mul(width, WORD(row))) for row in range(num_rows)]
        self._scales, self._offsets = scales, offsets
        self._weight, self._weight_scales = weight, weight_scales
        self._weight_zeros, self._bias = weight_zeros, bias
        self._out, self._missing = out, missing
        self._width, self._num_outputs, self._num_groups = width, num_outputs, num_groups
        self._dot = known_function(module, "llvm.x86.avx512.vpdpbusd.512", INTS, [INTS] * 3)
        self._fma = known_function(module, "llvm.fma.v16f32", FLOATS, [FLOATS] * 3)

    def sums_of_one_group(self) -> list[Value]:
        """Of eight bits: all inputs of an output have one scale."""
        b = self._b

        def step(number: Value, sums: list[Value]) -> list[Value]:
            panel = at(b, self._weight, b.mul(number, WORD(self._num_columns * VECTOR_BYTES)))
            columns = [
                load(b, INTS, panel, WORD(VECTOR_BYTES * column), align=VECTOR_BYTES)
                for column in range(self._num_columns)
            ]
            self._multiply(columns, b.mul(number, WORD(_STEP)), sums)
            return sums

        num_steps = b.udiv(self._width, WORD(_STEP))
        sums = repeat(b, num_steps, self._first_sums(WORD(0)), step)
        return self._scaled(WORD(0), sums, self._biases())

    def sums_of_groups(self) -> list[Value]:
        """Of four bits: each group's sums are scaled, and then added up."""
        b, size = self._b, self._kind.group_size
        assert size is not None

        def group(number: Value, totals: list[Value]) -> list[Value]:
            sums = self._first_sums(number)
            first = b.mul(number, WORD(size))
            for step in range(0, size, 2 * _STEP):
                index = b.add(first, WORD(step))
                low, high = self._halves(index)
                self._multiply(low, index, sums)
                self._multiply(high, b.add(index, WORD(_STEP)), sums)
            return self._scaled(number, sums, totals)

        return repeat(b, self._num_groups, self._biases(), group)

    def _halves(self, index: Value) -> tuple[list[Value], list[Value]]:
        """The lower and the upper halves of the bytes that hold the weights from an input on."""
        b = self._b
        panel = at(b, self._weight, b.mul(index, WORD(self._kind.panel // 2)))
        low, high = [], []
        for column in range(self._num_columns):
            both = load(b, BYTES, panel, WORD(VECTOR_BYTES * column), align=VECTOR_BYTES)
            low.append(b.bitcast(b.and_(both, each(BYTES, 15)), INTS))
            high.append(b.bitcast(b.lshr(both, each(BYTES, 4)), INTS))
        return low, high

    def _multiply(self, columns: list[Value], index: Value, sums: list[Value]) -> None:
        """Adds the products of weights with the tokens' values from an input on."""
        for row, values in enumerate(self._values):
            inputs = load_each(self._b, INT, values, index)
            for column, weights in enumerate(columns):
                place = row * self._num_columns + column
                sums[place] = self._b.call(self._dot, [sums[place], weights, inputs])

    def _first_sums(self, group: Value) -> list[Value]:
        """What sums begin with, so that weights may be unsigned."""
        b = self._b
        zeros = [self._zeros(group, column) for column in range(self._num_columns)]
        sums = []
        for row in range(self._num_rows):
            offset = load_each(b, INT, self._offsets, self._of_row(row, group))
            sums += [offset if zero is None else b.mul(offset, zero) for zero in zeros]
        return sums

    def _zeros(self, group: Value, column: int) -> Value | None:
        if not self._kind.has_zeros:
            return None
        place = self._of_column(column, group, 1)
        zeros = load(self._b, ir.VectorType(BYTE, LANES), self._weight_zeros, place)
        return self._b.zext(zeros, INTS)

    def _scaled(self, group: Value, sums: list[Value], added: list[Value]) -> list[Value]:
        """A group's sums, times the scales of tokens and weights, plus something."""
        b = self._b
        columns = [self._weight_scale(group, column) for column in range(self._num_columns)]
        results: list[Value] = []
        for row in range(self._num_rows):
            scale = load_each(b, FLOAT, self._scales, self._of_row(row, group))
            for column in columns:
                place = len(results)
                of_token = b.fmul(b.sitofp(sums[place], FLOATS), scale)
                results.append(b.call(self._fma, [of_token, column, added[place]]))
        return results

    def _weight_scale(self, group: Value, column: int) -> Value:
        if self._kind.bits == 8:
            return load(self._b, FLOATS, self._weight_scales, self._of_column(column, group, 4))
        place = self._of_column(column, group, 2)
        return from_bf16(self._b, load(self._b, HALVES, self._weight_scales, place))

    def _of_row(self, row: int, group: Value) -> Value:
        """Where what a row has for a group lies behind what the tile has."""
        b = self._b
        return b.mul(b.add(b.mul(self._num_groups, WORD(row)), group), WORD(4))

    def _of_column(self, column: int, group: Value, itemsize: int) -> Value:
        """The same of the outputs of a column."""
        b = self._b
        first = b.add(b.mul(group, WORD(self._kind.panel)), WORD(LANES * column))
        return b.mul(first, WORD(itemsize))

    def _biases(self) -> list[Value]:
        columns = range(self._num_columns)
        biases = [load(self._b, FLOATS, self._bias, WORD(VECTOR_BYTES * c)) for c in columns]
        return biases * self._num_rows

    def store(self, sums: list[Value]) -> None:
        """Writes those outputs that there are; the last panel may have fewer."""
        b, dtype = self._b, self._kind.dtype
        kind, suffix = (HALVES, "v16i16") if dtype == torch.bfloat16 else (FLOATS, "v16f32")
        parameters = [kind, POINTER, INT, ir.VectorType(ir.IntType(1), LANES)]
        store = known_function(
            self._module, f"llvm.masked.store.{suffix}.p0", ir.VoidType(), parameters
        )
        for (row, column), total in zip(self._places(), sums, strict=True):
            index = b.add(b.mul(self._num_outputs, WORD(row)), WORD(LANES * column))
            to = at(b, self._out, b.mul(index, WORD(dtype.itemsize)))
            out = to_bf16(b, total) if dtype == torch.bfloat16 else total
            b.call(store, [out, to, INT(1), self._is_there(column)])

    def _places(self) -> Iterator[tuple[int, int]]:
        return (
            (row, column) for row in range(self._num_rows) for column in range(self._num_columns)
        )

    def _is_there(self, column: int) -> Value:
        lanes = ir.Constant(WORDS, [LANES * column + lane for lane in range(LANES)])
        return self._b.icmp_unsigned("<", lanes, broadcast(self._b, self._missing))
