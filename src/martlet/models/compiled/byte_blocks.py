"""The inner loops of compiled attention over keys and values in eight bits.

Whole numbers are multiplied: bytes of the pool (`byte_block`) with rows that were rounded too.
Queries are so to eight bits. Weights differ more: of eight bits, the smaller ones of a long context
would vanish. They have sixteen, which the instruction takes as two rows of eight.

A row is a record: what sums with it begin with, because a byte of the pool is 128 more than it
stands for; its scale; and its bytes, each with a sign, of weights first the lower ones of all:

    [64: start in int32, scale in fp32][bytes][higher bytes]
"""

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from martlet.models.compiled.blocks import (
    BLOCK_SIZE,
    BLOCKS_AT_ONCE,
    MIXED,
    MOST_KEYS,
    Blocks,
    for_all_rows,
)
from martlet.models.compiled.byte_block import (
    FOUR_BYTES,
    LARGEST,
    ZERO,
    Largest,
    in_steps,
    largest_in,
    scale_and_inverse,
)
from martlet.models.compiled.vectors import (
    ADDRESS,
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
    power_of_two,
    store,
    sum_of,
    widen,
)

HEADER_BYTES = VECTOR_BYTES
SCALE = 1
"""Where in a record its scale lies, counted in numbers."""
_LARGEST_WEIGHT = 127 * 256 + 127
"""Its higher byte stays below 128."""
_BYTE = ir.IntType(8)
_BYTES = ir.VectorType(_BYTE, WIDTH)
_DOT = "llvm.x86.avx512.vpdpbusd.512"


class _Writer:
    """Writes a record, sixteen numbers at a time.

    Args:
        scale: What a step stands for.
        inverse: How many steps 1 is.
    """

    def __init__(self, builder: Builder, record: Value, scale: Value, inverse: Value) -> None:
        self._record = record
        store(builder, scale, at(builder, record, SCALE, 4))
        self._inverse = broadcast(builder, inverse)
        self._total = cgutils.alloca_once_value(builder, _each(0))

    def add(self, builder: Builder, vector: Value, index: Value, *, is_weight: bool) -> None:
        """Writes a vector of fp32 numbers by its index."""
        whole = in_steps(builder, vector, self._inverse)
        builder.store(builder.add(builder.load(self._total), whole), self._total)
        place = at(builder, builder.add(self._record, ADDRESS(HEADER_BYTES)), index, WIDTH)
        _store_bytes(builder, whole, place)
        if is_weight:
            # The lower byte has a sign, so the higher one is the nearest.
            higher = builder.ashr(builder.add(whole, _each(128)), _each(8))
            _store_bytes(builder, higher, builder.add(place, ADDRESS(MOST_KEYS)))

    def end(self, builder: Builder) -> None:
        """Writes what sums begin with."""
        total = call(
            builder, "llvm.vector.reduce.add.v16i32", PAIRS.element, builder.load(self._total)
        )
        store(builder, builder.mul(total, PAIRS.element(-ZERO)), self._record)


def _store_bytes(builder: Builder, numbers: Value, address: Value) -> None:
    """The lowest byte of each."""
    place = builder.inttoptr(address, ir.PointerType())
    builder.store(builder.trunc(numbers, _BYTES), place, align=1)


def _each(value: int) -> Value:
    return ir.Constant(PAIRS, [value] * WIDTH)


