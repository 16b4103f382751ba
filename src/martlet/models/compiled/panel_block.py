"""How a block of the pool lies in memory, and the keys and values that are written to it.

A reader multiplies queries with the 16 keys of a block as with 16 columns, and weights with the
columns of its values. So both lie as the instructions want them, and only the writer of a token
has its numbers to put in their places:

    block    [Hkv][keys | values]
    keys     [D / 2][16 tokens][2]     a pair is two neighbouring numbers of a key
    values   [8 pairs of tokens][D][2]  a pair is the same column of two neighbouring tokens

Shapes: T tokens, Hkv key-value heads, D their width; all in bf16.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor

from martlet.models.compiled import byte_block
from martlet.models.compiled.blocks import BLOCK_SIZE
from martlet.models.compiled.threads import run, version
from martlet.models.compiled.vectors import (
    ADDRESS,
    LANE,
    NUMBERS,
    PAIR_BYTES,
    PAIRS,
    VECTOR_BYTES,
    WIDTH,
    Builder,
    Value,
    at,
    compiled,
    fetch_add,
    load,
    numbers_at,
    of_kind,
    store,
)

ROWS_AT_ONCE = BLOCK_SIZE
"""Tokens that a thread takes: two would take turns with the lines of a block that they share."""


def write(pool: Tensor, key: Tensor, value: Tensor, slots: Tensor, *, is_rounded: bool) -> None:
    """Writes tokens to blocks.

    Args:
        pool: `[blocks, Hkv, 2, 16 * D]`; if it is rounded, as `byte_block` says.
        key, value: `[Hkv, T, D]`, the numbers of a head side by side.
        slots: `[T]`, block id times 16 plus offset.
    """
    num_heads, num_tokens, dim = key.shape
    places = (each.data_ptr() for each in (key, value, slots, pool))
    strides = (stride * each.itemsize for each in (key, value) for stride in each.stride()[:2])
    arguments = (*places, *strides, num_tokens, num_heads, dim)
    function = write_tokens(is_rounded=is_rounded)
    run(function, arguments, alone=num_tokens <= ROWS_AT_ONCE)


@cache
def write_tokens(*, is_rounded: bool) -> Any:
    """The compiled function, of a pool in bf16, or of a rounded one.

    Its argument is the address of 12 whole numbers: the address of a number in which threads count
    the tokens that they took; those of the keys and values `[Hkv, T, D]`, of the slots `[T]`
    (int64) and of the pool; how many bytes apart heads and tokens of the keys are, and those of the
    values; T, Hkv and D.
    """
    sources = version()

    @compiled
    @of_kind("rounded" if is_rounded else "plain")
    def work(arguments: Any) -> None:
        _ = sources
        keys, values, slots, pool = arguments[1], arguments[2], arguments[3], arguments[4]
        num_tokens, num_heads, dim = arguments[9], arguments[10], arguments[11]
        while True:
            first = fetch_add(arguments[0], ROWS_AT_ONCE)
            if first >= num_tokens:
                break
            for token in range(first, min(first + ROWS_AT_ONCE, num_tokens)):
                slot = numbers_at(slots)[token]
                for head in range(num_heads):
                    key = keys + head * arguments[5] + token * arguments[6]
                    value = values + head * arguments[7] + token * arguments[8]
                    if is_rounded:
                        byte_block.write_token(key, value, pool, slot, head, num_heads, dim)
                    else:
                        write_token(key, value, pool, slot, head, num_heads, dim)

    return work


@njit  # type: ignore[untyped-decorator]
def bytes_of_block(num_heads: int, dim: int) -> int:
    """Of the keys and values of all heads."""
    num_bytes: int = num_heads * 2 * bytes_of_part(dim)
    return num_bytes


@njit  # type: ignore[untyped-decorator]
def bytes_of_part(dim: int) -> int:
    """Of the keys of a head, and as many of its values."""
    return BLOCK_SIZE * dim * 2


@njit  # type: ignore[untyped-decorator]
def write_token(
    key: int, value: int, pool: int, slot: int, head: int, num_heads: int, dim: int
) -> None:
    """Writes the key and the value of a head that lie at two addresses."""
    block = (
        pool + slot // BLOCK_SIZE * bytes_of_block(num_heads, dim) + head * 2 * bytes_of_part(dim)
    )
    token = slot % BLOCK_SIZE
    column = block + token * PAIR_BYTES
    _scatter_pairs(key, dim // (2 * WIDTH), column, BLOCK_SIZE * PAIR_BYTES)
    row = block + bytes_of_part(dim) + token // 2 * dim * PAIR_BYTES + token % 2 * 2
    _scatter_numbers(value, dim // (2 * WIDTH), row, PAIR_BYTES)


def _scatter_by(kind: Any) -> Callable[..., None]:
    """`(address, num_vectors, target, num_bytes)`: writes elements so many bytes apart.

    One by one: the CPU's own instruction for it is slower, and a loop would become that.
    """

    @intrinsic  # type: ignore[untyped-decorator]
    def scatter(_: Any, address: Any, num_vectors: Any, target: Any, num_bytes: Any) -> Any:
        def generate(context: Any, builder: Builder, _: Any, arguments: Any) -> Value:
            address, num_vectors, target, num_bytes = arguments
            vector_bytes = builder.mul(num_bytes, ADDRESS(kind.count))
            with cgutils.for_range(builder, num_vectors) as loop:
                vector = load(builder, at(builder, address, loop.index, VECTOR_BYTES), kind)
                first = at(builder, target, loop.index, vector_bytes)
                for index in range(kind.count):
                    element = builder.extract_element(vector, LANE(index))
                    store(builder, element, at(builder, first, index, num_bytes))
            return context.get_dummy_value()

        return types.void(address, num_vectors, target, num_bytes), generate

    function: Callable[..., None] = scatter
    return function


_scatter_pairs, _scatter_numbers = (_scatter_by(kind) for kind in (PAIRS, NUMBERS))
