"""The attention of a step, compiled for CPUs that multiply bf16 in pairs.

It reads the blocks of the pool (`panel_block`) where they lie, as many as a token sees, and keeps
its sums in fp32 below a running maximum (Milakov and Gimelshein, arXiv:1805.02867). A tile is a few
consecutive tokens of a request. With the query heads of a key-value head, it goes through the keys
together, so that each key is loaded once for some of these rows.

Shapes: T tokens of the step, R requests, N blocks in a row of the table, Hq query heads,
Hkv key-value heads, G = Hq / Hkv, D width of a head.
"""

from functools import cache
from typing import Any

import numpy as np
from numba import njit

from martlet.models.compiled.blocks import (
    BLOCK_SIZE,
    BLOCKS_AT_ONCE,
    ID_BYTES,
    MIXED,
    copy,
    fill,
    largest_of,
    mix_blocks,
    multiply,
    score_blocks,
    weigh,
)
from martlet.models.compiled.panel_block import bytes_of_block, bytes_of_part
from martlet.models.compiled.threads import version
from martlet.models.compiled.vectors import (
    PAIR_BYTES,
    VECTOR_BYTES,
    WIDTH,
    compiled,
    fetch_add,
    floats_at,
    numbers_at,
    prefetch,
    round_to,
)

MOST_BLOCKS = 32
"""Blocks that are scored before their values are mixed: their scores stay in the cache."""
BLOCKS_AHEAD = 4
"""How far ahead blocks are asked for; the CPU cannot foresee where the table leads."""
BYTES_AHEAD = 256
"""How much of their keys and of their values: enough for the CPU to foresee the rest. Asked for
all of them, it has no room left to foresee anything."""
_NUM_KEYS = BLOCK_SIZE * MOST_BLOCKS
_SCORES_BYTES = _NUM_KEYS * 4
_WEIGHTS_BYTES = _NUM_KEYS * 2
_LOG2_E = np.float32(1.4426950408889634)
_LEAST = np.float32(-1e30)
_ZERO, _ONE, _TWO = np.float32(0), np.float32(1), np.float32(2)


