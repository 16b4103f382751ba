"""What the inner loops of compiled attention are made of: rows and blocks, and vectors of scores.

Memory is passed by address, as in `vectors`; D is the width of a head.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Self

from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from martlet.models.compiled.vectors import (
    ADDRESS,
    SUMS,
    VECTOR_BYTES,
    WIDTH,
    Builder,
    Value,
    at,
    broadcast,
    constant,
    larger,
    largest_lane,
    load,
    of_kind,
    store,
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
            builder.store(larger(builder, vector, builder.load(largest)), largest)
        return largest_lane(builder, builder.load(largest))

    return types.float32(scores, num_vectors), generate


class Blocks(NamedTuple):
    """Some blocks of a pool, as they come in a table."""

    first: Value
    """The address of what is wanted of block 0."""
    ids: Value
    count: Value
    num_bytes: Value
    """How far apart they are."""
    scales: Value
    """The address of the scales of block 0."""
    scales_bytes: Value
    """How far apart those are."""

    @classmethod
    def of(cls, builder: Builder, numbers: Value) -> Self:
        """What a function that numba compiles hands over as so many whole numbers."""
        return cls(*cgutils.unpack_tuple(builder, numbers))

    def place(self, builder: Builder, index: Value) -> Value:
        """The address of what is wanted of a block, by its place in the table."""
        return at(builder, self.first, self._id(builder, index), self.num_bytes)

    def load_scales(self, builder: Builder, index: Value) -> Value:
        """Those of a block, by its place in the table."""
        own = at(builder, self.scales, self._id(builder, index), self.scales_bytes)
        return load(builder, own, SUMS)

    def _id(self, builder: Builder, index: Value) -> Value:
        return load(builder, at(builder, self.ids, index, ID_BYTES), ADDRESS)


def _rows_by(num_rows: int, work: Callable[..., None]) -> Callable[..., None]:
    """The same for so many rows; the arguments are those of `for_all_rows`."""

    @intrinsic  # type: ignore[untyped-decorator]
    def by_rows(
        _: Any, rows: Any, row_bytes: Any, blocks: Any, dim: Any, out: Any, out_bytes: Any
    ) -> Any:
        def generate(context: Any, builder: Builder, _: Any, arguments: Any) -> Value:
            rows, row_bytes, blocks, dim, out, out_bytes = arguments
            own = [at(builder, rows, row, row_bytes) for row in range(num_rows)]
            outs = [at(builder, out, row, out_bytes) for row in range(num_rows)]
            work(builder, own, outs, Blocks.of(builder, blocks), dim)
            return context.get_dummy_value()

        return types.void(rows, row_bytes, blocks, dim, out, out_bytes), generate

    function: Callable[..., None] = by_rows
    return function


def for_all_rows(work: Callable[..., None], kind: str) -> Callable[..., None]:
    """`(rows, row_bytes, num_rows, blocks, dim, out, out_bytes)`, for any number of rows.

    Args:
        work: Writes the code for some rows: it takes their addresses, those of what comes out,
            `Blocks`, and D.
        kind: A name that no other work has.
    """
    # Seven query heads share a key in Qwen2 0.5B and 7B; their 28 sums just stay in registers.
    seven, six, four, three, two, one = (_rows_by(n, work) for n in (7, 6, 4, 3, 2, 1))

    @njit  # type: ignore[untyped-decorator]
    @of_kind(kind)
    def all_rows(
        rows: int, row_bytes: int, num_rows: int, blocks: Any, dim: int, out: int, out_bytes: int
    ) -> None:
        row = 0
        while row < num_rows:
            some, target, left = rows + row * row_bytes, out + row * out_bytes, num_rows - row
            if left % 7 == 0:
                seven(some, row_bytes, blocks, dim, target, out_bytes)
                row += 7
            elif left >= 6:
                six(some, row_bytes, blocks, dim, target, out_bytes)
                row += 6
            elif left >= 4:
                four(some, row_bytes, blocks, dim, target, out_bytes)
                row += 4
            elif left == 3:
                three(some, row_bytes, blocks, dim, target, out_bytes)
                row += 3
            elif left == 2:
                two(some, row_bytes, blocks, dim, target, out_bytes)
                row += 2
            else:
                one(some, row_bytes, blocks, dim, target, out_bytes)
                row += 1

    function: Callable[..., None] = all_rows
    return function
