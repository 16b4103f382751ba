"""Attention over the block pool, in PyTorch operations that every device has.

transformers calls `paged_attention` once a layer with the packed tokens of many requests. What a
step needs to know (where to write, whom to attend to) travels as one keyword of the model call, a
`StepAttention`. Requests that compute one token are attended to together, in groups of similar
length; longer chunks one by one.

Shapes: T tokens of a step, R requests of a group, L keys, Hq query heads, Hkv key-value heads,
G = Hq / Hkv, D width of a head. Position p may attend to keys 0..p.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from martlet.engine.kv_cache import KVCache

ATTENTION_NAME = "martlet_paged"
"""The name under which transformers knows `paged_attention`."""
MAX_NUM_SCORES = 2**25
"""Scores that are written out at once: in bf16, 64 MiB for each of a few copies."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reach:
    """How far back a layer looks."""

    window: int | None = None
    """Keys at most this far back, the token itself counted."""
    chunk: int | None = None
    """Only keys in the same stretch of this many positions (Llama 4)."""

    def allows(self, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        """Which keys a query sees: a mask of the broadcast shape, True where it does."""
        allowed = key_positions <= query_positions
        if self.window is not None:
            allowed &= key_positions > query_positions - self.window
        if self.chunk is not None:
            allowed &= key_positions // self.chunk == query_positions // self.chunk
        return allowed

    def limits(self, end: int) -> bool:
        """Whether a sequence of `end` tokens notices the limit at all."""
        return any(limit is not None and limit < end for limit in (self.window, self.chunk))


@dataclass(frozen=True, kw_only=True)
class DecodeGroup:
    """Requests of similar length that compute one token each."""

    rows: slice
    """Their rows among the packed tokens."""
    block_ids: Tensor
    """`[R, N]`, padded with a block of the same request."""
    positions: Tensor
    """`[R]`, of the tokens being computed."""
    masks: dict[Reach, Tensor] = field(default_factory=dict)
    """Additive masks `[1, R, 1, L]`, made once a step for all layers of a kind."""

    def mask(self, reach: Reach, num_keys: int, dtype: torch.dtype) -> Tensor:
        """`[1, R, 1, L]`: zero where a request sees a key, minus infinity elsewhere."""
        if reach not in self.masks:
            keys = torch.arange(num_keys, device=self.positions.device)
            allowed = reach.allows(self.positions[:, None], keys[None, :])
            mask = torch.zeros(allowed.shape, dtype=dtype, device=keys.device)
            self.masks[reach] = mask.masked_fill_(~allowed, float("-inf"))[None, :, None, :]
        return self.masks[reach]


@dataclass(frozen=True, kw_only=True)
class PrefillChunk:
    """Several consecutive tokens of one request."""

    rows: slice
    start: int
    """Position of the first token."""
    block_ids: Tensor
    """`[1, N]`."""
    masks: dict[Reach, Tensor] = field(default_factory=dict)
    """Masks `[T, L]`, True where a token sees a key."""

    @property
    def end(self) -> int:
        return self.start + int(self.rows.stop - self.rows.start)

    def mask(self, reach: Reach) -> Tensor:
        """`[T, L]`: True where a token sees a key."""
        if reach not in self.masks:
            keys = torch.arange(self.end, device=self.block_ids.device)
            self.masks[reach] = reach.allows(keys[self.start :, None], keys[None, :])
        return self.masks[reach]


@dataclass(frozen=True, kw_only=True)
class StepAttention:
    """What the attention of one step needs to know; the same for every layer."""

    cache: KVCache
    slots: Tensor
    """`[T]`, where each token's keys and values go."""
    decode_groups: Sequence[DecodeGroup]
    prefill_chunks: Sequence[PrefillChunk]
    chunked_layers: frozenset[int] = frozenset()
    """Layers that attend within stretches of `chunk_size` positions."""
    chunk_size: int | None = None


def paged_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001 -- always None; part of transformers' signature
    *,
    martlet_step: StepAttention,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """Writes the step's keys and values to the pool and attends to each request's own.

    The signature is that of transformers' `AttentionInterface`; rotary embedding is applied,
    keys and values are not repeated.

    Args:
        query: `[1, Hq, T, Dk]`.
        key: `[1, Hkv, T, Dk]`.
        value: `[1, Hkv, T, Dv]`.
        softcap: Bounds the scores by `softcap * tanh(scores / softcap)` (Gemma 2).
        s_aux: `[Hq]`, a learnt score that takes part in the softmax and has no value (gpt-oss).

    Returns:
        `[1, T, Hq, Dv]`, and None for the weights.
    """
    layer = _layer_index(module)
    step = martlet_step
    step.cache.write(layer, key[0], value[0], step.slots)
    head = _Head(
        scaling=query.shape[-1] ** -0.5 if scaling is None else scaling,
        reach=Reach(
            window=sliding_window,
            chunk=step.chunk_size if layer in step.chunked_layers else None,
        ),
        softcap=softcap,
        sinks=s_aux,
    )
    out = query.new_empty(query.shape[2], query.shape[1], value.shape[-1])  # [T, Hq, Dv]
    for group in step.decode_groups:
        keys, values = step.cache.gather(layer, group.block_ids)
        out[group.rows] = _decode(query[0, :, group.rows], keys, values, group, head)
    for chunk in step.prefill_chunks:
        keys, values = _chunk_keys(layer, key[0], value[0], chunk, step.cache)
        out[chunk.rows] = _prefill(query[0, :, chunk.rows], keys, values, chunk, head)
    return out[None], None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Head:
    """What one layer's attention does besides the softmax of products."""

    scaling: float
    reach: Reach
    softcap: float | None
    sinks: Tensor | None


def _layer_index(module: nn.Module) -> int:
    index = module.layer_idx
    assert isinstance(index, int), "the load-time guard refuses models without layer_idx"
    return int(index)


def _decode(query: Tensor, keys: Tensor, values: Tensor, group: DecodeGroup, head: _Head) -> Tensor:
    """One token a request: query `[Hq, R, Dk]`, keys `[Hkv, R, L, Dk]` -> `[R, Hq, Dv]`."""
    num_kv_heads, num_requests, num_keys, _ = keys.shape
    grouped = query.unflatten(0, (num_kv_heads, -1)).transpose(1, 2)  # [Hkv, R, G, Dk]
    # A copy is needed to fold heads and requests into one axis; scaling makes it for free.
    grouped = (grouped * head.scaling).flatten(0, 1)  # [Hkv * R, G, Dk]
    scores = torch.bmm(grouped, keys.flatten(0, 1).transpose(1, 2))  # [Hkv * R, G, L]
    scores = scores.view(num_kv_heads, num_requests, -1, num_keys)
    weights = _weights(scores, group.mask(head.reach, num_keys, scores.dtype), head)
    mixed = torch.bmm(weights.flatten(0, 1), values.flatten(0, 1))  # [Hkv * R, G, Dv]
    mixed = mixed.view(num_kv_heads, num_requests, -1, values.shape[-1])
    return mixed.transpose(0, 1).flatten(1, 2)  # [R, Hq, Dv]


def _weights(scores: Tensor, mask: Tensor, head: _Head) -> Tensor:
    """Softmax of `[Hkv, R, G, L]` scores; a prefill chunk has R = 1 and G * T rows for G."""
    if head.softcap is not None:
        scores = torch.tanh(scores / head.softcap) * head.softcap
    scores = scores + mask
    if head.sinks is None:
        return torch.softmax(scores, dim=-1)
    sinks = head.sinks.to(scores.dtype).view(scores.shape[0], 1, -1, 1)  # [Hkv, 1, G, 1]
    num_rows = scores.shape[2] // sinks.shape[2]
    sinks = sinks.repeat_interleave(num_rows, dim=2).expand(*scores.shape[:3], 1)
    return torch.softmax(torch.cat((scores, sinks), dim=-1), dim=-1)[..., :-1]


def _chunk_keys(
    layer: int, key: Tensor, value: Tensor, chunk: PrefillChunk, cache: KVCache
) -> tuple[Tensor, Tensor]:
    """Keys `[Hkv, L, Dk]` and values `[Hkv, L, Dv]` from position 0 to the chunk's end."""
    if chunk.start == 0:
        return key[:, chunk.rows], value[:, chunk.rows]
    keys, values = cache.gather(layer, chunk.block_ids)
    return keys[:, 0, : chunk.end], values[:, 0, : chunk.end]


def _prefill(
    query: Tensor, keys: Tensor, values: Tensor, chunk: PrefillChunk, head: _Head
) -> Tensor:
    """Several tokens of a request: query `[Hq, T, Dk]`, keys `[Hkv, L, Dk]` -> `[T, Hq, Dv]`."""
    if head.softcap is not None or head.sinks is not None:
        return _prefill_plain(query, keys, values, chunk, head)
    num_groups = query.shape[0] // keys.shape[0]
    keys = keys.repeat_interleave(num_groups, dim=0)  # [Hq, L, Dk]
    values = values.repeat_interleave(num_groups, dim=0)  # [Hq, L, Dv]
    is_plain = chunk.start == 0 and not head.reach.limits(chunk.end)
    mixed = F.scaled_dot_product_attention(
        query[None],
        keys[None],
        values[None],
        attn_mask=None if is_plain else chunk.mask(head.reach),
        is_causal=is_plain,
        scale=head.scaling,
    )
    return mixed[0].transpose(0, 1)  # [T, Hq, Dv]


def _prefill_plain(
    query: Tensor, keys: Tensor, values: Tensor, chunk: PrefillChunk, head: _Head
) -> Tensor:
    """`_prefill` written out, a few tokens at a time, for what the fused kernel does not know."""
    num_heads, num_tokens, _ = query.shape
    num_at_once = max(1, MAX_NUM_SCORES // (num_heads * keys.shape[1]))
    mask = chunk.mask(head.reach)
    parts = [
        _attend_plain(query[:, rows], keys, values, mask[rows], head)
        for first in range(0, num_tokens, num_at_once)
        for rows in [slice(first, first + num_at_once)]
    ]
    return torch.cat(parts)


def _attend_plain(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, head: _Head) -> Tensor:
    """Query `[Hq, T, Dk]`, keys `[Hkv, L, Dk]`, mask `[T, L]` -> `[T, Hq, Dv]`."""
    num_kv_heads, num_tokens = keys.shape[0], query.shape[1]
    num_groups = query.shape[0] // num_kv_heads
    grouped = query.unflatten(0, (num_kv_heads, -1)).flatten(1, 2)  # [Hkv, G * T, Dk]
    scores = torch.bmm(grouped * head.scaling, keys.transpose(1, 2))[:, None]  # [Hkv, 1, G * T, L]
    added = scores.new_zeros(mask.shape).masked_fill_(~mask, float("-inf")).repeat(num_groups, 1)
    weights = _weights(scores, added[None, None], head)[:, 0]
    mixed = torch.bmm(weights, values).unflatten(1, (num_groups, num_tokens))  # [Hkv, G, T, Dv]
    out: Tensor = mixed.flatten(0, 1).transpose(0, 1)
    return out
