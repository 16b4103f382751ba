"""What PyTorch makes several passes for, in one: the RMS norm, and SiLU with its gate.

Shapes: T rows, D columns, in bf16; D is a multiple of 16.
"""

from functools import cache
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from martlet.models.compiled.threads import version
from martlet.models.compiled.vectors import (
    SUMS,
    VECTOR_BYTES,
    WIDTH,
    Builder,
    Value,
    at,
    broadcast,
    call,
    compiled,
    constant,
    fetch_add,
    floats_at,
    load,
    multiply_add,
    power_of_two,
    round_sums,
    store,
    sum_of,
    widen,
)

ROWS_AT_ONCE = 8
"""Rows that a thread takes."""
_LOG2_E = 1.4426950408889634
_HALF = VECTOR_BYTES // 2


@cache
def rms_norm() -> Any:
    """The compiled norm (arXiv:1910.07467); its argument is the address of seven whole numbers.

    These are: the address of a number in which threads count the rows that they took; those of the
    rows `[T, D]`, of the weight `[D]` in fp32, of the result `[T, D]`, and of epsilon (fp32); T; D.
    """
    sources = version()

    @compiled
    def work(arguments: Any) -> None:
        _ = sources
        rows, weight, out, epsilon = arguments[1], arguments[2], arguments[3], arguments[4]
        num_rows, dim = arguments[5], arguments[6]
        while True:
            first = fetch_add(arguments[0], ROWS_AT_ONCE)
            if first >= num_rows:
                break
            for row in range(first, min(first + ROWS_AT_ONCE, num_rows)):
                place = row * dim * 2
                _normalise(rows + place, weight, out + place, dim // WIDTH, floats_at(epsilon)[0])

    return work


@cache
def silu_times() -> Any:
    """The compiled `silu(x) * y`; its argument is the address of five whole numbers.

    These are: the address of a number in which threads count the rows that they took; those of x,
    which is overwritten, and of y, both `[T, D]`; T; D.
    """
    sources = version()

    @compiled
    def work(arguments: Any) -> None:
        _ = sources
        x, y, num_rows, dim = arguments[1], arguments[2], arguments[3], arguments[4]
        while True:
            first = fetch_add(arguments[0], ROWS_AT_ONCE)
            if first >= num_rows:
                break
            count = min(ROWS_AT_ONCE, num_rows - first)
            place = first * dim * 2
            _activate(x + place, y + place, count * dim // WIDTH)

    return work


@intrinsic  # type: ignore[untyped-decorator]
def _normalise(_: Any, row: Any, weight: Any, out: Any, num_vectors: Any, epsilon: Any) -> Any:
    """Divides a row by its root mean square, and multiplies it with the weight."""

    def generate(context: Any, builder: Builder, _: Any, arguments: Any) -> Value:
        row, weight, out, num_vectors, epsilon = arguments
        squares = cgutils.alloca_once_value(builder, constant(0))
        with cgutils.for_range(builder, num_vectors) as loop:
            x = widen(builder, at(builder, row, loop.index, _HALF))
            builder.store(multiply_add(builder, x, x, builder.load(squares)), squares)
        number = builder.sitofp(builder.mul(num_vectors, num_vectors.type(WIDTH)), SUMS.element)
        mean = builder.fdiv(sum_of(builder, builder.load(squares)), number)
        root = call(builder, "llvm.sqrt.f32", SUMS.element, builder.fadd(mean, epsilon))
        factor = broadcast(builder, builder.fdiv(ir.Constant(SUMS.element, 1.0), root))
        with cgutils.for_range(builder, num_vectors) as loop:
            x = widen(builder, at(builder, row, loop.index, _HALF))
            own_weight = load(builder, at(builder, weight, loop.index, VECTOR_BYTES), SUMS)
            normed = builder.fmul(builder.fmul(x, factor), own_weight)
            store(builder, round_sums(builder, normed), at(builder, out, loop.index, _HALF))
        return context.get_dummy_value()

    return types.void(row, weight, out, num_vectors, epsilon), generate


@intrinsic  # type: ignore[untyped-decorator]
def _activate(_: Any, x: Any, y: Any, num_vectors: Any) -> Any:
    """Overwrites x with `x / (1 + exp(-x)) * y`."""

    def generate(context: Any, builder: Builder, _: Any, arguments: Any) -> Value:
        x, y, num_vectors = arguments
        with cgutils.for_range(builder, num_vectors) as loop:
            place = at(builder, x, loop.index, _HALF)
            own_x, own_y = widen(builder, place), widen(builder, at(builder, y, loop.index, _HALF))
            power = power_of_two(builder, builder.fmul(own_x, constant(-_LOG2_E)))
            silu = builder.fdiv(own_x, builder.fadd(power, constant(1)))
            store(builder, round_sums(builder, builder.fmul(silu, own_y)), place)
        return context.get_dummy_value()

    return types.void(x, y, num_vectors), generate
