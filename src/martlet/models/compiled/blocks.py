"""The inner loops of compiled attention: a block of 16 keys, or some vectors of scores, at a time.

Keys and values become panels (`panel`): one of keys has those of four blocks as its columns and the
width of a head as its inputs, one of values the other way round.

Memory is passed by address, as in `vectors`; D is the width of a head.
"""

from collections.abc import Callable
from typing import Any

from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from martlet.models.compiled.panel import PANEL, VECTORS, add_panel
from martlet.models.compiled.vectors import (
    ADDRESS,
    PAIR_BYTES,
    PAIRS,
    SUMS,
    VECTOR_BYTES,
    WIDTH,
    Builder,
    Value,
    at,
    broadcast,
    call,
    constant,
    interleave,
    load,
    multiply_add,
    power_of_two,
    round_sums,
    store,
    sum_of,
    transpose,
)

BLOCK_SIZE = WIDTH
"""Tokens of a block: one for each sum of a vector."""


@intrinsic  # type: ignore[untyped-decorator]
def fill(_: Any, address: Any, num_vectors: Any, value: Any) -> Any:
    """Sets each number of some vectors."""

    def generate(context: Any, builder: Builder, _: Any, arguments: Any) -> Value:
        address, num_vectors, value = arguments
        vector = broadcast(builder, value)
        with cgutils.for_range(builder, num_vectors) as loop:
            store(builder, vector, at(builder, address, loop.index, VECTOR_BYTES))
        return context.get_dummy_value()

    return types.void(address, num_vectors, value), generate


@intrinsic  # type: ignore[untyped-decorator]
def copy(_: Any, address: Any, num_vectors: Any, target: Any) -> Any:
    """Copies vectors of pairs."""

    def generate(context: Any, builder: Builder, _: Any, arguments: Any) -> Value:
        address, num_vectors, target = arguments
        with cgutils.for_range(builder, num_vectors) as loop:
            vector = load(builder, at(builder, address, loop.index, VECTOR_BYTES), PAIRS)
            store(builder, vector, at(builder, target, loop.index, VECTOR_BYTES))
        return context.get_dummy_value()

    return types.void(address, num_vectors, target), generate


@intrinsic  # type: ignore[untyped-decorator]
def multiply(_: Any, address: Any, num_vectors: Any, value: Any) -> Any:
    """Multiplies each number of some vectors, where they lie."""

    def generate(context: Any, builder: Builder, _: Any, arguments: Any) -> Value:
        address, num_vectors, value = arguments
        factor = broadcast(builder, value)
        with cgutils.for_range(builder, num_vectors) as loop:
            place = at(builder, address, loop.index, VECTOR_BYTES)
            store(builder, builder.fmul(load(builder, place, SUMS), factor), place)
        return context.get_dummy_value()

    return types.void(address, num_vectors, value), generate


@intrinsic  # type: ignore[untyped-decorator]
def turn_block(_: Any, keys: Any, dim: Any, panel: Any, index: Any) -> Any:
    """Writes the 16 keys of a block to a panel, as its columns from 16 times the index on."""

    def generate(context: Any, builder: Builder, _: Any, arguments: Any) -> Value:
        keys, dim, panel, index = arguments
        row_bytes = builder.mul(dim, ADDRESS(2))
        own = at(builder, panel, index, VECTOR_BYTES)
        with cgutils.for_range(builder, builder.udiv(dim, ADDRESS(2 * WIDTH))) as part:
            columns = at(builder, keys, part.index, VECTOR_BYTES)
            rows = [
                load(builder, at(builder, columns, token, row_bytes), PAIRS)
                for token in range(BLOCK_SIZE)
            ]
            target = at(builder, own, part.index, WIDTH * PANEL * PAIR_BYTES)
            for pair, turned in enumerate(transpose(builder, rows)):
                store(builder, turned, at(builder, target, pair, PANEL * PAIR_BYTES))
        return context.get_dummy_value()

    return types.void(keys, dim, panel, index), generate


