"""The inner loops of compiled attention over keys and values in eight bits.

Whole numbers are multiplied: bytes of the pool (`byte_block`) with rows of sixteen bits, which the
instruction takes as two rows of eight. So the rounding of the pool is all that is lost, and a pass
takes as many instructions as in bf16, and half of the bytes.

A row of whole numbers is a record: what sums with it begin with, because a byte of the pool is 128
more than it stands for; its scale; and its higher and its lower bytes, each with a sign:

    [64: start in int32, scale in fp32][higher bytes][lower bytes]
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

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
_LARGEST = 127 * 256 + 127
"""Of a row: its higher byte stays below 128."""
_BYTE = ir.IntType(8)
_BYTES = ir.VectorType(_BYTE, WIDTH)
_VECTORS = range(MIXED // WIDTH)
"""Of columns that are computed at once: with seven rows their sums just stay in registers."""
_DOT = "llvm.x86.avx512.vpdpbusd.512"


class _Record(NamedTuple):
    """Where the parts of a row of whole numbers lie."""

    header: Value
    higher: Value
    lower: Value

    @classmethod
    def at(cls, builder: Builder, address: Value, length: Value) -> "_Record":
        higher = builder.add(address, ADDRESS(HEADER_BYTES))
        return cls(address, higher, builder.add(higher, length))

    def start(self, builder: Builder) -> Value:
        return broadcast(builder, load(builder, self.header, PAIRS.element))

    def scale(self, builder: Builder) -> Value:
        return load(builder, at(builder, self.header, SCALE, 4), SUMS.element)


class _Writer:
    """Writes a record, sixteen numbers at a time.

    Args:
        length: Of the row.
        scale: What a step stands for.
        inverse: How many steps 1 is.
    """

    def __init__(
        self, builder: Builder, record: Value, length: Value, scale: Value, inverse: Value
    ) -> None:
        self._record = _Record.at(builder, record, length)
        store(builder, scale, at(builder, record, SCALE, 4))
        self._inverse = broadcast(builder, inverse)
        self._total = cgutils.alloca_once_value(builder, _each(0))

    def add(self, builder: Builder, vector: Value, index: Value) -> None:
        """Writes a vector of fp32 numbers by its index."""
        whole = in_steps(builder, vector, self._inverse)
        builder.store(builder.add(builder.load(self._total), whole), self._total)
        # The lower byte has a sign, so the higher one is the nearest.
        higher = builder.ashr(builder.add(whole, _each(128)), _each(8))
        for plane, values in ((self._record.higher, higher), (self._record.lower, whole)):
            place = builder.inttoptr(at(builder, plane, index, WIDTH), ir.PointerType())
            builder.store(builder.trunc(values, _BYTES), place, align=1)

    def end(self, builder: Builder) -> None:
        """Writes what sums begin with."""
        total = call(
            builder, "llvm.vector.reduce.add.v16i32", PAIRS.element, builder.load(self._total)
        )
        store(builder, builder.mul(total, PAIRS.element(-ZERO)), self._record.header)


def _each(value: int) -> Value:
    return ir.Constant(PAIRS, [value] * WIDTH)


@intrinsic  # type: ignore[untyped-decorator]
def to_record(_: Any, address: Any, length: Any, record: Any) -> Any:
    """Writes the record of a row of bf16 numbers."""

    def generate(context: Any, builder: Builder, _: Any, arguments: Any) -> Value:
        address, length, record = arguments
        num_vectors = builder.udiv(length, ADDRESS(WIDTH))
        largest = largest_in(builder, address, num_vectors)
        writer = _Writer(builder, record, length, *scale_and_inverse(builder, largest, _LARGEST))
        with cgutils.for_range(builder, num_vectors) as loop:
            vector = widen(builder, at(builder, address, loop.index, VECTOR_BYTES // 2))
            writer.add(builder, vector, loop.index)
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
        step, inverse = scale_and_inverse(builder, largest, _LARGEST)
        total = cgutils.alloca_once_value(builder, constant(0))
        length, step = ADDRESS(MOST_KEYS), builder.fmul(step, shrink)
        writer = _Writer(builder, record, length, step, inverse)
        with cgutils.for_range(builder, num_vectors) as loop:
            score = load(builder, at(builder, scores, loop.index, VECTOR_BYTES), SUMS)
            exponent = multiply_add(builder, score, scale, offset)
            # The offset was rounded, so of large scores the largest may come out above it.
            is_above = builder.fcmp_ordered(">", exponent, constant(0))
            power = power_of_two(builder, builder.select(is_above, constant(0), exponent))
            builder.store(builder.fadd(builder.load(total), power), total)
            weight = builder.fmul(power, load(builder, values.place(builder, loop.index), SUMS))
            writer.add(builder, weight, loop.index)
        writer.end(builder)
        return sum_of(builder, builder.load(total))

    given = (scores, num_vectors, scale, offset, record, shrink, largest, scales, ids, block_bytes)
    return types.float32(*given), generate


def _add_fours(
    builder: Builder,
    records: Sequence[_Record],
    columns: Callable[[Value], Sequence[Value]],
    num_fours: Value,
) -> list[list[Value]]:
    """The products of rows with two vectors of columns, in fp32.

    Args:
        columns: Writes what loads both vectors of four inputs, by their index.
        num_fours: Of inputs.
    """
    # Variables that the compiler keeps in registers.
    sums = [
        [[cgutils.alloca_once_value(builder, start) for _ in _VECTORS] for start in starts]
        for starts in ((_each(0), record.start(builder)) for record in records)
    ]
    with cgutils.for_range(builder, num_fours) as loop:
        loaded = columns(loop.index)
        for record, planes in zip(records, sums, strict=True):
            for plane, variables in zip((record.higher, record.lower), planes, strict=True):
                place = at(builder, plane, loop.index, FOUR_BYTES)
                four = broadcast(builder, load(builder, place, PAIRS.element))
                for variable, column in zip(variables, loaded, strict=True):
                    added = call(builder, _DOT, PAIRS, builder.load(variable), column, four)
                    builder.store(added, variable)
    return [
        [_joined(builder, *(builder.load(plane[index]) for plane in planes)) for index in _VECTORS]
        for planes in sums
    ]


def _joined(builder: Builder, higher: Value, lower: Value) -> Value:
    # One sum may leave its 32 bits; both together do not.
    return builder.sitofp(builder.add(builder.shl(higher, _each(8)), lower), SUMS)


def _score(
    builder: Builder, queries: Sequence[Value], scores: Sequence[Value], keys: Blocks, dim: Value
) -> None:
    """As `blocks.score_blocks`, in steps of each query."""
    records = [_Record.at(builder, query, dim) for query in queries]
    last = builder.sub(keys.count, ADDRESS(1))
    scales = builder.mul(dim, ADDRESS(2 * BLOCK_SIZE))
    for first in range(0, BLOCKS_AT_ONCE, len(_VECTORS)):
        blocks = [
            keys.place(builder, call(builder, "llvm.umin.i64", ADDRESS, ADDRESS(index), last))
            for index in (first, first + 1)
        ]

        def columns(four: Value, blocks: Sequence[Value] = blocks) -> list[Value]:
            places = (at(builder, block, four, VECTOR_BYTES) for block in blocks)
            return [load(builder, place, PAIRS) for place in places]

        sums = _add_fours(builder, records, columns, builder.udiv(dim, ADDRESS(FOUR_BYTES)))
        for index, block in enumerate(blocks, start=first):
            scale = load(builder, builder.add(block, scales), SUMS)
            for place, totals in zip(scores, sums, strict=True):
                score = builder.fmul(totals[index - first], scale)
                store(builder, score, at(builder, place, index, VECTOR_BYTES))


def _mix(
    builder: Builder, weights: Sequence[Value], mixed: Sequence[Value], values: Blocks, dim: Value
) -> None:
    """As `blocks.mix_blocks`; the weights hold the scales of the values."""
    records = [_Record.at(builder, weight, ADDRESS(MOST_KEYS)) for weight in weights]
    fours, row_bytes = ADDRESS(BLOCK_SIZE // FOUR_BYTES), builder.mul(dim, ADDRESS(FOUR_BYTES))

    def columns(four: Value) -> list[Value]:
        block = values.place(builder, builder.udiv(four, fours))
        own = at(builder, block, builder.urem(four, fours), row_bytes)
        return [load(builder, at(builder, own, index, VECTOR_BYTES), PAIRS) for index in _VECTORS]

    sums = _add_fours(builder, records, columns, builder.mul(values.count, fours))
    for record, row, totals in zip(records, mixed, sums, strict=True):
        scale = broadcast(builder, record.scale(builder))
        for index, total in enumerate(totals):
            place = at(builder, row, index, VECTOR_BYTES)
            store(builder, multiply_add(builder, total, scale, load(builder, place, SUMS)), place)


score_bytes, mix_bytes = (for_all_rows(work) for work in (_score, _mix))
"""As `blocks.score_blocks` and `blocks.mix_blocks`, of records. A score is still to be multiplied
with the scale of its query."""
