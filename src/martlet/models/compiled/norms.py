"""RMS norms in one pass, where PyTorch makes several (Zhang and Sennrich, arXiv:1910.07467).

Shapes: T rows, D columns, a multiple of 16; H heads of a row have a norm each. Rows of layers
come out in bf16, and go in so too where they are not said to be wide: in fp32. Heads are in fp32.
"""

from collections.abc import Callable
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
    of_kind,
    round_sums,
    store,
    sum_of,
    widen,
)

ROWS_AT_ONCE = 8
"""Rows that a thread takes."""
_HALF = VECTOR_BYTES // 2


@cache
def rms_norm(*, is_wide: bool) -> Any:
    """The compiled norm; its argument is the address of seven whole numbers.

    These are: the address of a number in which threads count the rows that they took; those of the
    rows `[T, D]`, of the weight `[D]` in fp32, of the result `[T, D]`, and of epsilon (fp32); T; D.
    """
    sources = version()

    @compiled
    @of_kind("wide" if is_wide else "plain")
    def work(arguments: Any) -> None:
        _ = sources
        rows, weight, out, epsilon = arguments[1], arguments[2], arguments[3], arguments[4]
        num_rows, dim = arguments[5], arguments[6]
        while True:
            first = fetch_add(arguments[0], ROWS_AT_ONCE)
            if first >= num_rows:
                break
            for row in range(first, min(first + ROWS_AT_ONCE, num_rows)):
                target, size = out + row * dim * 2, dim // WIDTH
                if is_wide:
                    own = rows + row * dim * 4
                    _normalise_wide(own, weight, target, size, floats_at(epsilon)[0])
                else:
                    own = rows + row * dim * 2
                    _normalise(own, weight, target, size, floats_at(epsilon)[0])

    return work


@cache
def add_rms_norm() -> Any:
    """Adds to wide rows, and then norms them; its argument is the address of eight whole numbers.

    These are: the address of a number in which threads count the rows that they took; those of the
    rows `[T, D]`, which are overwritten by the sum, of what is added to them `[T, D]`, wide too, of
    the weight `[D]` in fp32, of the result `[T, D]`, and of epsilon (fp32); T; D.
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
                own, target, size = rows + row * dim * 4, out + row * dim * 2, dim // WIDTH
                _add(own, added + row * dim * 4, size)
                _normalise_wide(own, weight, target, size, floats_at(epsilon)[0])

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
                    place = rows + row * row_bytes + head * dim * 4
                    _normalise_head(place, weight, place, dim // WIDTH, floats_at(epsilon)[0])

    return work


@intrinsic  # type: ignore[untyped-decorator]
def _add(_: Any, row: Any, added: Any, num_vectors: Any) -> Any:
    """Adds one wide row to another, where it lies."""

    def generate(context: Any, builder: Builder, _: Any, arguments: Any) -> Value:
        row, added, num_vectors = arguments
        with cgutils.for_range(builder, num_vectors) as loop:
            place, other = (at(builder, each, loop.index, VECTOR_BYTES) for each in (row, added))
            both = load(builder, place, SUMS), load(builder, other, SUMS)
            store(builder, builder.fadd(*both), place)
        return context.get_dummy_value()

    return types.void(row, added, num_vectors), generate


def _normalise_by(*, reads_wide: bool, writes_wide: bool) -> Callable[..., None]:
    """`(row, weight, out, num_vectors, epsilon)`: a row over its root mean square, times weights.

    Args:
        reads_wide: Whether the row is in fp32.
        writes_wide: Whether what comes out is.
    """

    def load_vector(builder: Builder, row: Value, index: Value) -> Value:
        if reads_wide:
            return load(builder, at(builder, row, index, VECTOR_BYTES), SUMS)
        return widen(builder, at(builder, row, index, _HALF))

    def store_vector(builder: Builder, vector: Value, out: Value, index: Value) -> None:
        if writes_wide:
            store(builder, vector, at(builder, out, index, VECTOR_BYTES))
        else:
            store(builder, round_sums(builder, vector), at(builder, out, index, _HALF))

    @intrinsic  # type: ignore[untyped-decorator]
    def normalise(_: Any, row: Any, weight: Any, out: Any, num_vectors: Any, epsilon: Any) -> Any:
        def generate(context: Any, builder: Builder, _: Any, arguments: Any) -> Value:
            row, weight, out, num_vectors, epsilon = arguments
            squares = cgutils.alloca_once_value(builder, constant(0))
            with cgutils.for_range(builder, num_vectors) as loop:
                x = load_vector(builder, row, loop.index)
                builder.store(multiply_add(builder, x, x, builder.load(squares)), squares)
            number = builder.sitofp(builder.mul(num_vectors, num_vectors.type(WIDTH)), SUMS.element)
            mean = builder.fdiv(sum_of(builder, builder.load(squares)), number)
            root = call(builder, "llvm.sqrt.f32", SUMS.element, builder.fadd(mean, epsilon))
            factor = broadcast(builder, builder.fdiv(ir.Constant(SUMS.element, 1.0), root))
            with cgutils.for_range(builder, num_vectors) as loop:
                x = load_vector(builder, row, loop.index)
                own_weight = load(builder, at(builder, weight, loop.index, VECTOR_BYTES), SUMS)
                normed = builder.fmul(builder.fmul(x, factor), own_weight)
                store_vector(builder, normed, out, loop.index)
            return context.get_dummy_value()

        return types.void(row, weight, out, num_vectors, epsilon), generate

    function: Callable[..., None] = normalise
    return function


_normalise = _normalise_by(reads_wide=False, writes_wide=False)
_normalise_wide = _normalise_by(reads_wide=True, writes_wide=False)
_normalise_head = _normalise_by(reads_wide=True, writes_wide=True)