@cache
def attend() -> Any:
    """The compiled function; its argument is the address of 17 whole numbers.

    These are: the address of a number in which threads count what they took; of the step, the
    addresses of the block table `[R, N]`, of the tiles (for each its first token, how many it has,
    and the row of the table), and of the first and the last position that each token sees `[T]`,
    the number of tiles, how many tokens the largest has, and N; of the layer, the addresses of the
    query (bf16), of the pool, of the scale (fp32) and of the output `[T, Hq, D]` (bf16), how many
    bytes apart tokens and heads of the query are, Hkv, G and D.
    """
    sources = version()

    @compiled
    def work(arguments: Any) -> None:
        _ = sources
        table, tiles, firsts, lasts = arguments[1], arguments[2], arguments[3], arguments[4]
        num_tiles, max_num_tokens, table_width = arguments[5], arguments[6], arguments[7]
        query, pool = arguments[8], arguments[9]
        scale, out = floats_at(arguments[10])[0] * _LOG2_E, arguments[11]
        token_bytes, head_bytes = arguments[12], arguments[13]
        num_kv_heads, num_heads, dim = arguments[14], arguments[15], arguments[16]
        scratch = np.empty(_scratch_bytes(max_num_tokens * num_heads, dim), np.uint8)
        while True:
            item = fetch_add(arguments[0], 1)
            if item >= num_tiles * num_kv_heads:
                break
            # What sees most comes last: taken last, one would be waited for.
            kv_head = item % num_kv_heads
            tile = numbers_at(tiles + 24 * (num_tiles - 1 - item // num_kv_heads))
            token = tile[0]
            _attend_tile(
                query + token * token_bytes + kv_head * num_heads * head_bytes,
                token_bytes,
                head_bytes,
                tile[1],
                num_heads,
                dim,
                pool + kv_head * 2 * bytes_of_part(dim),
                bytes_of_block(num_kv_heads, dim),
                table + ID_BYTES * tile[2] * table_width,
                numbers_at(firsts + 8 * token),
                numbers_at(lasts + 8 * token),
                scale,
                scratch,
                out + (token * num_kv_heads + kv_head) * num_heads * dim * 2,
                num_kv_heads * num_heads * dim * 2,
            )

    return work


@njit  # type: ignore[untyped-decorator]
def _scratch_bytes(num_rows: int, dim: int) -> int:
    """For each row: scores, weights, query, what it mixed, the largest score, all weights."""
    row_bytes = _SCORES_BYTES + _WEIGHTS_BYTES + dim * 2 + dim * 4 + 4 + 4
    return num_rows * row_bytes + VECTOR_BYTES


@njit(error_model="numpy")  # type: ignore[untyped-decorator]
def _attend_tile(
    query: int,
    token_bytes: int,
    head_bytes: int,
    num_tokens: int,
    num_heads: int,
    dim: int,
    keys: int,
    block_bytes: int,
    ids: int,
    firsts: Any,
    lasts: Any,
    scale: Any,
    scratch: Any,
    out: int,
    out_bytes: int,
) -> None:
    """The query heads of one key-value head, for the tokens of a tile."""
    num_rows = num_tokens * num_heads
    scores = -(-scratch.ctypes.data // VECTOR_BYTES) * VECTOR_BYTES
    mixed = scores + num_rows * _SCORES_BYTES
    mixed_bytes = dim * 4
    weights = mixed + num_rows * mixed_bytes
    rows = weights + num_rows * _WEIGHTS_BYTES
    largest = floats_at(rows + num_rows * dim * 2)
    totals = floats_at(rows + num_rows * (dim * 2 + 4))
    values = keys + bytes_of_part(dim)
    fill(mixed, num_rows * mixed_bytes // VECTOR_BYTES, _ZERO)
    for row in range(num_rows):
        largest[row], totals[row] = _LEAST, _ZERO
        place = query + row // num_heads * token_bytes + row % num_heads * head_bytes
        copy(place, dim // (2 * WIDTH), rows + row * dim * 2)
    end = lasts[num_tokens - 1] // BLOCK_SIZE + 1
    for start in range(firsts[0] // BLOCK_SIZE, end, MOST_BLOCKS):
        count = min(MOST_BLOCKS, end - start)
        for first in range(start, start + count, BLOCKS_AT_ONCE):
            size = min(BLOCKS_AT_ONCE, start + count - first)
            for ahead in range(first + BLOCKS_AHEAD, min(first + BLOCKS_AHEAD + size, end)):
                block = numbers_at(ids)[ahead] * block_bytes
                prefetch(keys + block, BYTES_AHEAD)
                prefetch(values + block, BYTES_AHEAD)
            own, table = scores + (first - start) * VECTOR_BYTES, ids + first * ID_BYTES
            score_blocks(
                rows, dim * 2, num_rows, keys, table, size, block_bytes, dim, own, _SCORES_BYTES
            )
        first_key = start * BLOCK_SIZE
        for row in range(num_rows):
            own, token = scores + row * _SCORES_BYTES, row // num_heads
            _hide(floats_at(own), firsts[token] - first_key, lasts[token] + 1 - first_key, count)
            score = scale * largest_of(own, count)
            if score > largest[row]:
                shrink = _TWO ** (largest[row] - score)
                largest[row] = score
                totals[row] *= shrink
                multiply(mixed + row * mixed_bytes, dim // WIDTH, shrink)
            own_weights = weights + row * _WEIGHTS_BYTES
            totals[row] += weigh(own, count, scale, largest[row], own_weights)
        table = ids + start * ID_BYTES
        for column in range(0, dim, MIXED):
            own_values, own = values + column * PAIR_BYTES, mixed + column * 4
            mix_blocks(
                weights,
                _WEIGHTS_BYTES,
                num_rows,
                own_values,
                table,
                count,
                block_bytes,
                dim,
                own,
                mixed_bytes,
            )
    for row in range(num_rows):
        multiply(mixed + row * mixed_bytes, dim // WIDTH, _ONE / totals[row])
        place = out + row // num_heads * out_bytes + row % num_heads * dim * 2
        round_to(mixed + row * mixed_bytes, dim // WIDTH, place)


@njit  # type: ignore[untyped-decorator]
def _hide(scores: Any, first: int, end: int, num_blocks: int) -> None:
    """Takes the keys before the first and from the end on out of the softmax."""
    num_keys = num_blocks * BLOCK_SIZE
    for key in range(min(first, num_keys)):
        scores[key] = -np.inf
    for key in range(max(end, 0), num_keys):
        scores[key] = -np.inf
