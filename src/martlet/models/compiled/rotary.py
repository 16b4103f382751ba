"""Queries and keys rotated by their positions, in one pass (Su et al., arXiv:2104.09864).

What comes out is rounded to bf16 once, not also the products and the angles on the way.

Shapes: T tokens, Hq query heads, Hkv key heads, D their width, a multiple of 32; in bf16, but for
the angles, which are in fp32.
"""

from functools import cache
from typing import Any

from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from martlet.models.compiled import byte_block
from martlet.models.compiled.panel_block import write_token
from martlet.models.compiled.threads import version
from martlet.models.compiled.vectors import (
    ADDRESS,
    SUMS,
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
    round_sums,
    store,
    widen,
)

ROWS_AT_ONCE = 8
"""Tokens that a thread takes."""
_VECTOR = VECTOR_BYTES // 2
"""Bytes of a vector of bf16 values."""


@cache
def rotate() -> Any:
    """The compiled rotation; its argument is the address of 13 whole numbers.

    These are: the address of a number in which threads count the tokens that they took; those of
    the queries and the keys, of cosine and sine `[T, D]`, and of the results `[T, Hq, D]` and
    `[T, Hkv, D]`; how many bytes apart the tokens of the queries and of the keys are; T, Hq, Hkv
    and D.
    """
    sources = version()

    @compiled
    def work(arguments: Any) -> None:
        _ = sources
        queries, keys, cosines, sines = arguments[1], arguments[2], arguments[3], arguments[4]
        out_queries, out_keys = arguments[5], arguments[6]
        num_tokens, dim = arguments[9], arguments[12]
        while True:
            first = fetch_add(arguments[0], ROWS_AT_ONCE)
            if first >= num_tokens:
                break
            for token in range(first, min(first + ROWS_AT_ONCE, num_tokens)):
                cosine, sine = cosines + token * dim * 4, sines + token * dim * 4
                query, key = queries + token * arguments[7], keys + token * arguments[8]
                _rotate_heads(query, arguments[10], cosine, sine, out_queries, token, dim)
                _rotate_heads(key, arguments[11], cosine, sine, out_keys, token, dim)

    return work


@cache
def rotate_into_pool(*, is_rounded: bool) -> Any:
    """Rotates queries and keys where they lie, and writes keys and values to a layer's pool.

    That one is in bf16, or rounded. The argument is the address of 11 whole numbers: that of a
    number in which threads count the tokens that they took; of the step, those of cosine and sine
    `[T, D]` and of the slots `[T]` (int64); those of the projections `[T, Hq + 2 Hkv, D]`, queries
    first and values last, and of the pool (`panel_block`); T, Hq, Hkv, D, and how many bytes apart
    tokens are.
    """
    sources = version()

    @compiled
    @of_kind("rounded" if is_rounded else "plain")
    def work(arguments: Any) -> None:
        _ = sources
        cosines, sines, slots = arguments[1], arguments[2], arguments[3]
        rows, pool, num_tokens = arguments[4], arguments[5], arguments[6]
        num_heads, num_kv_heads, dim = arguments[7], arguments[8], arguments[9]
        while True:
            first = fetch_add(arguments[0], ROWS_AT_ONCE)
            if first >= num_tokens:
                break
            for token in range(first, min(first + ROWS_AT_ONCE, num_tokens)):
                cosine, sine = cosines + token * dim * 4, sines + token * dim * 4
                row, slot = rows + token * arguments[10], numbers_at(slots)[token]
                for head in range(num_heads + num_kv_heads):
                    place = row + head * dim * 2
                    _rotate_head(place, cosine, sine, place, dim // (2 * WIDTH))
                for head in range(num_kv_heads):
                    key = row + (num_heads + head) * dim * 2
                    value = key + num_kv_heads * dim * 2
                    if is_rounded:
                        byte_block.write_token(key, value, pool, slot, head, num_kv_heads, dim)
                    else:
                        write_token(key, value, pool, slot, head, num_kv_heads, dim)

    return work


@njit  # type: ignore[untyped-decorator]
def _rotate_heads(
    heads: int, num_heads: int, cosine: int, sine: int, out: int, token: int, dim: int
) -> None:
    for head in range(num_heads):
        target = out + (token * num_heads + head) * dim * 2
        _rotate_head(heads + head * dim * 2, cosine, sine, target, dim // (2 * WIDTH))


@intrinsic  # type: ignore[untyped-decorator]
def _rotate_head(_: Any, head: Any, cosine: Any, sine: Any, out: Any, num_vectors: Any) -> Any:
    """Rotates the halves of a head against each other, so many vectors each."""

    def generate(context: Any, builder: Builder, _: Any, arguments: Any) -> Value:
        head, cosine, sine, out, num_vectors = arguments
        half = builder.mul(num_vectors, ADDRESS(_VECTOR))

        def angles(address: Value, index: Value) -> tuple[Value, Value]:
            place = at(builder, address, index, VECTOR_BYTES)
            others = builder.add(place, builder.mul(num_vectors, ADDRESS(VECTOR_BYTES)))
            return load(builder, place, SUMS), load(builder, others, SUMS)

        with cgutils.for_range(builder, num_vectors) as loop:
            place = at(builder, head, loop.index, _VECTOR)
            first, second = widen(builder, place), widen(builder, builder.add(place, half))
            cosines, sines = angles(cosine, loop.index), angles(sine, loop.index)
            turned = (
                builder.fsub(builder.fmul(first, cosines[0]), builder.fmul(second, sines[0])),
                builder.fadd(builder.fmul(second, cosines[1]), builder.fmul(first, sines[1])),
            )
            place = at(builder, out, loop.index, _VECTOR)
            store(builder, round_sums(builder, turned[0]), place)
            store(builder, round_sums(builder, turned[1]), builder.add(place, half))
        return context.get_dummy_value()

    return types.void(head, cosine, sine, out, num_vectors), generate
