"""Steps of random requests, computed by both kinds of paged attention over equal pools."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from martlet.engine.attention import paged_attention
from martlet.engine.batch import BatchBuilder, PackedChunks
from martlet.engine.cuda.attention import KernelStep, kernel_attention, new_parts
from martlet.engine.cuda.batch import pack
from martlet.engine.cuda.step_buffer import StepArrays, StepBuffer
from martlet.engine.cuda.work import NUM_FIELDS, WorkShape
from martlet.engine.kv_cache import KVCache
from martlet.engine.params import SamplingParams
from martlet.engine.plan import Chunk, StepPlan
from martlet.engine.request import Request
from martlet.models.guard import LayerShape

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request of a step."""

    start: int
    num_tokens: int = 1
    shares: tuple[int, int] | None = None
    """The number of an earlier request, and how many of its first blocks this one holds too."""


def make_plan(asked: Sequence[Asked], block_size: int) -> tuple[StepPlan, int]:
    """A plan of these requests, and the blocks that it needs; they are handed out in disorder."""
    tables: list[list[int]] = []
    num_blocks = 0
    for each in asked:
        other, num_shared = each.shares or (0, 0)
        num_own = -(-(each.start + each.num_tokens) // block_size) - num_shared
        fresh = range(num_blocks, num_blocks + num_own)
        tables.append([*(tables[other][:num_shared] if num_shared else ()), *reversed(fresh)])
        num_blocks += num_own
    chunks = [
        Chunk(
            request=Request(
                request_id=str(index),
                prompt_ids=tuple(range(each.start + each.num_tokens)),
                params=SamplingParams(),
                seed=0,
                stop_ids=frozenset(),
                max_num_tokens=each.start + each.num_tokens,
            ),
            start=each.start,
            num_tokens=each.num_tokens,
            block_ids=tuple(table),
            samples=True,
            scores_prompt=False,
        )
        for index, (each, table) in enumerate(zip(asked, tables, strict=True))
    ]
    return StepPlan(chunks=tuple(chunks)), num_blocks


@dataclass(frozen=True, kw_only=True)
class Vectors:
    """Random queries, keys and values of a plan's tokens, `[H, T, D]`, in the plan's order."""

    query: Tensor
    key: Tensor
    value: Tensor


def new_cache(shape: LayerShape, num_blocks: int, block_size: int, dtype: torch.dtype) -> KVCache:
    """A pool of random numbers."""
    cache = KVCache(
        [shape], num_blocks=num_blocks, block_size=block_size, dtype=dtype, device=DEVICE
    )
    generator = torch.Generator().manual_seed(1)
    for pool in cache.pools(0):
        pool.copy_(torch.randn(pool.shape, generator=generator))
    return cache


def new_vectors(shape: LayerShape, num_tokens: int, dtype: torch.dtype) -> Vectors:
    generator = torch.Generator().manual_seed(2)

    def random(num_heads: int, dim: int) -> Tensor:
        # As projections give them: the heads of a token next to each other.
        values = torch.randn(num_tokens, num_heads, dim, generator=generator)
        return values.to(DEVICE, dtype).transpose(0, 1)

    return Vectors(
        query=random(shape.num_heads, shape.key_dim),
        key=random(shape.num_kv_heads, shape.key_dim),
        value=random(shape.num_kv_heads, shape.value_dim),
    )


def plain(
    plan: StepPlan, cache: KVCache, vectors: Vectors, how: Mapping[str, object], chunk: int | None
) -> Tensor:
    """What `engine.attention` computes, `[T, Hq, Dv]` in the plan's order."""
    builder = BatchBuilder(
        cache, DEVICE, chunked_layers=frozenset({0} if chunk else ()), chunk_size=chunk
    )
    decoding = sorted((c for c in plan.chunks if c.num_tokens == 1), key=lambda c: c.end)
    order = [*decoding, *(c for c in plan.chunks if c.num_tokens > 1)]
    step = builder.build(PackedChunks.of(plan, cache.block_size)).attention
    return _attend(paged_attention, step, _rows(plan, order), vectors, how)


def by_kernels(
    plan: StepPlan,
    cache: KVCache,
    vectors: Vectors,
    how: Mapping[str, object],
    chunk: int | None,
    shape: WorkShape,
) -> Tensor:
    """What the kernels compute, `[T, Hq, Dv]` in the plan's order."""
    packed = pack(plan, shape, cache.block_size)
    buffer = StepBuffer(packed.arrays.shapes, DEVICE)
    buffer.load(packed.arrays)
    step = _kernel_step(buffer, cache, shape, chunk)
    return _attend(kernel_attention, step, _rows(plan, packed.chunks), vectors, how)


def empty_step(cache: KVCache, layer: LayerShape, *, num_rows: int) -> Tensor:
    """What the kernels compute of rows that are no tokens, as at the end of a padded step."""
    rows = ("input_ids", "position_ids", "slots", "logit_rows", "first_parts", "num_parts")
    sizes = {**dict.fromkeys(rows, (num_rows,)), "narrow": (4, NUM_FIELDS), "wide": (2, NUM_FIELDS)}
    buffer = StepBuffer({**sizes, "block_ids": (8,)}, DEVICE)
    empty, no_items = np.empty(0, dtype=np.int64), np.empty((0, NUM_FIELDS), dtype=np.int64)
    given = dict.fromkeys((*rows, "block_ids"), empty)
    buffer.load(StepArrays(**given, narrow=no_items, wide=no_items))
    step = _kernel_step(buffer, cache, WorkShape(num_wide_tokens=4, num_items_wanted=2), None)
    vectors = new_vectors(layer, num_rows, torch.float32)
    return _attend(kernel_attention, step, torch.arange(num_rows).to(DEVICE), vectors, {})


def _kernel_step(
    buffer: StepBuffer, cache: KVCache, shape: WorkShape, chunk: int | None
) -> KernelStep:
    return KernelStep(
        cache=cache,
        slots=buffer["slots"],
        positions=buffer["position_ids"],
        block_ids=buffer["block_ids"],
        narrow=buffer["narrow"],
        wide=buffer["wide"],
        num_wide_tokens=shape.num_wide_tokens,
        first_parts=buffer["first_parts"],
        num_parts=buffer["num_parts"],
        parts=new_parts(shape.max_parts(len(buffer["slots"])), cache.layers, DEVICE),
        chunked_layers=frozenset({0} if chunk else ()),
        chunk_size=chunk,
    )


def _rows(plan: StepPlan, order: Sequence[Chunk]) -> Tensor:
    """For each row of a step, its token's place in the plan."""
    firsts, first = {}, 0
    for chunk in plan.chunks:
        firsts[chunk.request.request_id] = first
        first += chunk.num_tokens
    return torch.cat(
        [torch.arange(chunk.num_tokens) + firsts[chunk.request.request_id] for chunk in order]
    ).to(DEVICE)


def _attend(function, step, rows: Tensor, vectors: Vectors, how: Mapping[str, object]) -> Tensor:
    module = nn.Module()
    module.layer_idx = 0
    given = (each[:, rows][None] for each in (vectors.query, vectors.key, vectors.value))
    out, _ = function(module, *given, None, martlet_step=step, **how)
    by_token = torch.empty_like(out[0])
    by_token[rows] = out[0]
    return by_token
