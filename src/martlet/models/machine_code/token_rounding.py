"""Tokens rounded to eight bits, as a compiled function.

The parameters of `token_rounding`, by the shapes of `linear/tokens`:

    x        [T, K], bf16 or fp32
    values   [G, T, K / G], int8, written
    scales   [G, T], fp32, written
    offsets  [G, T], int32, written
    T, K, the size of a group
"""

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
from martlet.models.machine_code.kind import TOKENS_AT_ONCE, TURN, WEIGHT_ZERO
from martlet.models.machine_code.worker import MachineCode, Worker, known_function, write_worker

_LARGEST = 127.0
_SMALLEST = float(torch.finfo(torch.float32).tiny * 1e3)
"""A token of zeros has no scale of its own."""


def token_rounding(dtype: torch.dtype, *, is_turned: bool) -> Worker:
    """The function for tokens of a type, bf16 or fp32."""
    module = ir.Module("token_rounding")
    rounding = Rounding(module, dtype, is_turned=is_turned)

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
    """Writes the code, from rows to groups to vectors.

    Args:
        dtype: Of the tokens.
        is_turned: Whether to turn them first, see `linear/turned`.
    """

    def __init__(self, module: ir.Module, dtype: torch.dtype, *, is_turned: bool) -> None:
        self._dtype = dtype
        self._is_turned = is_turned
        kinds = [FLOATS] * 3
        self._multiply_add = known_function(module, "llvm.fma.v16f32", FLOATS, kinds)
        self._largest_of = known_function(module, "llvm.vector.reduce.umax.v16i32", INT, [INTS])
        self._sum_of = known_function(module, "llvm.vector.reduce.add.v16i32", INT, [INTS])
        self._nearest = known_function(module, "llvm.rint.v16f32", FLOATS, [FLOATS])

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
                scale, total = self._group(b, *own, to, group_size)
                b.store(scale, at(b, scales, b.mul(here, WORD(4))), align=4)
                offset = b.mul(total, INT(-WEIGHT_ZERO))
                b.store(offset, at(b, offsets, b.mul(here, WORD(4))), align=4)
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
    ) -> tuple[Value, Value]:
        """Rounds a group; its scale and the sum of its values."""
        num_vectors = b.udiv(size, WORD(LANES))
        read = _load_floats if self._is_turned else self._load

        def compare(place: Value, largest: list[Value]) -> list[Value]:
            # Without their signs, the bits of fp32 are in order, and those of NaN the largest.
            bits = b.bitcast(read(b, x, start, place), INTS)
            return [larger(b, b.and_(bits, each(INTS, 0x7FFFFFFF)), largest[0])]

        (largest,) = repeat(b, num_vectors, [each(INTS, 0)], compare)
        bits = b.call(self._largest_of, [largest])
        least = b.bitcast(FLOAT(_SMALLEST), INT)
        scale = b.fdiv(b.bitcast(larger(b, bits, least), FLOAT), FLOAT(_LARGEST))
        inverse = broadcast(b, b.fdiv(FLOAT(1.0), scale))

        def round_(place: Value, total: list[Value]) -> list[Value]:
            scaled = b.fmul(read(b, x, start, place), inverse)
            rounded = b.fptosi(b.call(self._nearest, [scaled]), INTS)
            to = at(b, values, b.mul(place, WORD(LANES)))
            b.store(b.trunc(rounded, ir.VectorType(BYTE, LANES)), to, align=1)
            return [b.add(total[0], rounded)]

        (totals,) = repeat(b, num_vectors, [each(INTS, 0)], round_)
        return scale, b.call(self._sum_of, [totals])

    def _load(self, b: Builder, x: Value, start: Value, place: Value) -> Value:
        index = b.add(start, b.mul(place, WORD(LANES)))
        offset = b.mul(index, WORD(self._dtype.itemsize))
        if self._dtype == torch.bfloat16:
            return from_bf16(b, load(b, HALVES, x, offset, align=2))
        return _load_floats(b, x, start, place)


def _load_floats(b: Builder, x: Value, start: Value, place: Value) -> Value:
    index = b.add(start, b.mul(place, WORD(LANES)))
    return load(b, FLOATS, x, b.mul(index, WORD(4)), align=4)
