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
    WORD,
    Builder,
    Value,
    advance,
    at,
    broadcast,
    each,
    from_bf16,
    larger,
    load,
    repeat,
    smaller,
)
from martlet.models.machine_code.kind import TOKENS_AT_ONCE, WEIGHT_ZERO
from martlet.models.machine_code.worker import MachineCode, Worker, known_function, write_worker

_LARGEST = 127.0
_SMALLEST = float(torch.finfo(torch.float32).tiny * 1e3)
"""A token of zeros has no scale of its own."""


def token_rounding(dtype: torch.dtype) -> Worker:
    """The function for tokens of a type, bf16 or fp32."""
    module = ir.Module("token_rounding")
    rounding = Rounding(module, dtype)

    def item(b: Builder, number: Value, *parameters: Value) -> None:
        *tensors, num_rows, width, group_size = parameters
        first = b.mul(number, WORD(TOKENS_AT_ONCE))
        end = smaller(b, b.add(first, WORD(TOKENS_AT_ONCE)), num_rows)
        sizes = (num_rows, width, group_size)
        rounding.rows(b, first, end, *tensors, sizes=sizes)

    write_worker(module, module.name, [POINTER] * 4 + [WORD] * 3, item)
    code = MachineCode()
    code.add(module)
    return code.worker(module.name)


class Rounding:
    """Writes the code, from rows to groups to vectors.

    Args:
        dtype: Of the tokens.
    """

    def __init__(self, module: ir.Module, dtype: torch.dtype) -> None:
        self._dtype = dtype
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
        *,
        sizes: tuple[Value, Value, Value],
    ) -> None:
        """Rounds the rows from the first on; the sizes are T, K and that of a group."""
        num_rows, width, group_size = sizes
        num_groups = b.udiv(width, group_size)

        def row(number: Value) -> None:
            def group(place: Value, _: list[Value]) -> list[Value]:
                start = b.add(b.mul(number, width), b.mul(place, group_size))
                here = b.add(b.mul(place, num_rows), number)
                to = at(b, values, b.mul(here, group_size))
                scale, total = self._group(b, x, to, start, group_size)
                b.store(scale, at(b, scales, b.mul(here, WORD(4))), align=4)
                offset = b.mul(total, INT(-WEIGHT_ZERO))
                b.store(offset, at(b, offsets, b.mul(here, WORD(4))), align=4)
                return []

            repeat(b, num_groups, [], group)

        advance(b, first, end, 1, row)

    def _group(
        self, b: Builder, x: Value, values: Value, start: Value, size: Value
    ) -> tuple[Value, Value]:
        """Rounds a group; its scale and the sum of its values."""
        num_vectors = b.udiv(size, WORD(LANES))

        def compare(place: Value, largest: list[Value]) -> list[Value]:
            # Without their signs, the bits of fp32 are in order, and those of NaN the largest.
            bits = b.bitcast(self._load(b, x, start, place), INTS)
            return [larger(b, b.and_(bits, each(INTS, 0x7FFFFFFF)), largest[0])]

        (largest,) = repeat(b, num_vectors, [each(INTS, 0)], compare)
        bits = b.call(self._largest_of, [largest])
        least = b.bitcast(FLOAT(_SMALLEST), INT)
        scale = b.fdiv(b.bitcast(larger(b, bits, least), FLOAT), FLOAT(_LARGEST))
        inverse = broadcast(b, b.fdiv(FLOAT(1.0), scale))

        def round_(place: Value, total: list[Value]) -> list[Value]:
            scaled = b.fmul(self._load(b, x, start, place), inverse)
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
        return load(b, FLOATS, x, offset, align=4)
