"""The inner loops of compiled attention: a block of 16 keys, or some vectors of scores, at a time.

Memory is passed by address, as in `vectors`; D is the width of a head.
"""

from collections.abc import Iterator
from typing import Any

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from martlet.models.compiled.vectors import (
    ADDRESS,
    PAIR_BYTES,
    PAIRS,
    SUMS,
    VECTOR_BYTES,
    WIDTH,
    Builder,
    Value,
    add_products,
    at,
    broadcast,
    broadcast_pair,
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
_ROWS_AT_ONCE = (4, 1)


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
def score_block(
    _: Any, rows: Any, num_rows: Any, keys: Any, dim: Any, scores: Any, stride: Any
) -> Any:
    """The products of rows of queries and the 16 keys of a block."""

    def generate(context: Any, builder: Builder, _: Any, arguments: Any) -> Value:
        rows, num_rows, keys, dim, scores, stride = arguments
        row_bytes = builder.mul(dim, ADDRESS(2))
        nothing = constant(0)
        with cgutils.for_range(builder, builder.udiv(dim, ADDRESS(2 * WIDTH))) as part:
            columns = at(builder, keys, part.index, VECTOR_BYTES)
            turned = transpose(
                builder,
                [
                    load(builder, at(builder, columns, token, row_bytes), PAIRS)
                    for token in range(BLOCK_SIZE)
                ],
            )
            own_rows = at(builder, rows, part.index, VECTOR_BYTES)
            is_first = builder.icmp_unsigned("==", part.index, ADDRESS(0))
            for number, some in _in_groups(builder, num_rows):
                places = [at(builder, scores, row, stride) for row in some]
                queries = [at(builder, own_rows, row, row_bytes) for row in some]
                sums = [
                    builder.select(is_first, nothing, load(builder, place, SUMS))
                    for place in places
                ]
                for index, pairs in enumerate(turned):
                    for row in range(number):
                        pair = broadcast_pair(builder, at(builder, queries[row], index, PAIR_BYTES))
                        sums[row] = add_products(builder, sums[row], pairs, pair)
                for total, place in zip(sums, places, strict=True):
                    store(builder, total, place)
        return context.get_dummy_value()

    return types.void(rows, num_rows, keys, dim, scores, stride), generate


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


@intrinsic  # type: ignore[untyped-decorator]
def mix_block(
    _: Any, weights: Any, stride: Any, num_rows: Any, values: Any, dim: Any, mixed: Any
) -> Any:
    """Adds the 16 values of a block, by their weights, to what each row has mixed."""

    def generate(context: Any, builder: Builder, _: Any, arguments: Any) -> Value:
        weights, stride, num_rows, values, dim, mixed = arguments
        value_bytes, mixed_bytes = (builder.mul(dim, ADDRESS(size)) for size in (2, 4))
        with cgutils.for_range(builder, builder.udiv(dim, ADDRESS(2 * WIDTH))) as part:
            columns = at(builder, values, part.index, VECTOR_BYTES)
            rows = [
                load(builder, at(builder, columns, token, value_bytes), PAIRS)
                for token in range(BLOCK_SIZE)
            ]
            pairs = [
                interleave(builder, *rows[token : token + 2]) for token in range(0, BLOCK_SIZE, 2)
            ]
            own_mixed = at(builder, mixed, part.index, 2 * VECTOR_BYTES)
            for number, some in _in_groups(builder, num_rows):
                starts = [at(builder, own_mixed, row, mixed_bytes) for row in some]
                own_weights = [at(builder, weights, row, stride) for row in some]
                places = [
                    at(builder, start, half, VECTOR_BYTES) for start in starts for half in range(2)
                ]
                sums = [load(builder, place, SUMS) for place in places]
                for index, halves in enumerate(pairs):
                    for row in range(number):
                        weight = broadcast_pair(
                            builder, at(builder, own_weights[row], index, PAIR_BYTES)
                        )
                        for half, column in enumerate(halves):
                            place = 2 * row + half
                            sums[place] = add_products(builder, sums[place], column, weight)
                for total, place in zip(sums, places, strict=True):
                    store(builder, total, place)
        return context.get_dummy_value()

    return types.void(weights, stride, num_rows, values, dim, mixed), generate


def _in_groups(builder: Builder, num_rows: Value) -> Iterator[tuple[int, list[Value]]]:
    """Loops over rows, some at once while there are as many: their sums do not wait for each other.

    Yields:
        How many there are at once and which, once for each loop; what is built then is its body.
    """
    first = ADDRESS(0)
    for number in _ROWS_AT_ONCE:
        count = builder.udiv(builder.sub(num_rows, first), ADDRESS(number))
        with cgutils.for_range(builder, count) as loop:
            start = builder.add(first, builder.mul(loop.index, ADDRESS(number)))
            yield number, [builder.add(start, ADDRESS(row)) for row in range(number)]
        first = builder.add(first, builder.mul(count, ADDRESS(number)))