@intrinsic  # type: ignore[untyped-decorator]
def pair_block(_: Any, values: Any, dim: Any, panel: Any, index: Any, panel_bytes: Any) -> Any:
    """Writes the 16 values of a block to panels, as their inputs from 16 times the index on."""

    def generate(context: Any, builder: Builder, _: Any, arguments: Any) -> Value:
        values, dim, panel, index, panel_bytes = arguments
        row_bytes = builder.mul(dim, ADDRESS(2))
        own = at(builder, panel, index, BLOCK_SIZE // 2 * PANEL * PAIR_BYTES)
        with cgutils.for_range(builder, builder.udiv(dim, ADDRESS(2 * WIDTH))) as part:
            columns = at(builder, values, part.index, VECTOR_BYTES)
            number = builder.udiv(part.index, ADDRESS(2))
            half = builder.urem(part.index, ADDRESS(2))
            target = at(builder, own, number, panel_bytes)
            target = at(builder, target, half, 2 * VECTOR_BYTES)
            for pair in range(BLOCK_SIZE // 2):
                two = [
                    load(builder, at(builder, columns, 2 * pair + token, row_bytes), PAIRS)
                    for token in range(2)
                ]
                place = at(builder, target, pair, PANEL * PAIR_BYTES)
                for index, vector in enumerate(interleave(builder, *two)):
                    store(builder, vector, at(builder, place, index, VECTOR_BYTES))
        return context.get_dummy_value()

    return types.void(values, dim, panel, index, panel_bytes), generate


@intrinsic  # type: ignore[untyped-decorator]
def largest_of(_: Any, scores: Any, num_vectors: Any) -> Any:
    """The largest of some vectors of scores."""

    def generate(_: Any, builder: Builder, __: Any, arguments: Any) -> Value:
        scores, num_vectors = arguments
        largest = cgutils.alloca_once_value(builder, constant(float("-inf")))
        with cgutils.for_range(builder, num_vectors) as loop:
            vector = load(builder, at(builder, scores, loop.index, VECTOR_BYTES), SUMS)
            both = call(builder, "llvm.maxnum.v16f32", SUMS, builder.load(largest), vector)
            builder.store(both, largest)
        return call(builder, "llvm.vector.reduce.fmax.v16f32", SUMS.element, builder.load(largest))

    return types.float32(scores, num_vectors), generate


@intrinsic  # type: ignore[untyped-decorator]
def weigh(_: Any, scores: Any, num_vectors: Any, scale: Any, offset: Any, weights: Any) -> Any:
    """Writes `2 ** (scale * score - offset)` in bf16 for vectors of scores; the sum of them all."""

    def generate(_: Any, builder: Builder, __: Any, arguments: Any) -> Value:
        scores, num_vectors, scale, offset, weights = arguments
        scale, offset = broadcast(builder, scale), broadcast(builder, builder.fneg(offset))
        total = cgutils.alloca_once_value(builder, constant(0))
        with cgutils.for_range(builder, num_vectors) as loop:
            vector = load(builder, at(builder, scores, loop.index, VECTOR_BYTES), SUMS)
            power = power_of_two(builder, multiply_add(builder, vector, scale, offset))
            builder.store(builder.fadd(builder.load(total), power), total)
            place = at(builder, weights, loop.index, VECTOR_BYTES // 2)
            store(builder, round_sums(builder, power), place)
        return sum_of(builder, builder.load(total))

    return types.float32(scores, num_vectors, scale, offset, weights), generate


def _add_rows_by(num_rows: int, *, is_sum: bool) -> Callable[..., None]:
    """`(rows, row_bytes, panel, num_pairs, out, out_bytes)`: the products of rows with a panel.

    Args:
        is_sum: Whether they are added to what is there already.
    """

    @intrinsic  # type: ignore[untyped-decorator]
    def add_rows(
        _: Any, rows: Any, row_bytes: Any, panel: Any, num_pairs: Any, out: Any, out_bytes: Any
    ) -> Any:
        def generate(context: Any, builder: Builder, _: Any, arguments: Any) -> Value:
            rows, row_bytes, panel, num_pairs, out, out_bytes = arguments
            outs = [at(builder, out, row, out_bytes) for row in range(num_rows)]
            places = [[at(builder, row, index, VECTOR_BYTES) for index in VECTORS] for row in outs]
            starts = [
                [load(builder, place, SUMS) if is_sum else constant(0) for place in row]
                for row in places
            ]
            own = [at(builder, rows, row, row_bytes) for row in range(num_rows)]
            sums = add_panel(builder, starts, own, panel, num_pairs)
            for row, totals in zip(places, sums, strict=True):
                for place, total in zip(row, totals, strict=True):
                    store(builder, total, place)
            return context.get_dummy_value()

        return types.void(rows, row_bytes, panel, num_pairs, out, out_bytes), generate

    function: Callable[..., None] = add_rows
    return function


def _all_rows_by(*, is_sum: bool) -> Callable[..., None]:
    """`(rows, row_bytes, num_rows, panel, num_pairs, out, out_bytes)`, for any number of rows."""
    six, four, three, two, one = (_add_rows_by(n, is_sum=is_sum) for n in (6, 4, 3, 2, 1))

    @njit  # type: ignore[untyped-decorator]
    def all_rows(
        rows: int,
        row_bytes: int,
        num_rows: int,
        panel: int,
        num_pairs: int,
        out: int,
        out_bytes: int,
    ) -> None:
        row = 0
        while row < num_rows:
            some, target, left = rows + row * row_bytes, out + row * out_bytes, num_rows - row
            if left >= 6 and left != 7:
                six(some, row_bytes, panel, num_pairs, target, out_bytes)
                row += 6
            elif left >= 4:
                four(some, row_bytes, panel, num_pairs, target, out_bytes)
                row += 4
            elif left == 3:
                three(some, row_bytes, panel, num_pairs, target, out_bytes)
                row += 3
            elif left == 2:
                two(some, row_bytes, panel, num_pairs, target, out_bytes)
                row += 2
            else:
                one(some, row_bytes, panel, num_pairs, target, out_bytes)
                row += 1

    function: Callable[..., None] = all_rows
    return function


score_panel, mix_panel = (_all_rows_by(is_sum=is_sum) for is_sum in (False, True))
