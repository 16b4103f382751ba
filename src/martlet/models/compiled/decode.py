"""Attention of requests that compute one token each, compiled for CPUs that multiply bf16 in pairs.

It reads the blocks of the pool where they lie, exactly as many as a request has, and keeps its sums
in fp32 below a running maximum (Milakov and Gimelshein, arXiv:1805.02867). The query heads of a
key-value head go together, so that each key is loaded once.

Shapes: R requests, N blocks in a row of the table, Hq query heads, Hkv key-value heads,
G = Hq / Hkv, D width of a head.
"""

from typing import Any

import numpy as np
from numba import cfunc, njit, types

from martlet.models.compiled.blocks import (
    BLOCK_SIZE,
    fill,
    largest_of,
    mix_block,
    multiply,
    score_block,
    weigh,
)
from martlet.models.compiled.threads import once
from martlet.models.compiled.vectors import (
    VECTOR_BYTES,
    WIDTH,
    fetch_add,
    floats_at,
    numbers_at,
    prefetch,
    round_to,
)

BLOCKS_AT_ONCE = 16
"""Blocks that are scored before their values are mixed: their scores stay in the cache."""
BLOCKS_AHEAD = 2
"""How far ahead blocks are asked for; the CPU cannot foresee where the table leads."""
_NUM_KEYS = BLOCK_SIZE * BLOCKS_AT_ONCE
_SCORES_BYTES = _NUM_KEYS * 4
_WEIGHTS_BYTES = _NUM_KEYS * 2
_LOG2_E = np.float32(1.4426950408889634)
_LEAST = np.float32(-1e30)
_ZERO, _ONE, _TWO = np.float32(0), np.float32(1), np.float32(2)


@once
def attend() -> Any:
    """The compiled function; its argument is the address of 17 whole numbers.

    These are: the address of a number in which threads count what they took; those of the query
    (bf16), of a layer's keys and values `[Hkv, blocks, 16, D]` (bf16), of the block table `[R, N]`,
    of the first and the last position that each request sees `[R]`, of the scale (fp32), and of the
    output `[R, Hq, D]` (bf16); R; how many bytes apart requests and heads of the query are; N; the
    blocks of the pool; Hkv, G and D.
    """

    @cfunc(types.void(types.CPointer(types.int64)))  # type: ignore[untyped-decorator]
    def work(arguments: Any) -> None:
        query, keys, values, table = arguments[1], arguments[2], arguments[3], arguments[4]
        firsts, lasts = numbers_at(arguments[5]), numbers_at(arguments[6])
        scale, out = floats_at(arguments[7])[0] * _LOG2_E, arguments[8]
        num_requests, request_bytes, head_bytes = arguments[9], arguments[10], arguments[11]
        table_width, num_blocks = arguments[12], arguments[13]
        num_kv_heads, num_heads, dim = arguments[14], arguments[15], arguments[16]
        scratch = np.empty(_scratch_bytes(num_heads, dim), np.uint8)
        pool_bytes = num_blocks * BLOCK_SIZE * dim * 2
        out_bytes = num_heads * dim * 2
        while True:
            item = fetch_add(arguments[0], 1)
            if item >= num_requests * num_kv_heads:
                break
            # The longest come last in the table: taken last, one would be waited for.
            request = num_requests - 1 - item // num_kv_heads
            kv_head = item % num_kv_heads
            _attend_one(
                query + request * request_bytes + kv_head * num_heads * head_bytes,
                head_bytes,
                num_heads,
                dim,
                keys + kv_head * pool_bytes,
                values + kv_head * pool_bytes,
                numbers_at(table + 8 * request * table_width),
                firsts[request],
                lasts[request],
                scale,
                scratch,
                out + (request * num_kv_heads + kv_head) * out_bytes,
            )

    return work


@njit(error_model="numpy")  # type: ignore[untyped-decorator]
def _scratch_bytes(num_heads: int, dim: int) -> int:
    """For each head: scores, weights, what it mixed, the largest score, the sum of the weights."""
    return num_heads * (_SCORES_BYTES + _WEIGHTS_BYTES + dim * 4 + 4 + 4)


@njit(error_model="numpy")  # type: ignore[untyped-decorator]
def _attend_one(
    query: int,
    head_bytes: int,
    num_heads: int,
    dim: int,
    keys: int,
    values: int,
    ids: Any,
    first: int,
    last: int,
    scale: Any,
    scratch: Any,
    out: int,
) -> None:
    """The query heads of one key-value head of one request."""
    scores = scratch.ctypes.data
    weights = scores + num_heads * _SCORES_BYTES
    mixed = weights + num_heads * _WEIGHTS_BYTES
    largest = floats_at(mixed + num_heads * dim * 4)
    totals = floats_at(mixed + num_heads * (dim * 4 + 4))
    fill(mixed, num_heads * dim // WIDTH, _ZERO)
    for head in range(num_heads):
        largest[head], totals[head] = _LEAST, _ZERO
    block_bytes = BLOCK_SIZE * dim * 2
    end = last // BLOCK_SIZE + 1
    for start in range(first // BLOCK_SIZE, end, BLOCKS_AT_ONCE):
        count = min(BLOCKS_AT_ONCE, end - start)
        fill(scores, num_heads * _NUM_KEYS // WIDTH, _ZERO)
        for index in range(count):
            soon = min(start + index + BLOCKS_AHEAD, end - 1)
            prefetch(keys + ids[soon] * block_bytes, block_bytes)
            prefetch(values + ids[start + index] * block_bytes, block_bytes)
            own_keys, own = keys + ids[start + index] * block_bytes, scores + index * VECTOR_BYTES
            score_block(query, head_bytes, num_heads, own_keys, dim, own, _SCORES_BYTES)
        for head in range(num_heads):
            own = scores + head * _SCORES_BYTES
            _hide(floats_at(own), first - start * BLOCK_SIZE, last + 1 - start * BLOCK_SIZE, count)
            score = scale * largest_of(own, count)
            if score > largest[head]:
                shrink = _TWO ** (largest[head] - score)
                largest[head] = score
                totals[head] *= shrink
                multiply(mixed + head * dim * 4, dim // WIDTH, shrink)
            own_weights = weights + head * _WEIGHTS_BYTES
            totals[head] += weigh(own, count, scale, largest[head], own_weights)
        for index in range(count):
            own_values, own = (
                values + ids[start + index] * block_bytes,
                weights + index * BLOCK_SIZE * 2,
            )
            mix_block(own, _WEIGHTS_BYTES, num_heads, own_values, dim, mixed)
    for head in range(num_heads):
        multiply(mixed + head * dim * 4, dim // WIDTH, _ONE / totals[head])
    round_to(mixed, num_heads * dim // WIDTH, out)


@njit(error_model="numpy")  # type: ignore[untyped-decorator]
def _hide(scores: Any, first: int, end: int, num_blocks: int) -> None:
    """Takes the keys before the first and from the end on out of the softmax."""
    for key in range(first):
        scores[key] = -np.inf
    for key in range(end, num_blocks * BLOCK_SIZE):
        scores[key] = -np.inf
