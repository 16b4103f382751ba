"""How a block of keys and values lies in memory, and what is written to it.

They are whole numbers of 16 bits or of 8. Several neighbouring ones fill a lane of 32 bits, whose
products with those of another lane the instructions for neural networks (VNNI) add up: two of 16
bits (a lane's share L is 2), four of 8 bits (L is 4). A reader multiplies queries with the 16 keys
of a block as with 16 columns, and weights with the columns of its values. So both lie as the
instructions want them, and only the writer of a token has its numbers to put in their places:

    block    [Hkv][keys | values]
    keys     [D / L][16 tokens][L]       neighbouring numbers of a key
    values   [16 / L][D][L]              the same column of neighbouring tokens

A key, and a value, has a scale for each head, in fp32. Those of a block lie elsewhere, so that the
CPU finds all of a head's numbers in one page, and foresees them; there first those of its keys:

    scales   [Hkv][2][16 tokens]

Where a number is not finite, its scale is not.

Numbers of 16 bits are more than bf16 has: a key is rounded to steps of its own length over 32,767,
a bf16 to steps of 1/256 to 1/128 of itself. No sum leaves its 32 bits: that of a query and a key is
at most the product of their lengths, and that of weights and values is bounded by `LARGEST_VALUE`.

Shapes: T tokens, Hkv key-value heads, D their width, a multiple of 32.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor

from martlet.models.compiled.threads import run, version
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
    compiled,
    constant,
    fetch_add,
    larger,
    largest_lane,
    load,
    multiply_add,
    numbers_at,
    of_kind,
    store,
    sum_of,
)

BLOCK_SIZE = WIDTH
"""Tokens of a block: one for each sum of a vector."""
LANE_BYTES = 4
SCALES_BYTES = BLOCK_SIZE * 4
"""Those of the keys of a head in a block, and as many of its values."""
ROWS_AT_ONCE = BLOCK_SIZE
"""Tokens that a thread takes: two would take turns with the lines of a block that they share."""
LARGEST_VALUE = 2**12 - 1
"""Of 16 bits; the weights of 512 keys add up to 19 bits."""
_LARGEST_WORD, _LARGEST_BYTE = 2**15 - 1, 2**7 - 1
_LEAST = 1e-30
"""What holds nothing larger becomes zero: the inverse of its scale would be infinite."""
_TO_WHOLE = "llvm.x86.avx512.mask.cvtps2dq.512"


class Numbers(NamedTuple):
    """A kind of whole numbers."""

    name: str
    num_bits: int
    zero: int
    """What stands for 0: of bytes, the instruction takes those of one side without a sign."""

    @property
    def num_bytes(self) -> int:
        """Of a number."""
        return self.num_bits // 8

    @property
    def in_lane(self) -> int:
        """How many a lane holds."""
        return LANE_BYTES // self.num_bytes

    @property
    def dtype(self) -> torch.dtype:
        """Of a tensor of them."""
        return torch.int16 if self.num_bits == 16 else torch.uint8

    @property
    def vector(self) -> ir.Type:
        """Sixteen of them, as LLVM knows them."""
        return ir.VectorType(ir.IntType(self.num_bits), WIDTH)


WORDS, BYTES = Numbers("words", 16, 0), Numbers("bytes", 8, 128)


def numbers(*, is_rounded: bool) -> Numbers:
    """Those of a pool: bytes of one that is called rounded."""
    return BYTES if is_rounded else WORDS


def write(
    pool: Tensor,
    scales: Tensor,
    key: Tensor,
    value: Tensor,
    slots: Tensor,
    *,
    is_rounded: bool,
) -> None:
    """Writes tokens to blocks.

    Args:
        pool: `[blocks, Hkv, 2, 16 * D]`, whole numbers.
        scales: `[blocks, Hkv, 2, 16]` in fp32.
        key, value: `[Hkv, T, D]` in fp32, the numbers of a head side by side.
        slots: `[T]`, block id times 16 plus offset.
    """
    num_heads, num_tokens, dim = key.shape
    places = (each.data_ptr() for each in (key, value, slots, pool, scales))
    strides = (stride * each.itemsize for each in (key, value) for stride in each.stride()[:2])
    arguments = (*places, *strides, num_tokens, num_heads, dim)
    function = write_tokens(is_rounded=is_rounded)
    run(function, arguments, alone=num_tokens <= ROWS_AT_ONCE)


@cache
def write_tokens(*, is_rounded: bool) -> Any:
    """The compiled function.

    Its argument is the address of 13 whole numbers: the address of a number in which threads count
    the tokens that they took; those of the keys and values `[Hkv, T, D]` in fp32, of the slots
    `[T]` (int64), of the pool and of its scales; how many bytes apart heads and tokens of the keys
    are, and those of the values; T, Hkv and D.
    """
    sources = version()

    @compiled
    @of_kind(numbers(is_rounded=is_rounded).name)
    def work(arguments: Any) -> None:
        _ = sources
        keys, values, slots, pool = arguments[1], arguments[2], arguments[3], arguments[4]
        scales = arguments[5]
        num_tokens, num_heads, dim = arguments[10], arguments[11], arguments[12]
        while True:
            first = fetch_add(arguments[0], ROWS_AT_ONCE)
            if first >= num_tokens:
                break
            for token in range(first, min(first + ROWS_AT_ONCE, num_tokens)):
                slot = numbers_at(slots)[token]
                for head in range(num_heads):
                    key = keys + head * arguments[6] + token * arguments[7]
                    value = values + head * arguments[8] + token * arguments[9]
                    if is_rounded:
                        write_bytes(key, value, pool, scales, slot, head, num_heads, dim)
                    else:
                        write_words(key, value, pool, scales, slot, head, num_heads, dim)

    return work


def _token_writer_by(kind: Numbers) -> Callable[..., None]:
    num_bytes, in_lane = kind.num_bytes, kind.in_lane
    scatter_lanes = _scatter_by(kind, ir.IntType(32), key_scale)
    scatter_numbers = _scatter_by(kind, kind.vector.element, _value_scale)

    @njit  # type: ignore[untyped-decorator]
    @of_kind(kind.name)
    def write_token(
        key: int,
        value: int,
        pool: int,
        scales: int,
        slot: int,
        head: int,
        num_heads: int,
        dim: int,
    ) -> None:
        part_bytes, num_vectors = BLOCK_SIZE * dim * num_bytes, dim // WIDTH
        index, token = slot // BLOCK_SIZE * num_heads + head, slot % BLOCK_SIZE
        block, scale = pool + index * 2 * part_bytes, scales + index * 2 * SCALES_BYTES + token * 4
        column = block + token * LANE_BYTES
        scatter_lanes(key, num_vectors, column, BLOCK_SIZE * LANE_BYTES, scale)
        row = block + part_bytes + token // in_lane * dim * LANE_BYTES + token % in_lane * num_bytes
        scatter_numbers(value, num_vectors, row, LANE_BYTES, scale + SCALES_BYTES)

    function: Callable[..., None] = write_token
    return function


def key_scale(
    builder: Builder, kind: Numbers, address: Value, num_vectors: Value
) -> tuple[Value, Value]:
    """What a step of a key or a query at an address stands for, and how many steps 1 is."""
    if kind is BYTES:
        return scale_of(builder, _largest_in(builder, address, num_vectors), _LARGEST_BYTE)
    squares = cgutils.alloca_once_value(builder, constant(0))
    with cgutils.for_range(builder, num_vectors) as loop:
        vector = load(builder, at(builder, address, loop.index, VECTOR_BYTES), SUMS)
        builder.store(multiply_add(builder, vector, vector, builder.load(squares)), squares)
    total = sum_of(builder, builder.load(squares))
    length = call(builder, "llvm.sqrt.f32", SUMS.element, total)
    return scale_of(builder, length, _LARGEST_WORD)


def _value_scale(
    builder: Builder, kind: Numbers, address: Value, num_vectors: Value
) -> tuple[Value, Value]:
    most = _LARGEST_BYTE if kind is BYTES else LARGEST_VALUE
    return scale_of(builder, _largest_in(builder, address, num_vectors), most)


class _Largest:
    """The largest size of many numbers, or NaN if one of them is not finite."""

    def __init__(self, builder: Builder) -> None:
        self._size, self._nothing = (
            cgutils.alloca_once_value(builder, constant(0)) for _ in range(2)
        )

    def add(self, builder: Builder, vector: Value) -> None:
        """Looks at sixteen of them."""
        size = call(builder, "llvm.fabs.v16f32", SUMS, vector)
        builder.store(larger(builder, size, builder.load(self._size)), self._size)
        # The maximum passes over NaN, and a product with 0 does not.
        nothing = multiply_add(builder, vector, constant(0), builder.load(self._nothing))
        builder.store(nothing, self._nothing)

    def end(self, builder: Builder) -> Value:
        """What was found."""
        size, nothing = builder.load(self._size), builder.load(self._nothing)
        return builder.fadd(largest_lane(builder, size), sum_of(builder, nothing))


def _largest_in(builder: Builder, address: Value, num_vectors: Value) -> Value:
    largest = _Largest(builder)
    with cgutils.for_range(builder, num_vectors) as loop:
        vector = load(builder, at(builder, address, loop.index, VECTOR_BYTES), SUMS)
        largest.add(builder, vector)
    return largest.end(builder)


def scale_of(builder: Builder, size: Value, num_steps: int) -> tuple[Value, Value]:
    """What a step stands for, and how many steps 1 is, of so many steps up to a size.

    Of zeros alone a step is 1: what is multiplied with it next may be infinite.
    """
    zero, one, most, least = (SUMS.element(value) for value in (0, 1, num_steps, _LEAST))
    is_zero = builder.fcmp_ordered("<", size, least)
    step = builder.select(is_zero, one, builder.fdiv(size, most))
    return step, builder.select(is_zero, zero, builder.fdiv(most, size))


def in_steps(builder: Builder, vector: Value, inverse: Value) -> Value:
    """Sixteen numbers in whole steps."""
    all_lanes, current_rounding = ir.IntType(16)(-1), LANE(4)
    none = ir.Constant(PAIRS, [0] * WIDTH)
    scaled = builder.fmul(vector, inverse)
    return call(builder, _TO_WHOLE, PAIRS, scaled, none, all_lanes, current_rounding)


def _scatter_by(
    kind: Numbers,
    element: ir.Type,
    scale_by: Callable[[Builder, Numbers, Value, Value], tuple[Value, Value]],
) -> Callable[..., None]:
    """`(address, num_vectors, target, num_bytes, scale)`: writes elements so many bytes apart.

    An element is a number, or a lane of them; at one more address goes their scale. One by one: the
    CPU's own instruction for it is slower, and a loop would become that.
    """
    count = WIDTH * kind.num_bits // element.width
    elements_of = ir.VectorType(element, count)

    @intrinsic  # type: ignore[untyped-decorator]
    def scatter(
        _: Any, address: Any, num_vectors: Any, target: Any, num_bytes: Any, scale: Any
    ) -> Any:
        def generate(context: Any, builder: Builder, _: Any, arguments: Any) -> Value:
            address, num_vectors, target, num_bytes, place = arguments
            scale, inverse = scale_by(builder, kind, address, num_vectors)
            store(builder, scale, place)
            inverses = broadcast(builder, inverse)
            vector_bytes = builder.mul(num_bytes, ADDRESS(count))
            zeros = ir.Constant(PAIRS, [kind.zero] * WIDTH)
            with cgutils.for_range(builder, num_vectors) as loop:
                vector = load(builder, at(builder, address, loop.index, VECTOR_BYTES), SUMS)
                whole = builder.add(in_steps(builder, vector, inverses), zeros)
                elements = builder.bitcast(builder.trunc(whole, kind.vector), elements_of)
                first = at(builder, target, loop.index, vector_bytes)
                for index in range(count):
                    own = at(builder, first, index, num_bytes)
                    one = builder.extract_element(elements, LANE(index))
                    builder.store(one, builder.inttoptr(own, ir.PointerType()), align=1)
            return context.get_dummy_value()

        return types.void(address, num_vectors, target, num_bytes, scale), generate

    function: Callable[..., None] = scatter
    return function


write_words, write_bytes = (_token_writer_by(kind) for kind in (WORDS, BYTES))
"""`(key, value, pool, scales, slot, head, num_heads, dim)`: writes the key and the value of a head
that lie at two addresses, in fp32."""
