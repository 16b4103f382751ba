"""The attention of a step, compiled for CPUs that multiply bf16 in pairs.

It reads the blocks of the pool (`panel_block`; rounded ones `byte_block`) where they lie, as many
as a token sees, and keeps its sums in fp32 below a running maximum (Milakov and Gimelshein,
arXiv:1805.02867). A tile is a few consecutive tokens of a request. With the query heads of a
key-value head, it goes through the keys together, so that each key is loaded once for some of
these rows.

Shapes: T tokens of the step, R requests, N blocks in a row of the table, Hq query heads,
Hkv key-value heads, G = Hq / Hkv, D width of a head.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numba import njit

from martlet.models.compiled.blocks import (
    BLOCK_SIZE,
    BLOCKS_AT_ONCE,
    ID_BYTES,
    MIXED,
    MOST_BLOCKS,
    MOST_KEYS,
    copy,
    fill,
    largest_of,
    mix_blocks,
    multiply,
    score_blocks,
    weigh,
)
from martlet.models.compiled.byte_block import SCALES_BYTES
from martlet.models.compiled.byte_block import bytes_of_head as bytes_of_rounded_head
from martlet.models.compiled.byte_block import bytes_of_part as bytes_of_rounded_part
from martlet.models.compiled.byte_blocks import (
    HEADER_BYTES,
    SCALE,
    largest_scale,
    mix_bytes,
    score_bytes,
    to_record,
    weigh_bytes,
)
from martlet.models.compiled.panel_block import bytes_of_part
from martlet.models.compiled.threads import version
from martlet.models.compiled.vectors import (
    PAIR_BYTES,
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
"""How much of their keys and of their values: enough for the CPU to foresee the rest. Asked for
all of them, it has no room left to foresee anything."""
_SCORES_BYTES = MOST_KEYS * 4
_WEIGHTS_BYTES = MOST_KEYS * 2
_LOG2_E = np.float32(1.4426950408889634)
_LEAST = np.float32(-1e30)
_ZERO, _ONE, _TWO = np.float32(0), np.float32(1), np.float32(2)


@cache
def attend(*, is_rounded: bool) -> Any:
    """The compiled function, of a pool in bf16, or of a rounded one.

    Its argument is the address of 17 whole numbers: the address of a number in which threads count
    what they took; of the step, the addresses of the block table `[R, N]`, of the tiles (for each
    its first token, how many it has, and the row of the table), and of the first and the last
    position that each token sees `[T]`, the number of tiles, how many tokens the largest has, and
    N; of the layer, the addresses of the query (bf16), of the pool, of the scale (fp32) and of the
    output `[T, Hq, D]` (bf16), how many bytes apart tokens and heads of the query are, Hkv, G
    and D.
    """
    sources = version()

    @compiled
    @of_kind("rounded" if is_rounded else "plain")
    def work(arguments: Any) -> None:
        _ = sources
        table, tiles, firsts, lasts = arguments[1], arguments[2], arguments[3], arguments[4]
        num_tiles, max_num_tokens, table_width = arguments[5], arguments[6], arguments[7]
        query, pool = arguments[8], arguments[9]
        scale, out = floats_at(arguments[10])[0] * _LOG2_E, arguments[11]
        token_bytes, head_bytes = arguments[12], arguments[13]
        num_kv_heads, num_heads, dim = arguments[14], arguments[15], arguments[16]
        pool_head_bytes, header_bytes = 2 * bytes_of_part(dim), 0
        if is_rounded:
            pool_head_bytes, header_bytes = bytes_of_rounded_head(dim), HEADER_BYTES
        scratch = np.empty(_scratch_bytes(max_num_tokens * num_heads, dim, header_bytes), np.uint8)
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
                table + ID_BYTES * tile[2] * table_width,
                numbers_at(firsts + 8 * token),
                numbers_at(lasts + 8 * token),
                scale,
                scratch,
                out + (token * num_kv_heads + kv_head) * num_heads * dim * 2,
                num_kv_heads * num_heads * dim * 2,
            )
            if is_rounded:
                _attend_rounded_tile(*arguments_of_tile)
            else:
                _attend_tile(*arguments_of_tile)

    return work


@njit  # type: ignore[untyped-decorator]
def _scratch_bytes(num_rows: int, dim: int, header_bytes: int) -> int:
    """For each row: scores, weights, query, what it mixed, the largest score, all weights."""
    row_bytes = _SCORES_BYTES + _WEIGHTS_BYTES + dim * 2 + dim * 4 + 4 + 4 + 2 * header_bytes
    return num_rows * row_bytes + VECTOR_BYTES


def _tile_by(*, is_rounded: bool) -> Callable[..., None]:
    header_bytes = HEADER_BYTES if is_rounded else 0
    weights_bytes, query_bytes = header_bytes + _WEIGHTS_BYTES, 1 if is_rounded else 2
    score, mix = (score_bytes, mix_bytes) if is_rounded else (score_blocks, mix_blocks)

    @njit(error_model="numpy")  # type: ignore[untyped-decorator]
    @of_kind("rounded" if is_rounded else "plain")
    def attend_tile(
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
        mixed, mixed_bytes = scores + num_rows * _SCORES_BYTES, dim * 4
        weights = mixed + num_rows * mixed_bytes
        rows, row_bytes = weights + num_rows * weights_bytes, header_bytes + dim * query_bytes
        largest = floats_at(rows + num_rows * row_bytes)
        totals = floats_at(rows + num_rows * (row_bytes + 4))
        values = keys + (bytes_of_rounded_part(dim) if is_rounded else bytes_of_part(dim))
        scales = values + bytes_of_rounded_part(dim) + SCALES_BYTES
        fill(mixed, num_rows * mixed_bytes // VECTOR_BYTES, _ZERO)
        for row in range(num_rows):
            largest[row], totals[row] = _LEAST, _ZERO
            place = query + row // num_heads * token_bytes + row % num_heads * head_bytes
            if is_rounded:
                to_record(place, dim, rows + row * row_bytes)
            else:
                copy(place, dim // (2 * WIDTH), rows + row * row_bytes)
        end = lasts[num_tokens - 1] // BLOCK_SIZE + 1
        for start in range(firsts[0] // BLOCK_SIZE, end, MOST_BLOCKS):
            count, table = min(MOST_BLOCKS, end - start), ids + start * ID_BYTES
            for first in range(0, count, BLOCKS_AT_ONCE):
                size = min(BLOCKS_AT_ONCE, count - first)
                ahead = start + first + BLOCKS_AHEAD
                for index in range(ahead, min(ahead + size, end)):
                    block = numbers_at(ids)[index] * block_bytes
                    if is_rounded:
                        prefetch(keys + block, bytes_of_rounded_head(dim))
                    else:
                        prefetch(keys + block, BYTES_AHEAD)
                        prefetch(values + block, BYTES_AHEAD)
                own, own_ids = scores + first * VECTOR_BYTES, table + first * ID_BYTES
                blocks = keys, own_ids, size, block_bytes
                score(rows, row_bytes, num_rows, *blocks, dim, own, _SCORES_BYTES)
            first_key, largest_value = start * BLOCK_SIZE, _ZERO
            for row in range(num_rows):
                own, token = scores + row * _SCORES_BYTES, row // num_heads
                own_weights, own_scale = weights + row * weights_bytes, scale
                first_seen = firsts[token] - first_key
                end_seen = min(lasts[token] + 1 - first_key, count * BLOCK_SIZE)
                _hide(floats_at(own), first_seen, end_seen, count)
                if is_rounded:
                    own_scale *= floats_at(rows + row * row_bytes)[SCALE]
                    if row % num_heads == 0:
                        seen = block_bytes, first_seen, end_seen
                        largest_value = largest_scale(scales, table, count, *seen)
                best = own_scale * largest_of(own, count)
                if best < _LEAST:  # Of these it sees none.
                    best = largest[row]
                if best > largest[row]:
                    shrink = _TWO ** (largest[row] - best)
                    largest[row] = best
                    totals[row] *= shrink
                    multiply(mixed + row * mixed_bytes, dim // WIDTH, shrink)
                if is_rounded:
                    shrink = _TWO ** (best - largest[row])
                    weights_of = own, count, own_scale, best, own_weights, shrink, largest_value
                    totals[row] += shrink * weigh_bytes(*weights_of, scales, table, block_bytes)
                else:
                    totals[row] += weigh(own, count, own_scale, largest[row], own_weights)
            for column in range(0, dim, MIXED):
                blocks = values + column * PAIR_BYTES, table, count, block_bytes
                own = mixed + column * 4
                mix(weights, weights_bytes, num_rows, *blocks, dim, own, mixed_bytes)
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


_attend_tile, _attend_rounded_tile = (_tile_by(is_rounded=each) for each in (False, True))
