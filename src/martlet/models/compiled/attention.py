"""The attention of a step, compiled for CPUs that multiply whole numbers in pairs or fours.

It reads the blocks of the pool (`number_block`) where they lie, as many as a token sees, and keeps
its sums in fp32 below a running maximum (Milakov and Gimelshein, arXiv:1805.02867). A tile is a few
consecutive tokens of a request. With the query heads of a key-value head, it goes through the keys
together, so that each key is loaded once for some of these rows.

Shapes: T tokens of the step, R requests, N blocks in a row of the table, Hq query heads,
Hkv key-value heads, G = Hq / Hkv, D width of a head.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numba import njit

from martlet.models.compiled.blocks import (
    BLOCKS_AT_ONCE,
    ID_BYTES,
    MIXED,
    MOST_BLOCKS,
    MOST_KEYS,
    fill,
    largest_of,
    multiply,
)
from martlet.models.compiled.number_block import (
    BLOCK_SIZE,
    BYTES,
    LANE_BYTES,
    SCALES_BYTES,
    WORDS,
    Numbers,
    numbers,
)
from martlet.models.compiled.number_blocks import (
    HEADER_BYTES,
    SCALE,
    gather_scales,
    loops,
)
from martlet.models.compiled.threads import version
from martlet.models.compiled.vectors import (
    VECTOR_BYTES,
    WIDTH,
    compiled,
    fetch_add,
    floats_at,
    numbers_at,
    of_kind,
    prefetch,
    round_to,
)

BLOCKS_AHEAD = 4
"""How far ahead blocks are asked for; the CPU cannot foresee where the table leads."""
BYTES_AHEAD = 256
"""How much of their keys: enough for the CPU to foresee the rest. Asked for all of them, it has no
room left to foresee anything."""
_SCORES_BYTES = MOST_KEYS * 4
_WEIGHTS_BYTES = HEADER_BYTES + MOST_KEYS * 2
_LOG2_E = np.float32(1.4426950408889634)
_LEAST = np.float32(-1e30)
_ZERO, _ONE, _TWO = np.float32(0), np.float32(1), np.float32(2)


@cache
def attend(*, is_rounded: bool) -> Any:
    """The compiled function.

    Its argument is the address of 18 whole numbers: the address of a number in which threads count
    what they took; of the step, the addresses of the block table `[R, N]`, of the tiles (for each
    its first token, how many it has, and the row of the table), and of the first and the last
    position that each token sees `[T]`, the number of tiles, how many tokens the largest has, and
    N; of the layer, the addresses of the query (fp32), of the pool and of its scales, of the scale
    of scores (fp32) and of the output `[T, Hq, D]` (bf16), how many bytes apart tokens and heads of
    the query are, Hkv, G and D.
    """
    sources, number_bytes = version(), numbers(is_rounded=is_rounded).num_bytes

    @compiled
    @of_kind(numbers(is_rounded=is_rounded).name)
    def work(arguments: Any) -> None:
        _ = sources
        table, tiles, firsts, lasts = arguments[1], arguments[2], arguments[3], arguments[4]
        num_tiles, max_num_tokens, table_width = arguments[5], arguments[6], arguments[7]
        query, pool, scales = arguments[8], arguments[9], arguments[10]
        scale, out = floats_at(arguments[11])[0] * _LOG2_E, arguments[12]
        token_bytes, head_bytes = arguments[13], arguments[14]
        num_kv_heads, num_heads, dim = arguments[15], arguments[16], arguments[17]
        pool_head_bytes = 2 * BLOCK_SIZE * dim * number_bytes
        num_rows = max_num_tokens * num_heads
        scratch_bytes = num_rows * _row_bytes(dim, number_bytes) + MOST_KEYS * 4 + VECTOR_BYTES
        scratch = np.empty(scratch_bytes, np.uint8)
        while True:
            item = fetch_add(arguments[0], 1)
            if item >= num_tiles * num_kv_heads:
                break
            # What sees most comes last: taken last, one would be waited for.
            kv_head = item % num_kv_heads
            tile = numbers_at(tiles + 24 * (num_tiles - 1 - item // num_kv_heads))
            token = tile[0]
            arguments_of_tile = (
                query + token * token_bytes + kv_head * num_heads * head_bytes,
                token_bytes,
                head_bytes,
                tile[1],
                num_heads,
                dim,
                pool + kv_head * pool_head_bytes,
                num_kv_heads * pool_head_bytes,
                scales + kv_head * 2 * SCALES_BYTES,
                num_kv_heads * 2 * SCALES_BYTES,
                table + ID_BYTES * tile[2] * table_width,
                numbers_at(firsts + 8 * token),
                numbers_at(lasts + 8 * token),
                scale,
                scratch,
                out + (token * num_kv_heads + kv_head) * num_heads * dim * 2,
                num_kv_heads * num_heads * dim * 2,
            )
            if is_rounded:
                _attend_to_bytes(*arguments_of_tile)
            else:
                _attend_to_words(*arguments_of_tile)

    return work


@njit  # type: ignore[untyped-decorator]
def _row_bytes(dim: int, number_bytes: int) -> int:
    """For a row: scores, weights, query, what it mixed, the largest score, all weights."""
    query_bytes = HEADER_BYTES + dim * number_bytes
    num_bytes: int = _SCORES_BYTES + _WEIGHTS_BYTES + query_bytes + dim * 4 + 4 + 4
    return num_bytes


def _tile_by(kind: Numbers) -> Callable[..., None]:
    number_bytes = kind.num_bytes
    write_query, score, weigh, mix = loops(kind)

    @njit(error_model="numpy")  # type: ignore[untyped-decorator]
    @of_kind(kind.name)
    def attend_tile(
        query: int,
        token_bytes: int,
        head_bytes: int,
        num_tokens: int,
        num_heads: int,
        dim: int,
        keys: int,
        block_bytes: int,
        scales: int,
        scales_bytes: int,
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
        mixed, mixed_bytes = scores + num_rows * _SCORES_BYTES, dim * 4
        weights = mixed + num_rows * mixed_bytes
        rows, row_bytes = weights + num_rows * _WEIGHTS_BYTES, HEADER_BYTES + dim * number_bytes
        largest = floats_at(rows + num_rows * row_bytes)
        totals = floats_at(rows + num_rows * (row_bytes + 4))
        own_scales = rows + num_rows * (row_bytes + 8)
        values = keys + BLOCK_SIZE * dim * number_bytes
        fill(mixed, num_rows * mixed_bytes // VECTOR_BYTES, _ZERO)
        for row in range(num_rows):
            largest[row], totals[row] = _LEAST, _ZERO
            place = query + row // num_heads * token_bytes + row % num_heads * head_bytes
            write_query(place, dim, rows + row * row_bytes)
        end_key = lasts[num_tokens - 1] + 1
        end = (end_key - 1) // BLOCK_SIZE + 1
        for start in range(firsts[0] // BLOCK_SIZE, end, MOST_BLOCKS):
            count, table = min(MOST_BLOCKS, end - start), ids + start * ID_BYTES
            for index in range(start, start + count):
                prefetch(scales + numbers_at(ids)[index] * scales_bytes, 2 * SCALES_BYTES)
            for first in range(0, count, BLOCKS_AT_ONCE):
                size = min(BLOCKS_AT_ONCE, count - first)
                ahead = start + first + BLOCKS_AHEAD
                for index in range(ahead, min(ahead + size, end)):
                    prefetch(keys + numbers_at(ids)[index] * block_bytes, BYTES_AHEAD)
                own, own_ids = scores + first * VECTOR_BYTES, table + first * ID_BYTES
                blocks = keys, own_ids, size, block_bytes, scales, scales_bytes
                score(rows, row_bytes, num_rows, blocks, dim, own, _SCORES_BYTES)
            first_key = start * BLOCK_SIZE
            blocks = values, table, count, block_bytes, scales + SCALES_BYTES, scales_bytes
            gather_scales(blocks, firsts[0] - first_key, end_key - first_key, own_scales)
            for row in range(num_rows):
                own, token = scores + row * _SCORES_BYTES, row // num_heads
                first_seen = firsts[token] - first_key
                end_seen = min(lasts[token] + 1 - first_key, count * BLOCK_SIZE)
                _hide(floats_at(own), first_seen, end_seen, count)
                own_scale = scale * floats_at(rows + row * row_bytes)[SCALE]
                best = own_scale * largest_of(own, count)
                if best < _LEAST:  # Of these it sees none.
                    best = largest[row]
                if best > largest[row]:
                    shrink = _TWO ** (largest[row] - best)
                    largest[row] = best
                    totals[row] *= shrink
                    multiply(mixed + row * mixed_bytes, dim // WIDTH, shrink)
                shrink = _TWO ** (best - largest[row])
                own_weights = weights + row * _WEIGHTS_BYTES
                weigh_by = own_scale, best, own_scales, own_weights, shrink
                totals[row] += shrink * weigh(own, count, *weigh_by)
            for column in range(0, dim, MIXED):
                some, own = values + column * LANE_BYTES, mixed + column * 4
                blocks = some, table, count, block_bytes, scales + SCALES_BYTES, scales_bytes
                mix(weights, _WEIGHTS_BYTES, num_rows, blocks, dim, own, mixed_bytes)
        for row in range(num_rows):
            multiply(mixed + row * mixed_bytes, dim // WIDTH, _ONE / totals[row])
            place = out + row // num_heads * out_bytes + row % num_heads * dim * 2
            round_to(mixed + row * mixed_bytes, dim // WIDTH, place)

    function: Callable[..., None] = attend_tile
    return function


@njit  # type: ignore[untyped-decorator]
def _hide(scores: Any, first: int, end: int, num_blocks: int) -> None:
    """Takes the keys before the first and from the end on out of the softmax."""
    num_keys = num_blocks * BLOCK_SIZE
    for key in range(min(first, num_keys)):
        scores[key] = -np.inf
    for key in range(max(end, 0), num_keys):
        scores[key] = -np.inf


_attend_to_words, _attend_to_bytes = (_tile_by(kind) for kind in (WORDS, BYTES))
