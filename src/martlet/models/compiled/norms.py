"""RMS norms in one pass, where PyTorch makes several (Zhang and Sennrich, arXiv:1910.07467).

Shapes: T rows, D columns, in bf16; D is a multiple of 16. H heads of a row have a norm each.
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
    round_sums,
    store,
    sum_of,
    widen,
)

ROWS_AT_ONCE = 8
"""Rows that a thread takes."""
_HALF = VECTOR_BYTES // 2


@cache
def rms_norm() -> Any:
    """The compiled norm; its argument is the address of seven whole numbers.

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
def add_rms_norm() -> Any:
    """Adds to rows, and then norms them; its argument is the address of eight whole numbers.

    These are: the address of a number in which threads count the rows that they took; those of the
    rows `[T, D]`, which are overwritten by the sum, of what is added to them `[T, D]`, of the
    weight `[D]` in fp32, of the result `[T, D]`, and of epsilon (fp32); T; D.
    """
    sources = version()

    @compiled
    def work(arguments: Any) -> None:
        _ = sources
        rows, added, weight, out = arguments[1], arguments[2], arguments[3], arguments[4]
        epsilon, num_rows, dim = arguments[5], arguments[6], arguments[7]
        while True:
            first = fetch_add(arguments[0], ROWS_AT_ONCE)
            if first >= num_rows:
                break
            for row in range(first, min(first + ROWS_AT_ONCE, num_rows)):
                place = row * dim * 2
                _add(rows + place, added + place, dim // WIDTH)
                _normalise(rows + place, weight, out + place, dim // WIDTH, floats_at(epsilon)[0])

    return work


@cache
def norm_heads() -> Any:
    """Norms the heads of rows where they lie; its argument is the address of eight whole numbers.

    These are: the address of a number in which threads count the rows that they took; those of the
    rows `[T, H, D]`, of the weight `[D]` in fp32, and of epsilon (fp32); how many bytes apart the
    rows are; T, H and D.
    """
    sources = version()

    @compiled
    def work(arguments: Any) -> None:
        _ = sources
        rows, weight, epsilon, row_bytes = arguments[1], arguments[2], arguments[3], arguments[4]
        num_rows, num_heads, dim = arguments[5], arguments[6], arguments[7]
        while True:
            first = fetch_add(arguments[0], ROWS_AT_ONCE)
            if first >= num_rows:
                break
            for row in range(first, min(first + ROWS_AT_ONCE, num_rows)):
                for head in range(num_heads):
                    place = rows + row * row_bytes + head * dim * 2
                    _normalise(place, weight, place, dim // WIDTH, floats_at(epsilon)[0])

    return work


@intrinsic  # type: ignore[untyped-decorator]
def _add(_: Any, row: Any, added: Any, num_vectors: Any) -> Any:
    """Adds one row to another, where it lies."""

    def generate(context: Any, builder: Builder, _: Any, arguments: Any) -> Value:
        row, added, num_vectors = arguments
        with cgutils.for_range(builder, num_vectors) as loop:
            place = at(builder, row, loop.index, _HALF)
            both = widen(builder, place), widen(builder, at(builder, added, loop.index, _HALF))
            store(builder, round_sums(builder, builder.fadd(*both)), place)
        return context.get_dummy_value()

    return types.void(row, added, num_vectors), generate


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
