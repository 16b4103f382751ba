"""The inner loops of compiled attention: queries times keys, and weights times values.

Keys and values are whole numbers in blocks (`number_block`), and so are what they are multiplied
with. Queries are rounded as keys are. Weights hold the scales of their values, and differ more: of
eight bits, the smaller ones of a long context would vanish. They have sixteen. Values of sixteen
leave them that many steps in all; to values of eight the instruction takes them as two rows.

A row is a record: what sums with it begin with, because a byte of the pool is 128 more than it
stands for; its scale; and its numbers, each with a sign, of weights in bytes first the lower ones
of all:

    [64: start in int32, scale in fp32][numbers][higher bytes]
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from martlet.models.compiled.blocks import (
    BLOCKS_AT_ONCE,
    MIXED,
    MOST_KEYS,
    Blocks,
    for_all_rows,
)
from martlet.models.compiled.number_block import (
    BLOCK_SIZE,
    BYTES,
    LANE_BYTES,
    LARGEST_VALUE,
    WORDS,
    Numbers,
    in_steps,
    key_scale,
    scale_of,
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
    larger,
    largest_lane,
    load,
    multiply_add,
    power_of_two,
    prefetch_line,
    store,
    sum_of,
)

HEADER_BYTES = VECTOR_BYTES
SCALE = 1
"""Where in a record its scale lies, counted in numbers of 32 bits."""
_DOTS = {WORDS: "llvm.x86.avx512.vpdpwssd.512", BYTES: "llvm.x86.avx512.vpdpbusd.512"}
_LARGEST_WEIGHTS = {WORDS: 2**15 - 1, BYTES: 127 * 256 + 127}
"""The higher byte of the latter stays below 128."""
_LEAST_EXPONENT = -100
"""What is hidden has the weight 2 ** -100: no step, and not so small that a CPU takes its time."""
_WEIGHTS_IN_ALL = 2**31 // (LARGEST_VALUE + 1) - MOST_KEYS
"""Words that are multiplied with values may add up to as much; each may be rounded up."""


class _Writer:
    """Writes a record, sixteen numbers at a time.

    Args:
        scale: What a step stands for.
        inverse: How many steps 1 is.
    """

    def __init__(
        self, builder: Builder, kind: Numbers, record: Value, scale: Value, inverse: Value
    ) -> None:
        self._kind, self._record = kind, record
        store(builder, scale, at(builder, record, SCALE, 4))
        self._inverse = broadcast(builder, inverse)
        self._total = cgutils.alloca_once_value(builder, _each(0))

    def add(self, builder: Builder, vector: Value, index: Value, *, is_weight: bool) -> None:
        """Writes a vector of fp32 numbers by its index."""
        kind = self._kind
        whole = in_steps(builder, vector, self._inverse)
        builder.store(builder.add(builder.load(self._total), whole), self._total)
        first = builder.add(self._record, ADDRESS(HEADER_BYTES))
        place = at(builder, first, index, WIDTH * kind.num_bytes)
        _store_numbers(builder, kind, whole, place)
        if is_weight and kind is BYTES:
            # The lower byte has a sign, so the higher one is the nearest.
            higher = builder.ashr(builder.add(whole, _each(128)), _each(8))
            _store_numbers(builder, kind, higher, builder.add(place, ADDRESS(MOST_KEYS)))

    def end(self, builder: Builder) -> None:
        """Writes what sums begin with."""
        total = call(
            builder, "llvm.vector.reduce.add.v16i32", PAIRS.element, builder.load(self._total)
        )
        store(builder, builder.mul(total, PAIRS.element(-self._kind.zero)), self._record)


def _store_numbers(builder: Builder, kind: Numbers, whole: Value, address: Value) -> None:
    """The lowest bits of each."""
    place = builder.inttoptr(address, ir.PointerType())
    builder.store(builder.trunc(whole, kind.vector), place, align=1)


def _each(value: int) -> Value:
    return ir.Constant(PAIRS, [value] * WIDTH)


def _query_writer_by(kind: Numbers) -> Callable[..., None]:
    """`(address, length, record)`: writes the record of a query, a row of fp32 numbers."""

    @intrinsic  # type: ignore[untyped-decorator]
    def to_record(_: Any, address: Any, length: Any, record: Any) -> Any:
        def generate(context: Any, builder: Builder, _: Any, arguments: Any) -> Value:
            address, length, record = arguments
            num_vectors = builder.udiv(length, ADDRESS(WIDTH))
            scale, inverse = key_scale(builder, kind, address, num_vectors)
            writer = _Writer(builder, kind, record, scale, inverse)
            with cgutils.for_range(builder, num_vectors) as loop:
                vector = load(builder, at(builder, address, loop.index, VECTOR_BYTES), SUMS)
                writer.add(builder, vector, loop.index, is_weight=False)
            writer.end(builder)
            return context.get_dummy_value()

        return types.void(address, length, record), generate

    function: Callable[..., None] = to_record
    return function


@intrinsic  # type: ignore[untyped-decorator]
def gather_scales(_: Any, blocks: Any, first: Any, end: Any, target: Any) -> Any:
    """Writes the scales of values in some blocks side by side, and 0 where nobody looks.

    That is before the first token that is seen, and from the end on: scales of others lie there.
    """

    def generate(context: Any, builder: Builder, _: Any, arguments: Any) -> Value:
        blocks, first, end, target = arguments
        values, number = Blocks.of(builder, blocks), PAIRS.element
        first, end = (broadcast(builder, builder.trunc(each, number)) for each in (first, end))
        lanes = ir.Constant(PAIRS, list(range(WIDTH)))
        with cgutils.for_range(builder, values.count) as loop:
            start = builder.mul(builder.trunc(loop.index, number), number(BLOCK_SIZE))
            tokens = builder.add(broadcast(builder, start), lanes)
            is_seen = builder.and_(
                builder.icmp_signed(">=", tokens, first), builder.icmp_signed("<", tokens, end)
            )
            own = builder.select(is_seen, values.load_scales(builder, loop.index), constant(0))
            store(builder, own, at(builder, target, loop.index, VECTOR_BYTES))
        return context.get_dummy_value()

    return types.void(blocks, first, end, target), generate


def _weigher_by(kind: Numbers) -> Callable[..., Any]:
    """`(scores, num_vectors, scale, offset, scales, record, shrink)`.

    Writes the record of `2 ** (scale * score - offset)`, each times the scale of its value, which
    stands for `shrink` times as much; the scores are overwritten. `offset` is the largest score,
    scaled. It returns the sum of the powers.
    """

    @intrinsic  # type: ignore[untyped-decorator]
    def weigh(
        _: Any,
        scores: Any,
        num_vectors: Any,
        scale: Any,
        offset: Any,
        scales: Any,
        record: Any,
        shrink: Any,
    ) -> Any:
        def generate(_: Any, builder: Builder, __: Any, arguments: Any) -> Value:
            scores, num_vectors, scale, offset, scales, record, shrink = arguments
            found = _to_weights(builder, scores, num_vectors, scale, offset, scales)
            step, inverse = _weight_scale(builder, kind, found)
            writer = _Writer(builder, kind, record, builder.fmul(step, shrink), inverse)
            with cgutils.for_range(builder, num_vectors) as loop:
                weight = load(builder, at(builder, scores, loop.index, VECTOR_BYTES), SUMS)
                writer.add(builder, weight, loop.index, is_weight=True)
            writer.end(builder)
            return found.powers

        given = (scores, num_vectors, scale, offset, scales, record, shrink)
        return types.float32(*given), generate

    function: Callable[..., Any] = weigh
    return function


class _Found(NamedTuple):
    """What was found of the weights of a row."""

    powers: Value
    """The sum of the powers."""
    weights: Value
    """That of the weights, not finite if one of them is not."""
    largest: Value


def _to_weights(
    builder: Builder, scores: Value, num_vectors: Value, scale: Value, offset: Value, scales: Value
) -> _Found:
    """Overwrites scores with weights: powers, each times the scale of its value."""
    scale, offset = broadcast(builder, scale), broadcast(builder, builder.fneg(offset))
    powers, weights, largest = (cgutils.alloca_once_value(builder, constant(0)) for _ in range(3))
    with cgutils.for_range(builder, num_vectors) as loop:
        place = at(builder, scores, loop.index, VECTOR_BYTES)
        exponent = multiply_add(builder, load(builder, place, SUMS), scale, offset)
        power = power_of_two(builder, exponent, least=_LEAST_EXPONENT)
        builder.store(builder.fadd(builder.load(powers), power), powers)
        own_scales = load(builder, at(builder, scales, loop.index, VECTOR_BYTES), SUMS)
        weight = builder.fmul(power, own_scales)
        builder.store(builder.fadd(builder.load(weights), weight), weights)
        builder.store(larger(builder, weight, builder.load(largest)), largest)
        store(builder, weight, place)
    sum_of_powers, sum_of_weights = (
        sum_of(builder, builder.load(each)) for each in (powers, weights)
    )
    most = largest_lane(builder, builder.load(largest))
    return _Found(sum_of_powers, sum_of_weights, most)


def _weight_scale(builder: Builder, kind: Numbers, found: _Found) -> tuple[Value, Value]:
    """What a step of weights stands for, and how many steps 1 is."""
    most, size = _LARGEST_WEIGHTS[kind], found.largest
    if kind is WORDS:
        share = builder.fmul(found.weights, SUMS.element(most / _WEIGHTS_IN_ALL))
        size = larger(builder, share, size)
    # The largest passes over NaN, and a product with 0 does not.
    nothing = builder.fmul(found.weights, SUMS.element(0))
    return scale_of(builder, builder.fadd(size, nothing), most)


def _add_lanes(
    builder: Builder,
    kind: Numbers,
    rows: Sequence[Sequence[tuple[Value, Value]]],
    columns: Callable[[Value], Sequence[Value]],
    num_columns: int,
    num_lanes: Value,
) -> list[list[list[Value]]]:
    """The sums of the products of rows with columns.

    Args:
        rows: What the sums of each begin with and where its numbers lie; of weights in bytes twice.
        columns: Writes what loads the vectors of a lane of inputs, by its index.
        num_columns: Vectors of them.
        num_lanes: Of inputs.
    """
    # Variables that the compiler keeps in registers.
    sums = [
        [
            [cgutils.alloca_once_value(builder, start) for _ in range(num_columns)]
            for start, _ in row
        ]
        for row in rows
    ]
    with cgutils.for_range(builder, num_lanes) as loop:
        loaded = columns(loop.index)
        for row, all_variables in zip(rows, sums, strict=True):
            for (_, numbers), variables in zip(row, all_variables, strict=True):
                place = at(builder, numbers, loop.index, LANE_BYTES)
                lane = broadcast(builder, load(builder, place, PAIRS.element))
                for variable, column in zip(variables, loaded, strict=True):
                    added = call(builder, _DOTS[kind], PAIRS, builder.load(variable), column, lane)
                    builder.store(added, variable)
    return [[[builder.load(variable) for variable in part] for part in row] for row in sums]


def _start_and_numbers(builder: Builder, record: Value) -> tuple[Value, Value]:
    start = broadcast(builder, load(builder, record, PAIRS.element))
    return start, builder.add(record, ADDRESS(HEADER_BYTES))


def _scorer_by(kind: Numbers) -> Callable[..., None]:
    """Writes the products of queries with the keys of up to four blocks, in steps of each query.

    Where there are fewer, the last one is taken again, and what it gives is not looked at.
    """

    def score(
        builder: Builder,
        queries: Sequence[Value],
        scores: Sequence[Value],
        keys: Blocks,
        dim: Value,
    ) -> None:
        last = builder.sub(keys.count, ADDRESS(1))
        indices = [
            call(builder, "llvm.umin.i64", ADDRESS, ADDRESS(index), last)
            for index in range(BLOCKS_AT_ONCE)
        ]
        blocks = [keys.place(builder, index) for index in indices]
        key_bytes = builder.mul(dim, ADDRESS(BLOCK_SIZE * kind.num_bytes))

        def columns(lane: Value) -> list[Value]:
            places = [at(builder, each, lane, VECTOR_BYTES) for each in blocks]
            for place in places:
                # Behind the keys lie the values, which are next.
                prefetch_line(builder, builder.add(place, key_bytes))
            return [load(builder, place, PAIRS) for place in places]

        rows = [[_start_and_numbers(builder, query)] for query in queries]
        num_lanes = builder.udiv(dim, ADDRESS(kind.in_lane))
        sums = _add_lanes(builder, kind, rows, columns, BLOCKS_AT_ONCE, num_lanes)
        scales = [keys.load_scales(builder, index) for index in indices]
        for place, (totals,) in zip(scores, sums, strict=True):
            for index, (total, scale) in enumerate(zip(totals, scales, strict=True)):
                own = builder.fmul(builder.sitofp(total, SUMS), scale)
                store(builder, own, at(builder, place, index, VECTOR_BYTES))

    return score


def _mixer_by(kind: Numbers) -> Callable[..., None]:
    """Adds the products of weights with `MIXED` columns of the values of all blocks."""

    def mix(
        builder: Builder,
        weights: Sequence[Value],
        mixed: Sequence[Value],
        values: Blocks,
        dim: Value,
    ) -> None:
        lanes = ADDRESS(BLOCK_SIZE // kind.in_lane)
        row_bytes, num_columns = builder.mul(dim, ADDRESS(LANE_BYTES)), MIXED // WIDTH

        def columns(lane: Value) -> list[Value]:
            block = values.place(builder, builder.udiv(lane, lanes))
            own = at(builder, block, builder.urem(lane, lanes), row_bytes)
            places = (at(builder, own, index, VECTOR_BYTES) for index in range(num_columns))
            return [load(builder, place, PAIRS) for place in places]

        rows = []
        for weight in weights:
            start, lower = _start_and_numbers(builder, weight)
            rows.append([(start, lower)])
            if kind is BYTES:
                rows[-1].append((_each(0), builder.add(lower, ADDRESS(MOST_KEYS))))
        num_lanes = builder.mul(values.count, lanes)
        sums = _add_lanes(builder, kind, rows, columns, num_columns, num_lanes)
        for weight, row, parts in zip(weights, mixed, sums, strict=True):
            number = load(builder, at(builder, weight, SCALE, 4), SUMS.element)
            scale = broadcast(builder, number)
            for index, of_column in enumerate(zip(*parts, strict=True)):
                total = of_column[0]
                if kind is BYTES:
                    # One sum may leave its 32 bits; both together do not.
                    total = builder.add(builder.shl(of_column[1], _each(8)), total)
                place = at(builder, row, index, VECTOR_BYTES)
                before = load(builder, place, SUMS)
                store(
                    builder,
                    multiply_add(builder, builder.sitofp(total, SUMS), scale, before),
                    place,
                )

    return mix


class Loops(NamedTuple):
    """The inner loops of a kind of numbers."""

    write_query: Callable[..., None]
    """`(address, length, record)`."""
    score: Callable[..., None]
    """Queries with keys, for any number of rows as `for_all_rows` says. A score is still to be
    multiplied with the scale of its query."""
    weigh: Callable[..., Any]
    """`(scores, num_vectors, scale, offset, scales, record, shrink)`."""
    mix: Callable[..., None]
    """Weights with values, as `score`."""


def loops(kind: Numbers) -> Loops:
    """Made for a kind of numbers."""
    return Loops(
        _query_writer_by(kind),
        for_all_rows(_scorer_by(kind), f"score.{kind.name}"),
        _weigher_by(kind),
        for_all_rows(_mixer_by(kind), f"mix.{kind.name}"),
    )
