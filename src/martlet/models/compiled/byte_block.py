"""How a block of keys and values in eight bits lies in memory, and what is written to it.

As `panel_block`, of bytes: the instruction for neural networks (VNNI) multiplies four neighbouring
ones in a lane, those of one side without a sign. A byte is what it stands for, plus 128.

    block    [Hkv][keys | values | scales of keys | scales of values]
    keys     [D / 4][16 tokens][4]      four neighbouring numbers of a key
    values   [4 fours of tokens][D][4]  the same column of four neighbouring tokens
    scales   [16 tokens] in fp32

A key, and a value, has a scale for each head. Where a number is not finite, its scale is not.

Shapes: T tokens, Hkv key-value heads, D their width, a multiple of 32.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from martlet.models.compiled.blocks import BLOCK_SIZE
from martlet.models.compiled.vectors import (
    ADDRESS,
    LANE,
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
    multiply_add,
    store,
    sum_of,
    widen,
)

ZERO = 128
"""The byte that stands for 0."""
LARGEST = 127
FOUR_BYTES = 4
SCALES_BYTES = BLOCK_SIZE * 4
"""Those of the keys of a block, and as many of its values."""
LEAST = 1e-30
"""What holds nothing larger becomes zero: the inverse of its scale would be infinite."""
_TO_WHOLE = "llvm.x86.avx512.mask.cvtps2dq.512"
_BYTE = ir.IntType(8)
_BYTES = ir.VectorType(_BYTE, WIDTH)


@njit  # type: ignore[untyped-decorator]
def bytes_of_part(dim: int) -> int:
    """Of the keys of a head, and as many of its values."""
    return BLOCK_SIZE * dim


@njit  # type: ignore[untyped-decorator]
def bytes_of_head(dim: int) -> int:
    """Of the keys, the values and the scales of a head."""
    num_bytes: int = 2 * (bytes_of_part(dim) + SCALES_BYTES)
    return num_bytes


@njit  # type: ignore[untyped-decorator]
def write_token(
    key: int, value: int, pool: int, slot: int, head: int, num_heads: int, dim: int
) -> None:
    """Rounds and writes the key and the value of a head that lie at two addresses, in bf16."""
    block = pool + (slot // BLOCK_SIZE * num_heads + head) * bytes_of_head(dim)
    token, num_vectors = slot % BLOCK_SIZE, dim // WIDTH
    column = block + token * FOUR_BYTES
    row = block + bytes_of_part(dim) + token // FOUR_BYTES * dim * FOUR_BYTES + token % FOUR_BYTES
    scale = block + 2 * bytes_of_part(dim) + token * 4
    _scatter_fours(key, num_vectors, column, BLOCK_SIZE * FOUR_BYTES, scale)
    _scatter_bytes(value, num_vectors, row, FOUR_BYTES, scale + SCALES_BYTES)


class Largest:
    """The largest size of many numbers, or NaN if one of them is not finite."""

    def __init__(self, builder: Builder) -> None:
        self._size, self._nothing = (
            cgutils.alloca_once_value(builder, constant(0)) for _ in range(2)
        )

    def add(self, builder: Builder, vector: Value) -> None:
        """Looks at sixteen of them."""
        size = call(builder, "llvm.fabs.v16f32", SUMS, vector)
        both = call(builder, "llvm.maxnum.v16f32", SUMS, builder.load(self._size), size)
        builder.store(both, self._size)
        # The maximum passes over NaN, and a product with 0 does not.
        nothing = multiply_add(builder, vector, constant(0), builder.load(self._nothing))
        builder.store(nothing, self._nothing)

    def end(self, builder: Builder) -> Value:
        """What was found."""
        size, nothing = builder.load(self._size), builder.load(self._nothing)
        largest = call(builder, "llvm.vector.reduce.fmax.v16f32", SUMS.element, size)
        return builder.fadd(largest, sum_of(builder, nothing))


def largest_in(builder: Builder, address: Value, num_vectors: Value) -> Value:
    """See `Largest`, of bf16 numbers."""
    largest = Largest(builder)
    with cgutils.for_range(builder, num_vectors) as loop:
        largest.add(builder, widen(builder, at(builder, address, loop.index, VECTOR_BYTES // 2)))
    return largest.end(builder)


def scale_and_inverse(builder: Builder, largest: Value, steps: int) -> tuple[Value, Value]:
    """What a step stands for, and how many steps 1 is, of so many steps up to the largest.

    Of zeros alone a step is 1: what is multiplied with it next may be infinite.
    """
    zero, one, number, least = (SUMS.element(value) for value in (0, 1, steps, LEAST))
    is_zero = builder.fcmp_ordered("<", largest, least)
    step = builder.select(is_zero, one, builder.fdiv(largest, number))
    return step, builder.select(is_zero, zero, builder.fdiv(number, largest))


def in_steps(builder: Builder, vector: Value, inverse: Value) -> Value:
    """Sixteen numbers in whole steps."""
    all_lanes, current_rounding = ir.IntType(16)(-1), LANE(4)
    none = ir.Constant(PAIRS, [0] * WIDTH)
    scaled = builder.fmul(vector, inverse)
    return call(builder, _TO_WHOLE, PAIRS, scaled, none, all_lanes, current_rounding)


def _scatter_by(kind: Any) -> Callable[..., None]:
    """`(address, num_vectors, target, num_bytes, scale)`: writes bytes, some at once, so far apart.

    And at one more address their scale.
    """

    @intrinsic  # type: ignore[untyped-decorator]
    def scatter(
        _: Any, address: Any, num_vectors: Any, target: Any, num_bytes: Any, scale: Any
    ) -> Any:
        def generate(context: Any, builder: Builder, _: Any, arguments: Any) -> Value:
            address, num_vectors, target, num_bytes, place = arguments
            largest = largest_in(builder, address, num_vectors)
            scale, inverse = scale_and_inverse(builder, largest, LARGEST)
            store(builder, scale, place)
            inverses = broadcast(builder, inverse)
            vector_bytes = builder.mul(num_bytes, ADDRESS(kind.count))
            zeros = ir.Constant(PAIRS, [ZERO] * WIDTH)
            with cgutils.for_range(builder, num_vectors) as loop:
                vector = widen(builder, at(builder, address, loop.index, VECTOR_BYTES // 2))
                whole = builder.add(in_steps(builder, vector, inverses), zeros)
                elements = builder.bitcast(builder.trunc(whole, _BYTES), kind)
                first = at(builder, target, loop.index, vector_bytes)
                for index in range(kind.count):
                    element = builder.extract_element(elements, LANE(index))
                    own = at(builder, first, index, num_bytes)
                    builder.store(element, builder.inttoptr(own, ir.PointerType()), align=1)
            return context.get_dummy_value()

        return types.void(address, num_vectors, target, num_bytes, scale), generate

    function: Callable[..., None] = scatter
    return function


_scatter_fours = _scatter_by(ir.VectorType(ir.IntType(32), WIDTH // FOUR_BYTES))
_scatter_bytes = _scatter_by(_BYTES)
