"""Attention over the block pool as Triton kernels, for CUDA devices and Triton's interpreter.

A step's attention is a list of work items (`engine/cuda/work`): some tokens, some of the keys that
they see. The query heads of a key-value head are folded into the rows of an item, so that a key is
read once for all of them. Where the keys of a token are split over items, each leaves its part of
the softmax, and `merge_parts` makes one of them (Milakov and Gimelshein, arXiv:1805.02867; the
same identity lets samples of one prompt read its keys together, as in Juravsky et al.,
arXiv:2402.05099).

Shapes: T tokens of a step, P parts, Hq query heads, Hkv key-value heads, G = Hq / Hkv, Dk and Dv
widths of a head, S slots of the pool (blocks times tokens a block).
"""

import triton
import triton.language as tl

from martlet.engine.cuda.e4m3 import HALF_BIAS, from_e4m3, to_e4m3

LOG2_E = tl.constexpr(1.4426950408889634)
ITEM_FIELDS = tl.constexpr(6)
WHOLE = tl.constexpr(-1)
"""In place of an item's ordinal: it has all keys of its tokens, and nothing is to be merged."""


@triton.jit
def write_slots(
    key,  # [Hkv, T, Dk], strided
    value,  # [Hkv, T, Dv], strided
    key_pool,  # [Hkv, S, Dk]
    value_pool,  # [Hkv, S, Dv]
    key_scales,  # [Hkv, S], or anything where IN_FP8 is false
    value_scales,  # as `key_scales`
    slots,  # [T]; negative for rows that are no tokens
    num_slots,
    key_head_stride,
    key_row_stride,
    value_head_stride,
    value_row_stride,
    KEY_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    KEY_WIDTH: tl.constexpr,
    VALUE_WIDTH: tl.constexpr,
    IN_FP8: tl.constexpr,
):
    """Stores one token's key and value of one head; a program for each of `(T, Hkv)`."""
    row, head = tl.program_id(0), tl.program_id(1)
    slot = tl.load(slots + row)
    if slot < 0:
        return
    place = tl.cast(head, tl.int64) * num_slots + slot
    columns = tl.arange(0, KEY_WIDTH)
    is_column = columns < KEY_DIM
    source = key + head * key_head_stride + row * key_row_stride + columns
    read = tl.load(source, mask=is_column, other=0.0)
    if IN_FP8:
        read, scale = to_e4m3(read)
        tl.store(key_scales + place, scale)
    tl.store(key_pool + place * KEY_DIM + columns, read, mask=is_column)
    columns = tl.arange(0, VALUE_WIDTH)
    is_column = columns < VALUE_DIM
    source = value + head * value_head_stride + row * value_row_stride + columns
    read = tl.load(source, mask=is_column, other=0.0)
    if IN_FP8:
        read, scale = to_e4m3(read)
        tl.store(value_scales + place, scale)
    tl.store(value_pool + place * VALUE_DIM + columns, read, mask=is_column)


