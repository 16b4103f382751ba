"""The inner loops of compiled attention: rows times blocks, and passes over vectors of scores.

The keys of a block, and its values, lie in the pool as columns of a product (`panel_block`). Memory
is passed by address, as in `vectors`; D is the width of a head.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from martlet.models.compiled.panel import add_steps
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
    load,
    multiply_add,
    of_kind,
    power_of_two,
    round_sums,
    store,
    sum_of,
)

BLOCK_SIZE = WIDTH
"""Tokens of a block: one for each sum of a vector."""
BLOCKS_AT_ONCE = 4
"""Blocks that rows are multiplied with at once: their keys come from memory side by side."""
MOST_BLOCKS = 32
"""Blocks that are scored before their values are mixed: their scores stay in the cache."""
MOST_KEYS = MOST_BLOCKS * BLOCK_SIZE
MIXED = 32
"""Columns of values that weights are multiplied with at once."""
ID_BYTES = 8
_VECTORS = range(MIXED // WIDTH)


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


class Blocks(NamedTuple):
    """Some blocks of a pool, as they come in a table."""

    first: Value
    """The address of what is wanted of block 0."""
    ids: Value
    count: Value
    num_bytes: Value
    """How far apart they are."""

    def place(self, builder: Builder, index: Value) -> Value:
        """The address of what is wanted of a block, by its place in the table."""
        block_id = load(builder, at(builder, self.ids, index, ID_BYTES), ADDRESS)
        return at(builder, self.first, block_id, self.num_bytes)


def _score(
    builder: Builder, queries: Sequence[Value], scores: Sequence[Value], keys: Blocks, dim: Value
) -> None:
    """Writes the products of queries with the keys of up to four blocks.

    Where there are fewer, the last one is taken again, and what it gives is not looked at.
    """
    last = builder.sub(keys.count, ADDRESS(1))
    blocks = [
        keys.place(builder, call(builder, "llvm.umin.i64", ADDRESS, ADDRESS(index), last))
        for index in range(BLOCKS_AT_ONCE)
    ]

    def columns(pair: Value) -> list[Value]:
        return [load(builder, at(builder, block, pair, VECTOR_BYTES), PAIRS) for block in blocks]

    starts = [[constant(0)] * BLOCKS_AT_ONCE] * len(queries)
    sums = add_steps(builder, starts, queries, columns, builder.udiv(dim, ADDRESS(2)))
    _store_sums(builder, sums, scores)


def _mix(
    builder: Builder, weights: Sequence[Value], mixed: Sequence[Value], values: Blocks, dim: Value
) -> None:
    """Adds the products of weights with `MIXED` columns of the values of all blocks."""
    pairs, pair_bytes = BLOCK_SIZE // 2, builder.mul(dim, ADDRESS(PAIR_BYTES))

    def columns(pair: Value) -> list[Value]:
        block = values.place(builder, builder.udiv(pair, ADDRESS(pairs)))
        own = at(builder, block, builder.urem(pair, ADDRESS(pairs)), pair_bytes)
        return [load(builder, at(builder, own, index, VECTOR_BYTES), PAIRS) for index in _VECTORS]

    starts = [
        [load(builder, at(builder, row, index, VECTOR_BYTES), SUMS) for index in _VECTORS]
        for row in mixed
    ]
    num_pairs = builder.mul(values.count, ADDRESS(pairs))
    _store_sums(builder, add_steps(builder, starts, weights, columns, num_pairs), mixed)


def _store_sums(builder: Builder, sums: Sequence[Sequence[Value]], places: Sequence[Value]) -> None:
    for place, totals in zip(places, sums, strict=True):
        for index, total in enumerate(totals):
            store(builder, total, at(builder, place, index, VECTOR_BYTES))


def _rows_by(num_rows: int, work: Callable[..., None]) -> Callable[..., None]:
    """`_score` or `_mix` for so many rows; the arguments are those of `score_blocks`."""

    @intrinsic  # type: ignore[untyped-decorator]
    def by_rows(
        _: Any,
        rows: Any,
        row_bytes: Any,
        first: Any,
        ids: Any,
        num_blocks: Any,
        block_bytes: Any,
        dim: Any,
        out: Any,
        out_bytes: Any,
    ) -> Any:
        def generate(context: Any, builder: Builder, _: Any, arguments: Any) -> Value:
            rows, row_bytes, *blocks, dim, out, out_bytes = arguments
            own = [at(builder, rows, row, row_bytes) for row in range(num_rows)]
            outs = [at(builder, out, row, out_bytes) for row in range(num_rows)]
            work(builder, own, outs, Blocks(*blocks), dim)
            return context.get_dummy_value()

        blocks = (first, ids, num_blocks, block_bytes)
        return types.void(rows, row_bytes, *blocks, dim, out, out_bytes), generate

    function: Callable[..., None] = by_rows
    return function


def for_all_rows(work: Callable[..., None]) -> Callable[..., None]:
    """`(rows, row_bytes, num_rows, first, ids, num_blocks, block_bytes, dim, out, out_bytes)`.

    Args:
        work: Writes the code for some rows, as `_score` and `_mix` do.
    """
    # Seven query heads share a key in Qwen2 0.5B and 7B; their 28 sums just stay in registers.
    seven, six, four, three, two, one = (_rows_by(n, work) for n in (7, 6, 4, 3, 2, 1))

    @njit  # type: ignore[untyped-decorator]
    @of_kind(f"{work.__module__}.{work.__name__}")
    def all_rows(
        rows: int,
        row_bytes: int,
        num_rows: int,
        first: int,
        ids: int,
        num_blocks: int,
        block_bytes: int,
        dim: int,
        out: int,
        out_bytes: int,
    ) -> None:
        row = 0
        while row < num_rows:
            some, target, left = rows + row * row_bytes, out + row * out_bytes, num_rows - row
            if left % 7 == 0:
                seven(some, row_bytes, first, ids, num_blocks, block_bytes, dim, target, out_bytes)
                row += 7
            elif left >= 6:
                six(some, row_bytes, first, ids, num_blocks, block_bytes, dim, target, out_bytes)
                row += 6
            elif left >= 4:
                four(some, row_bytes, first, ids, num_blocks, block_bytes, dim, target, out_bytes)
                row += 4
            elif left == 3:
                three(some, row_bytes, first, ids, num_blocks, block_bytes, dim, target, out_bytes)
                row += 3
            elif left == 2:
                two(some, row_bytes, first, ids, num_blocks, block_bytes, dim, target, out_bytes)
                row += 2
            else:
                one(some, row_bytes, first, ids, num_blocks, block_bytes, dim, target, out_bytes)
                row += 1

    function: Callable[..., None] = all_rows
    return function


score_blocks, mix_blocks = (for_all_rows(work) for work in (_score, _mix))
"""`(rows, row_bytes, num_rows, first, ids, num_blocks, block_bytes, dim, out, out_bytes)`, for any
number of rows: queries with keys, weights with values. The blocks are those of some ids, what is
wanted of block 0 lies at `first`, and one block is `block_bytes` behind the other."""
