"""Queries and keys rotated by their positions, in one pass (Su et al., arXiv:2104.09864).

Shapes: T tokens, Hq query heads, Hkv key heads, D their width, a multiple of 32; all in fp32.
"""

from functools import cache
from typing import Any

from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from martlet.models.compiled.number_block import numbers, write_bytes, write_words
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
    store,
)

ROWS_AT_ONCE = 8
"""Tokens that a thread takes."""


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

    The argument is the address of 12 whole numbers: that of a
    number in which threads count the tokens that they took; of the step, those of cosine and sine
    `[T, D]` and of the slots `[T]` (int64); those of the projections `[T, Hq + 2 Hkv, D]`, queries
    first and values last, of the pool (`number_block`) and of its scales; T, Hq, Hkv, D, and how
    many bytes apart tokens are.
    """
    sources = version()

    @compiled
    @of_kind(numbers(is_rounded=is_rounded).name)
    def work(arguments: Any) -> None:
        _ = sources
        cosines, sines, slots = arguments[1], arguments[2], arguments[3]
        rows, pool, scales, num_tokens = arguments[4], arguments[5], arguments[6], arguments[7]
        num_heads, num_kv_heads, dim = arguments[8], arguments[9], arguments[10]
        while True:
            first = fetch_add(arguments[0], ROWS_AT_ONCE)
            if first >= num_tokens:
                break
            for token in range(first, min(first + ROWS_AT_ONCE, num_tokens)):
                cosine, sine = cosines + token * dim * 4, sines + token * dim * 4
                row, slot = rows + token * arguments[11], numbers_at(slots)[token]
                for head in range(num_heads + num_kv_heads):
                    place = row + head * dim * 4
                    _rotate_head(place, cosine, sine, place, dim // (2 * WIDTH))
                for head in range(num_kv_heads):
                    key = row + (num_heads + head) * dim * 4
                    value = key + num_kv_heads * dim * 4
                    if is_rounded:
                        write_bytes(key, value, pool, scales, slot, head, num_kv_heads, dim)
                    else:
                        write_words(key, value, pool, scales, slot, head, num_kv_heads, dim)

    return work


@njit  # type: ignore[untyped-decorator]
def _rotate_heads(
    heads: int, num_heads: int, cosine: int, sine: int, out: int, token: int, dim: int
) -> None:
    for head in range(num_heads):
        target = out + (token * num_heads + head) * dim * 4
        _rotate_head(heads + head * dim * 4, cosine, sine, target, dim // (2 * WIDTH))


@intrinsic  # type: ignore[untyped-decorator]
def _rotate_head(_: Any, head: Any, cosine: Any, sine: Any, out: Any, num_vectors: Any) -> Any:
    """Rotates the halves of a head against each other, so many vectors each."""

    def generate(context: Any, builder: Builder, _: Any, arguments: Any) -> Value:
        head, cosine, sine, out, num_vectors = arguments
        half = builder.mul(num_vectors, ADDRESS(VECTOR_BYTES))

        def halves(address: Value, index: Value) -> tuple[Value, Value]:
            place = at(builder, address, index, VECTOR_BYTES)
            return place, builder.add(place, half)

        with cgutils.for_range(builder, num_vectors) as loop:
            first, second, *angles = (
                load(builder, place, SUMS)
                for address in (head, cosine, sine)
                for place in halves(address, loop.index)
            )
            cosines, sines = angles[:2], angles[2:]
            turned = (
                builder.fsub(builder.fmul(first, cosines[0]), builder.fmul(second, sines[0])),
                builder.fadd(builder.fmul(second, cosines[1]), builder.fmul(first, sines[1])),
            )
            for each, place in zip(turned, halves(out, loop.index), strict=True):
                store(builder, each, place)
        return context.get_dummy_value()

    return types.void(head, cosine, sine, out, num_vectors), generate
