"""Tokens rounded to eight bits, as a compiled function.

The parameters of `token_rounding`, by the shapes of `linear/tokens`:

    x        [T, K], bf16 or fp32
    values   [G, T, K / G], int8, written
    scales   [G, T], fp32, written
    offsets  [G, T], int32, written; of tokens with zeros [3, T], see `linear/tokens`
    T, K, the size of a group
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from llvmlite import ir

from martlet.models.machine_code.emit import (
    BYTE,
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
    advance,
    allocate,
    at,
    broadcast,
    each,
    from_bf16,
    larger,
    load,
    repeat,
    smaller,
)
from martlet.models.machine_code.kind import TOKENS_AT_ONCE, TURN, WEIGHT_ZERO, TokenKind
from martlet.models.machine_code.worker import MachineCode, Worker, known_function, write_worker

_LARGEST = 127.0
_SMALLEST_VALUE, _LARGEST_VALUE, _NUM_STEPS = -128, 127, 255.0
_SMALLEST = float(torch.finfo(torch.float32).tiny * 1e3)
"""A token of zeros has no scale of its own."""


class _Range(NamedTuple):
    """What the values of a group become whole numbers by."""

    scale: Value
    zero: Value
    """The number that stands for zero."""


def token_rounding(kind: TokenKind) -> Worker:
    """The function for tokens of a kind."""
    module = ir.Module("token_rounding")
    rounding = Rounding(module, kind)

    def prepare(b: Builder, *parameters: Value) -> list[Value]:
        *tensors, num_rows, width, group_size = parameters
        return [*tensors, rounding.prepare(b, width), num_rows, width, group_size]

    def item(b: Builder, number: Value, *parameters: Value) -> None:
        *tensors, num_rows, width, group_size = parameters
        first = b.mul(number, WORD(TOKENS_AT_ONCE))
        end = smaller(b, b.add(first, WORD(TOKENS_AT_ONCE)), num_rows)
        sizes = (num_rows, width, group_size)
        rounding.rows(b, first, end, *tensors, sizes=sizes)

    write_worker(module, module.name, [POINTER] * 4 + [WORD] * 3, item, prepare)
    code = MachineCode()
    code.add(module)
    return code.worker(module.name)


class Rounding:
    """Writes the code for tokens of a kind, from rows to groups to vectors."""

    def __init__(self, module: ir.Module, kind: TokenKind) -> None:
        self._dtype, self._is_turned, self._has_zeros = kind.dtype, kind.is_turned, kind.has_zeros
        kinds = [FLOATS] * 3
        self._multiply_add = known_function(module, "llvm.fma.v16f32", FLOATS, kinds)
        self._largest_of = known_function(module, "llvm.vector.reduce.umax.v16i32", INT, [INTS])
        self._sum_of = known_function(module, "llvm.vector.reduce.add.v16i32", INT, [INTS])
        self._nearest = known_function(module, "llvm.rint.v16f32", FLOATS, [FLOATS])
        self._nearest_of_one = known_function(module, "llvm.rint.f32", FLOAT, [FLOAT])
        reduce = "llvm.vector.reduce"
        self._reductions = [
            (known_function(module, f"{reduce}.fmin.v16f32", FLOAT, [FLOATS]), []),
            (known_function(module, f"{reduce}.fmax.v16f32", FLOAT, [FLOATS]), []),
            (known_function(module, f"{reduce}.fadd.v16f32", FLOAT, [FLOAT, FLOATS]), [FLOAT(0.0)]),
        ]
        """With what they take before a vector."""

    def rows(
        self,
        b: Builder,
        first: Value,
        end: Value,
        x: Value,
        values: Value,
        scales: Value,
        offsets: Value,
        turned: Value,
        *,
        sizes: tuple[Value, Value, Value],
    ) -> None:
        """Rounds the rows from the first on; the sizes are T, K and that of a group.

        `turned` is what `prepare` gave.
        """
        num_rows, width, group_size = sizes
        num_groups = b.udiv(width, group_size)

        def row(number: Value) -> None:
            first = b.mul(number, width)
            if self._is_turned:
                self._turn(b, x, first, width, turned)

            def group(place: Value, _: list[Value]) -> list[Value]:
                start = b.mul(place, group_size)
                here = b.add(b.mul(place, num_rows), number)
                to = at(b, values, b.mul(here, group_size))
                own = (turned, start) if self._is_turned else (x, b.add(first, start))
                (scale, zero), total = self._group(b, *own, to, group_size)
                b.store(scale, at(b, scales, b.mul(here, WORD(4))), align=4)
                offset = b.mul(total, INT(-WEIGHT_ZERO))
                b.store(offset, at(b, offsets, b.mul(here, WORD(4))), align=4)
                if self._has_zeros:
                    for correction in (total, zero):
                        here = b.add(here, num_rows)
                        scaled = b.fmul(b.sitofp(correction, FLOAT), scale)
                        b.store(scaled, at(b, offsets, b.mul(here, WORD(4))), align=4)
                return []

            repeat(b, num_groups, [], group)

        advance(b, first, end, 1, row)

    def prepare(self, b: Builder, width: Value) -> Value:
        """Memory for a row that is turned, where any is."""
        return allocate(b, b.mul(width, WORD(4))) if self._is_turned else POINTER(None)

    def _turn(self, b: Builder, x: Value, start: Value, width: Value, turned: Value) -> None:
        """Mixes the inputs of a row, block by block, in fp32."""
        vectors, lanes = range(TURN // LANES), range(LANES)

        def block(number: Value, _: list[Value]) -> list[Value]:
            first = b.mul(number, WORD(len(vectors)))
            values = [self._load(b, x, start, b.add(first, WORD(index))) for index in vectors]
            for size in (1, 2, 4):
                values = [
                    b.fsub(values[index ^ size], values[index])
                    if index & size
                    else b.fadd(values[index], values[index ^ size])
                    for index in vectors
                ]
            for size in (1, 2, 4, 8):
                others = ir.Constant(INTS, [lane ^ size for lane in lanes])
                signs = ir.Constant(FLOATS, [-1.0 if lane & size else 1.0 for lane in lanes])
                values = [
                    b.call(self._multiply_add, [v, signs, b.shuffle_vector(v, v, others)])
                    for v in values
                ]
            part = ir.Constant(FLOATS, [1 / TURN] * LANES)
            for index, value in enumerate(values):
                place = b.mul(b.add(first, WORD(index)), WORD(VECTOR_BYTES))
                b.store(b.fmul(value, part), at(b, turned, place), align=4)
            return []

        repeat(b, b.udiv(width, WORD(TURN)), [], block)

    def _group(
        self, b: Builder, x: Value, start: Value, values: Value, size: Value
    ) -> tuple[_Range, Value]:
        """Rounds a group; its range and the sum of its values."""
        num_vectors = b.udiv(size, WORD(LANES))
        read = _load_floats if self._is_turned else self._load
        find = self._range_with_zero if self._has_zeros else self._range
        scale, zero = range_ = find(b, lambda place: read(b, x, start, place), num_vectors)
        inverse = broadcast(b, b.fdiv(FLOAT(1.0), scale))
        zeros = broadcast(b, zero)

        def round_(place: Value, total: list[Value]) -> list[Value]:
            scaled = b.fmul(read(b, x, start, place), inverse)
            rounded = b.fptosi(b.call(self._nearest, [scaled]), INTS)
            if self._has_zeros:
                moved = b.add(rounded, zeros)
                largest = each(INTS, _LARGEST_VALUE)
                rounded = b.select(b.icmp_signed("<", moved, largest), moved, largest)
            to = at(b, values, b.mul(place, WORD(LANES)))
            b.store(b.trunc(rounded, ir.VectorType(BYTE, LANES)), to, align=1)
            return [b.add(total[0], rounded)]

        (totals,) = repeat(b, num_vectors, [each(INTS, 0)], round_)
        return range_, b.call(self._sum_of, [totals])

    def _range(self, b: Builder, vector: Callable[[Value], Value], num_vectors: Value) -> _Range:
        """From as far below zero as the largest value is from it, to as far above."""

        def compare(place: Value, largest: list[Value]) -> list[Value]:
            # Without their signs, the bits of fp32 are in order, and those of NaN the largest.
            bits = b.bitcast(vector(place), INTS)
            return [larger(b, b.and_(bits, each(INTS, 0x7FFFFFFF)), largest[0])]

        (largest,) = repeat(b, num_vectors, [each(INTS, 0)], compare)
        bits = b.call(self._largest_of, [largest])
        least = b.bitcast(FLOAT(_SMALLEST), INT)
        scale = b.fdiv(b.bitcast(larger(b, bits, least), FLOAT), FLOAT(_LARGEST))
        return _Range(scale, INT(0))

    def _range_with_zero(
        self, b: Builder, vector: Callable[[Value], Value], num_vectors: Value
    ) -> _Range:
        """From the smallest value to the largest, and to zero if that lies beyond them."""
        nothing = b.bitcast(each(INTS, 0), FLOATS)

        def compare(place: Value, carried: list[Value]) -> list[Value]:
            value, (lowest, highest, not_finite) = vector(place), carried
            return [
                b.select(b.fcmp_ordered("<", value, lowest), value, lowest),
                b.select(b.fcmp_ordered(">", value, highest), value, highest),
                # Comparisons pass over NaN.
                b.call(self._multiply_add, [value, nothing, not_finite]),
            ]

        vectors = repeat(b, num_vectors, [nothing] * 3, compare)
        lowest, highest, not_finite = (
            b.call(reduce, [*first, each_])
            for (reduce, first), each_ in zip(self._reductions, vectors, strict=True)
        )
        width = b.fadd(b.fsub(highest, lowest), not_finite)
        is_wide = b.fcmp_unordered(">", width, FLOAT(_SMALLEST))  # or NaN, which stays
        scale = b.fdiv(b.select(is_wide, width, FLOAT(_SMALLEST)), FLOAT(_NUM_STEPS))
        steps = b.call(self._nearest_of_one, [b.fmul(lowest, b.fdiv(FLOAT(1.0), scale))])
        return _Range(scale, b.sub(INT(_SMALLEST_VALUE), b.fptosi(steps, INT)))

    def _load(self, b: Builder, x: Value, start: Value, place: Value) -> Value:
        index = b.add(start, b.mul(place, WORD(LANES)))
        offset = b.mul(index, WORD(self._dtype.itemsize))
        if self._dtype == torch.bfloat16:
            return from_bf16(b, load(b, HALVES, x, offset, align=2))
        return _load_floats(b, x, start, place)


def _load_floats(b: Builder, x: Value, start: Value, place: Value) -> Value:
    index = b.add(start, b.mul(place, WORD(LANES)))
    return load(b, FLOATS, x, b.mul(index, WORD(4)), align=4)