@intrinsic  # type: ignore[untyped-decorator]
def to_record(_: Any, address: Any, length: Any, record: Any) -> Any:
    """Writes the record of a query, a row of bf16 numbers."""

    def generate(context: Any, builder: Builder, _: Any, arguments: Any) -> Value:
        address, length, record = arguments
        num_vectors = builder.udiv(length, ADDRESS(WIDTH))
        largest = largest_in(builder, address, num_vectors)
        writer = _Writer(builder, record, *scale_and_inverse(builder, largest, LARGEST))
        with cgutils.for_range(builder, num_vectors) as loop:
            vector = widen(builder, at(builder, address, loop.index, VECTOR_BYTES // 2))
            writer.add(builder, vector, loop.index, is_weight=False)
        writer.end(builder)
        return context.get_dummy_value()

    return types.void(address, length, record), generate


@intrinsic  # type: ignore[untyped-decorator]
def largest_scale(
    _: Any, scales: Any, ids: Any, num_blocks: Any, block_bytes: Any, first: Any, end: Any
) -> Any:
    """The largest scale of the values in some blocks, of the tokens from one to before another.

    NaN if one of them is not finite. Those of block 0 lie at the address.
    """

    def generate(_: Any, builder: Builder, __: Any, arguments: Any) -> Value:
        scales, ids, num_blocks, block_bytes, first, end = arguments
        blocks = Blocks(scales, ids, num_blocks, block_bytes)
        number = PAIRS.element
        first, end = (broadcast(builder, builder.trunc(each, number)) for each in (first, end))
        lanes = ir.Constant(PAIRS, list(range(WIDTH)))
        largest = Largest(builder)
        with cgutils.for_range(builder, num_blocks) as loop:
            start = builder.mul(builder.trunc(loop.index, number), number(BLOCK_SIZE))
            tokens = builder.add(broadcast(builder, start), lanes)
            is_seen = builder.and_(
                builder.icmp_signed(">=", tokens, first), builder.icmp_signed("<", tokens, end)
            )
            vector = load(builder, blocks.place(builder, loop.index), SUMS)
            largest.add(builder, builder.select(is_seen, vector, constant(0)))
        return largest.end(builder)

    given = (scales, ids, num_blocks, block_bytes, first, end)
    return types.float32(*given), generate


@intrinsic  # type: ignore[untyped-decorator]
def weigh_bytes(
    _: Any,
    scores: Any,
    num_vectors: Any,
    scale: Any,
    offset: Any,
    record: Any,
    shrink: Any,
    largest: Any,
    scales: Any,
    ids: Any,
    block_bytes: Any,
) -> Any:
    """Writes the record of `2 ** (scale * score - offset)`, each times the scale of its value.

    It stands for `shrink` times as much. `offset` is the largest score, scaled, and `largest` the
    largest scale of a value; those of block 0 lie at an address, the ids of the blocks at another.
    It returns the sum of the powers.
    """

    def generate(_: Any, builder: Builder, __: Any, arguments: Any) -> Value:
        scores, num_vectors, scale, offset, record, shrink, largest, *blocks = arguments
        values = Blocks(blocks[0], blocks[1], num_vectors, blocks[2])
        scale, offset = broadcast(builder, scale), broadcast(builder, builder.fneg(offset))
        step, inverse = scale_and_inverse(builder, largest, _LARGEST_WEIGHT)
        total = cgutils.alloca_once_value(builder, constant(0))
        writer = _Writer(builder, record, builder.fmul(step, shrink), inverse)
        with cgutils.for_range(builder, num_vectors) as loop:
            score = load(builder, at(builder, scores, loop.index, VECTOR_BYTES), SUMS)
            exponent = multiply_add(builder, score, scale, offset)
            # The offset was rounded, so of large scores the largest may come out above it.
            is_above = builder.fcmp_ordered(">", exponent, constant(0))
            power = power_of_two(builder, builder.select(is_above, constant(0), exponent))
            builder.store(builder.fadd(builder.load(total), power), total)
            weight = builder.fmul(power, load(builder, values.place(builder, loop.index), SUMS))
            writer.add(builder, weight, loop.index, is_weight=True)
        writer.end(builder)
        return sum_of(builder, builder.load(total))

    given = (scores, num_vectors, scale, offset, record, shrink, largest, scales, ids, block_bytes)
    return types.float32(*given), generate


def _add_fours(
    builder: Builder,
    rows: Sequence[Sequence[tuple[Value, Value]]],
    columns: Callable[[Value], Sequence[Value]],
    num_columns: int,
    num_fours: Value,
) -> list[list[list[Value]]]:
    """The sums of the products of rows with columns.

    Args:
        rows: What the sums of each begin with and where its bytes lie; of weights twice.
        columns: Writes what loads the vectors of four inputs, by their index.
        num_columns: Vectors of them.
        num_fours: Of inputs.
    """
    # Variables that the compiler keeps in registers.
    sums = [
        [
            [cgutils.alloca_once_value(builder, start) for _ in range(num_columns)]
            for start, _ in row
        ]
        for row in rows
    ]
    with cgutils.for_range(builder, num_fours) as loop:
        loaded = columns(loop.index)
        for row, all_variables in zip(rows, sums, strict=True):
            for (_, numbers), variables in zip(row, all_variables, strict=True):
                place = at(builder, numbers, loop.index, FOUR_BYTES)
                four = broadcast(builder, load(builder, place, PAIRS.element))
                for variable, column in zip(variables, loaded, strict=True):
                    added = call(builder, _DOT, PAIRS, builder.load(variable), column, four)
                    builder.store(added, variable)
    return [[[builder.load(variable) for variable in part] for part in row] for row in sums]


def _start_and_bytes(builder: Builder, record: Value) -> tuple[Value, Value]:
    start = broadcast(builder, load(builder, record, PAIRS.element))
    return start, builder.add(record, ADDRESS(HEADER_BYTES))


def _score(
    builder: Builder, queries: Sequence[Value], scores: Sequence[Value], keys: Blocks, dim: Value
) -> None:
    """As in `blocks`, in steps of each query."""
    last = builder.sub(keys.count, ADDRESS(1))
    blocks = [
        keys.place(builder, call(builder, "llvm.umin.i64", ADDRESS, ADDRESS(index), last))
        for index in range(BLOCKS_AT_ONCE)
    ]

    def columns(four: Value) -> list[Value]:
        return [load(builder, at(builder, block, four, VECTOR_BYTES), PAIRS) for block in blocks]

    rows = [[_start_and_bytes(builder, query)] for query in queries]
    num_fours = builder.udiv(dim, ADDRESS(FOUR_BYTES))
    sums = _add_fours(builder, rows, columns, BLOCKS_AT_ONCE, num_fours)
    behind_values = builder.mul(dim, ADDRESS(2 * BLOCK_SIZE))
    scales = [load(builder, builder.add(block, behind_values), SUMS) for block in blocks]
    for place, (totals,) in zip(scores, sums, strict=True):
        for index, (total, scale) in enumerate(zip(totals, scales, strict=True)):
            score = builder.fmul(builder.sitofp(total, SUMS), scale)
            store(builder, score, at(builder, place, index, VECTOR_BYTES))


def _mix(
    builder: Builder, weights: Sequence[Value], mixed: Sequence[Value], values: Blocks, dim: Value
) -> None:
    """As in `blocks`; the weights hold the scales of the values."""
    fours, row_bytes = ADDRESS(BLOCK_SIZE // FOUR_BYTES), builder.mul(dim, ADDRESS(FOUR_BYTES))
    num_columns = MIXED // WIDTH

    def columns(four: Value) -> list[Value]:
        block = values.place(builder, builder.udiv(four, fours))
        own = at(builder, block, builder.urem(four, fours), row_bytes)
        places = (at(builder, own, index, VECTOR_BYTES) for index in range(num_columns))
        return [load(builder, place, PAIRS) for place in places]

    rows = []
    for weight in weights:
        start, lower = _start_and_bytes(builder, weight)
        rows.append([(start, lower), (_each(0), builder.add(lower, ADDRESS(MOST_KEYS)))])
    sums = _add_fours(builder, rows, columns, num_columns, builder.mul(values.count, fours))
    for weight, row, parts in zip(weights, mixed, sums, strict=True):
        number = load(builder, at(builder, weight, SCALE, 4), SUMS.element)
        scale = broadcast(builder, number)
        for index, (lower, higher) in enumerate(zip(*parts, strict=True)):
            # One sum may leave its 32 bits; both together do not.
            both = builder.add(builder.shl(higher, _each(8)), lower)
            place = at(builder, row, index, VECTOR_BYTES)
            before = load(builder, place, SUMS)
            total = multiply_add(builder, builder.sitofp(both, SUMS), scale, before)
            store(builder, total, place)


score_bytes, mix_bytes = (for_all_rows(work) for work in (_score, _mix))
"""As `blocks.score_blocks` and `blocks.mix_blocks`, of records. A score is still to be multiplied
with the scale of its query."""