@triton.jit
def attend(
    query,  # [Hq, T, Dk], strided
    key_pool,  # [Hkv, S, Dk]
    value_pool,  # [Hkv, S, Dv]
    key_scales,  # [Hkv, S], or anything where IN_FP8 is false
    value_scales,  # as `key_scales`
    sinks,  # [Hq], or anything where HAS_SINKS is false
    items,  # [items, ITEM_FIELDS]
    positions,  # [T]
    block_ids,  # block tables one behind the other
    first_parts,  # [T]
    out,  # [T, Hq, Dv]
    part_out,  # [P, Hq, Dv] in fp32
    part_scale,  # [P, Hq] in fp32
    scaling,
    softcap,
    num_slots,
    query_head_stride,
    query_row_stride,
    NUM_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    KEY_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    KEY_WIDTH: tl.constexpr,
    VALUE_WIDTH: tl.constexpr,
    WINDOW: tl.constexpr,  # 0 for none
    CHUNK: tl.constexpr,  # 0 for none
    HAS_SOFTCAP: tl.constexpr,
    HAS_SINKS: tl.constexpr,
    IN_FP8: tl.constexpr,
    NUM_ROWS: tl.constexpr,
    NUM_KEYS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One work item for one key-value head; a program for each of `(items, Hkv)`."""
    item = items + tl.program_id(0) * ITEM_FIELDS
    num_tokens = tl.load(item + 1)
    if num_tokens == 0:
        return
    head = tl.cast(tl.program_id(1), tl.int64)
    table = block_ids + tl.load(item + 2)
    ordinal = tl.load(item + 5)

    rows = tl.arange(0, NUM_ROWS)  # token by token, its heads next to each other
    is_row = rows < num_tokens * GROUP
    token = tl.load(item) + rows // GROUP
    query_head = head * GROUP + rows % GROUP
    key_columns, value_columns = tl.arange(0, KEY_WIDTH), tl.arange(0, VALUE_WIDTH)
    is_key_column, is_value_column = key_columns < KEY_DIM, value_columns < VALUE_DIM
    row_starts = query_head * query_head_stride + token * query_row_stride
    queries = tl.load(
        query + row_starts[:, None] + key_columns[None, :],
        mask=is_row[:, None] & is_key_column[None, :],
        other=0.0,
    )

    # Rows beyond the tokens repeat the first position, so that they move no bound.
    first_token = tl.load(positions + tl.load(item))
    position = tl.load(positions + token, mask=is_row, other=0)
    position = tl.where(is_row, position, first_token)
    first_key, end_key = _key_range(item, position, WINDOW, CHUNK)

    # The softmax so far, in powers of two: its largest score, sum, and weighted values.
    largest = tl.full([NUM_ROWS], float("-inf"), tl.float32)
    total = tl.zeros([NUM_ROWS], tl.float32)
    mixed = tl.zeros([NUM_ROWS, VALUE_WIDTH], tl.float32)
    for start in range(first_key, end_key, NUM_KEYS):
        key_position = start + tl.arange(0, NUM_KEYS)
        is_key = key_position < end_key
        block = tl.load(table + key_position // BLOCK_SIZE, mask=is_key, other=0)
        slot = head * num_slots + block * BLOCK_SIZE + key_position % BLOCK_SIZE
        keys = tl.load(
            key_pool + slot[None, :] * KEY_DIM + key_columns[:, None],
            mask=is_key[None, :] & is_key_column[:, None],
            other=0,
        )
        if IN_FP8:
            keys = from_e4m3(keys).to(queries.dtype)
        scores = tl.dot(queries, keys, input_precision=PRECISION) * scaling
        if IN_FP8:
            scores *= HALF_BIAS * tl.load(key_scales + slot, mask=is_key, other=0.0)[None, :]
        if HAS_SOFTCAP:
            scores = softcap * (2 * tl.sigmoid(2 * scores / softcap) - 1)  # tanh
        is_seen = is_key[None, :] & _sees(position[:, None], key_position[None, :], WINDOW, CHUNK)
        scores = tl.where(is_seen, scores * LOG2_E, float("-inf"))
        new_largest = tl.maximum(largest, tl.max(scores, axis=1))
        # A row that has seen nothing yet would subtract infinity from infinity.
        pivot = tl.where(new_largest == float("-inf"), 0.0, new_largest)
        weights = tl.exp2(scores - pivot[:, None])
        shrink = tl.exp2(largest - pivot)
        values = tl.load(
            value_pool + slot[:, None] * VALUE_DIM + value_columns[None, :],
            mask=is_key[:, None] & is_value_column[None, :],
            other=0,
        )
        total = total * shrink + tl.sum(weights, axis=1)
        if IN_FP8:
            values = from_e4m3(values).to(queries.dtype)
            weights *= HALF_BIAS * tl.load(value_scales + slot, mask=is_key, other=0.0)[None, :]
        mixed = mixed * shrink[:, None]
        mixed += tl.dot(weights.to(values.dtype), values, input_precision=PRECISION)
        largest = new_largest

    is_out = is_row[:, None] & is_value_column[None, :]
    if ordinal == WHOLE:
        if HAS_SINKS:
            sink = tl.load(sinks + query_head, mask=is_row, other=0.0).to(tl.float32) * LOG2_E
            pivot = tl.maximum(largest, sink)
            shrink = tl.exp2(largest - pivot)
            total = total * shrink + tl.exp2(sink - pivot)
            mixed = mixed * shrink[:, None]
        place = token * NUM_HEADS + query_head
        tl.store(
            out + place[:, None] * VALUE_DIM + value_columns[None, :],
            (mixed / total[:, None]).to(out.dtype.element_ty),
            mask=is_out,
        )
    else:
        part = tl.load(first_parts + token, mask=is_row, other=0) + ordinal
        place = part * NUM_HEADS + query_head
        is_empty = total == 0
        total = tl.where(is_empty, 1.0, total)
        tl.store(
            part_out + place[:, None] * VALUE_DIM + value_columns[None, :],
            mixed / total[:, None],
            mask=is_out,
        )
        scale = tl.where(is_empty, float("-inf"), largest + tl.log2(total))
        tl.store(part_scale + place, scale, mask=is_row)


@triton.jit
def _key_range(item, position, WINDOW: tl.constexpr, CHUNK: tl.constexpr):
    """The keys of an item that any of its tokens sees: the first, and the one behind the last."""
    first_key, end_key = tl.load(item + 3), tl.load(item + 4)
    if WINDOW:
        first_key = tl.maximum(first_key, tl.min(position) - WINDOW + 1)
    if CHUNK:
        first_key = tl.maximum(first_key, tl.min(position) // CHUNK * CHUNK)
    return first_key, tl.minimum(end_key, tl.max(position) + 1)


@triton.jit
def _sees(position, key_position, WINDOW: tl.constexpr, CHUNK: tl.constexpr):
    """Whether a token at a position sees a key."""
    is_seen = key_position <= position
    if WINDOW:
        is_seen &= key_position > position - WINDOW
    if CHUNK:
        is_seen &= key_position // CHUNK == position // CHUNK
    return is_seen


@triton.jit
def merge_parts(
    part_out,  # [P, Hq, Dv] in fp32
    part_scale,  # [P, Hq] in fp32, logarithms to base two
    sinks,  # [Hq], or anything where HAS_SINKS is false
    first_parts,  # [T]
    num_parts,  # [T]; 1 where there is nothing to merge, 0 for rows that are no tokens
    out,  # [T, Hq, Dv]
    NUM_HEADS: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    VALUE_WIDTH: tl.constexpr,
    HAS_SINKS: tl.constexpr,
):
    """Joins the parts of one token's softmax; a program for each of `(T, Hq)`.

    Rows that are no tokens become zero: whatever stood there may be NaN, and a mixture of experts
    routes all rows.
    """
    row, head = tl.program_id(0), tl.program_id(1)
    count = tl.load(num_parts + row)
    if count == 1:
        return
    first = tl.load(first_parts + row)
    columns = tl.arange(0, VALUE_WIDTH)
    is_column = columns < VALUE_DIM
    largest = tl.cast(float("-inf"), tl.float32)
    total = tl.cast(0.0, tl.float32)
    if HAS_SINKS:
        largest = tl.load(sinks + head).to(tl.float32) * LOG2_E
        total += 1.0
    mixed = tl.zeros([VALUE_WIDTH], tl.float32)
    for part in range(first, first + count):
        place = part * NUM_HEADS + head
        scale = tl.load(part_scale + place)
        values = tl.load(part_out + place * VALUE_DIM + columns, mask=is_column, other=0.0)
        new_largest = tl.maximum(largest, scale)
        pivot = tl.where(new_largest == float("-inf"), 0.0, new_largest)
        shrink, weight = tl.exp2(largest - pivot), tl.exp2(scale - pivot)
        mixed = mixed * shrink + weight * values
        total = total * shrink + weight
        largest = new_largest
    mixed = tl.where(count == 0, 0.0, mixed / tl.where(total == 0, 1.0, total))
    place = (tl.cast(row, tl.int64) * NUM_HEADS + head) * VALUE_DIM
    tl.store(out + place + columns, mixed.to(out.dtype.element_ty), mask=is_column)
