"""Attention over the block pool, in PyTorch operations that every device has.

transformers calls `paged_attention` once a layer with the packed tokens of many requests. What a
step needs to know (where to write, whom to attend to) travels as one keyword of the model call, a
`StepAttention`. Requests that compute one token are attended to together, in groups of similar
length; longer chunks one by one, a tile of tokens at a time, each tile with the keys that it sees.

Shapes: T tokens of a step, R requests of a group, L keys, Hq query heads, Hkv key-value heads,
G = Hq / Hkv, D width of a head. Position p may attend to keys 0..p.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from martlet.engine.compiled_attention import Stretch, TokenTiles, attend
from martlet.engine.kv_cache import KVCache
from martlet.engine.panel_pool import PanelPool

ATTENTION_NAME = "martlet_paged"
"""The name under which transformers knows `paged_attention`."""
TILE_SIZE = 128
"""Tokens of a prompt that attend together: few enough to skip most of the keys that come after
them, and to keep their scores in the cache; enough for the products to be large."""
MAX_NUM_SCORES = 2**25
"""Scores that are written out at once: in bf16, 64 MiB for each of a few copies."""
MAX_FUSED_REQUESTS = 4
"""Decoding requests up to which one fused call is faster than four plain ones."""


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

    def first_key(self, position: int) -> int:
        """The first key that a query at a position sees; later positions see none before it."""
        by_window = 0 if self.window is None else position - self.window + 1
        by_chunk = 0 if self.chunk is None else position // self.chunk * self.chunk
        return max(by_window, by_chunk, 0)

    def first_keys(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """`first_key` of many positions."""
        firsts = np.zeros_like(positions)
        if self.window is not None:
            firsts = np.maximum(firsts, positions - self.window + 1)
        if self.chunk is not None:
            firsts = np.maximum(firsts, positions // self.chunk * self.chunk)
        return firsts


@dataclass(frozen=True)
class BlockTable:
    """The blocks of requests that are attended to together."""

    block_ids: Tensor
    """`[R, N]`, padded with a block of the same request."""
    _by_num_heads: dict[int, Tensor] = field(default_factory=dict)

    def head_blocks(self, layer: int, cache: KVCache) -> Tensor:
        """`KVCache.head_blocks`, made once a step for all layers alike."""
        num_heads = cache.layers[layer].num_kv_heads
        if num_heads not in self._by_num_heads:
            self._by_num_heads[num_heads] = cache.head_blocks(layer, self.block_ids)
        return self._by_num_heads[num_heads]


@dataclass(frozen=True, kw_only=True)
class DecodeGroup:
    """Requests of similar length that compute one token each."""

    rows: slice
    """Their rows among the packed tokens."""
    table: BlockTable
    positions: Tensor
    """`[R]`, of the tokens being computed."""
    masks: dict[Reach, Tensor] = field(default_factory=dict)
    """Additive masks `[1, R, 1, L]`, made once a step for all layers of a kind."""

    def mask(self, reach: Reach, num_keys: int, dtype: torch.dtype) -> Tensor:
        """`[1, R, 1, L]`: zero where a request sees a key, minus infinity elsewhere."""
        if reach not in self.masks:
            keys = torch.arange(num_keys, device=self.positions.device)
            mask = _additive(reach.allows(self.positions[:, None], keys[None, :]), dtype)
            self.masks[reach] = mask[None, :, None, :]
        return self.masks[reach]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tile:
    """Consecutive tokens of a chunk, and the keys that at least one of them sees."""

    rows: slice
    """The tokens, counted from the first of their chunk."""
    keys: slice
    """Positions."""
    mask: Tensor
    """`[t, L]` for t tokens and L keys: zero where a token sees a key, minus infinity elsewhere."""


@dataclass(frozen=True, kw_only=True)
class PrefillChunk:
    """Several consecutive tokens of one request."""

    rows: slice
    start: int
    """Position of the first token."""
    table: BlockTable
    """Of this request alone."""
    tiles: dict[Reach, list[Tile]] = field(default_factory=dict)
    """Made once a step for all layers of a kind."""

    @property
    def end(self) -> int:
        return self.start + int(self.rows.stop - self.rows.start)

    def tiled(self, reach: Reach, num_heads: int, dtype: torch.dtype) -> list[Tile]:
        """The chunk cut into tiles, as a layer sees it."""
        if reach not in self.tiles:
            size = min(TILE_SIZE, max(1, MAX_NUM_SCORES // (num_heads * self.end)))
            firsts = range(self.start, self.end, size)
            self.tiles[reach] = [
                self._tile(first, min(first + size, self.end), reach, dtype) for first in firsts
            ]
        return self.tiles[reach]

    def _tile(self, first: int, end: int, reach: Reach, dtype: torch.dtype) -> Tile:
        keys = slice(reach.first_key(first), end)
        positions = torch.arange(keys.start, end, device=self.table.block_ids.device)
        queries = positions[first - keys.start :]
        return Tile(
            rows=slice(first - self.start, end - self.start),
            keys=keys,
            mask=_additive(reach.allows(queries[:, None], positions[None, :]), dtype),
        )


def _additive(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """Zero where a mask is True, minus infinity elsewhere."""
    mask = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    return mask.masked_fill_(~allowed, float("-inf"))


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
    stretches: Sequence[Stretch] = ()
    """The same tokens once more, for the compiled function; none if it is not to be used."""
    _tiles: dict[int, TokenTiles] = field(default_factory=dict)
    _first_keys: dict[Reach, npt.NDArray[np.int64]] = field(default_factory=dict)

    def tiles(self, num_groups: int) -> TokenTiles:
        """The tokens in tiles, made once a step for all layers with as many heads."""
        if num_groups not in self._tiles:
            self._tiles[num_groups] = TokenTiles(self.stretches, num_groups)
        return self._tiles[num_groups]

    def first_keys(self, reach: Reach, tiles: TokenTiles) -> npt.NDArray[np.int64]:
        """`[T]`, the first position that each token sees, made once a step for layers of a kind."""
        if reach not in self._first_keys:
            self._first_keys[reach] = reach.first_keys(tiles.positions)
        return self._first_keys[reach]


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
    layer = layer_index(module)
    step = martlet_step
    head = _Head(
        scaling=query.shape[-1] ** -0.5 if scaling is None else scaling,
        reach=Reach(
            window=sliding_window,
            chunk=step.chunk_size if layer in step.chunked_layers else None,
        ),
        softcap=softcap,
        sinks=s_aux,
    )
    panels = step.cache.panels(layer)
    if panels is not None and head.is_plain and step.stretches:
        panels.write(key[0], value[0], step.slots)
        return _attend_compiled(query[0], panels, step, head)[None], None
    # A decoder in bf16 may have them in fp32.
    query, key, value = (each.to(step.cache.dtype) for each in (query, key, value))
    step.cache.write(layer, key[0], value[0], step.slots)
    parts = []  # of [t, Hq, Dv], in the order of the rows
    for group in step.decode_groups:
        keys, values = step.cache.gather(layer, group.table.head_blocks(layer, step.cache))
        parts.append(_decode(query[0, :, group.rows], keys, values, group, head))
    for chunk in step.prefill_chunks:
        keys, values = _chunk_keys(layer, key[0], value[0], chunk, step.cache)
        parts.append(_prefill(query[0, :, chunk.rows], keys, values, chunk, head))
    out = parts[0] if len(parts) == 1 else torch.cat(parts)
    return out[None], None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Head:
    """What one layer's attention does besides the softmax of products."""

    scaling: float
    reach: Reach
    softcap: float | None
    sinks: Tensor | None

    @property
    def is_plain(self) -> bool:
        """Whether fused attention knows all of it."""
        return self.softcap is None and self.sinks is None


def _attend_compiled(query: Tensor, pool: PanelPool, step: StepAttention, head: _Head) -> Tensor:
    """All tokens of a step: query `[Hq, T, D]` -> `[T, Hq, D]`."""
    tiles = step.tiles(query.shape[0] // pool.num_kv_heads)
    first_keys = step.first_keys(head.reach, tiles)
    return attend(query, pool, tiles, first_keys=first_keys, scaling=head.scaling)


def layer_index(module: nn.Module) -> int:
    """The layer that an attention module belongs to."""
    index = module.layer_idx
    assert isinstance(index, int), "the load-time guard refuses models without layer_idx"
    return int(index)


def _decode(query: Tensor, keys: Tensor, values: Tensor, group: DecodeGroup, head: _Head) -> Tensor:
    """One token a request: query `[Hq, R, Dk]`, keys `[Hkv, R, L, Dk]` -> `[R, Hq, Dv]`."""
    num_kv_heads, num_requests, num_keys, _ = keys.shape
    grouped = query.unflatten(0, (num_kv_heads, -1)).transpose(1, 2)  # [Hkv, R, G, Dk]
    mask = group.mask(head.reach, num_keys, query.dtype)
    if num_requests <= MAX_FUSED_REQUESTS and head.is_plain:
        mixed = F.scaled_dot_product_attention(
            grouped, keys, values, attn_mask=mask, scale=head.scaling
        )
    else:
        # A copy is needed to fold heads and requests into one axis; scaling makes it for free.
        folded = (grouped * head.scaling).flatten(0, 1)  # [Hkv * R, G, Dk]
        scores = torch.bmm(folded, keys.flatten(0, 1).transpose(1, 2))  # [Hkv * R, G, L]
        scores = scores.view(*grouped.shape[:3], num_keys)
        sinks = None if head.sinks is None else head.sinks.view(num_kv_heads, 1, -1, 1)
        weights = _weights(scores, mask, head.softcap, sinks)
        mixed = torch.bmm(weights.flatten(0, 1), values.flatten(0, 1))  # [Hkv * R, G, Dv]
        mixed = mixed.view(*grouped.shape[:3], values.shape[-1])
    return mixed.transpose(0, 1).flatten(1, 2)  # [R, Hq, Dv]


def _weights(scores: Tensor, mask: Tensor, softcap: float | None, sinks: Tensor | None) -> Tensor:
    """Softmax over the keys; `scores` are overwritten.

    Args:
        scores: `[..., L]`.
        mask: Added to the scores; of a shape that is broadcast to theirs.
        sinks: One score more for each row, of a shape that is broadcast to `[..., 1]`.
    """
    if softcap is not None:
        scores = scores.div_(softcap).tanh_().mul_(softcap)
    scores += mask
    if sinks is None:
        return torch.softmax(scores, dim=-1)
    sinks = sinks.to(scores.dtype).expand(*scores.shape[:-1], 1)
    return torch.softmax(torch.cat((scores, sinks), dim=-1), dim=-1)[..., :-1]


def _chunk_keys(
    layer: int, key: Tensor, value: Tensor, chunk: PrefillChunk, cache: KVCache
) -> tuple[Tensor, Tensor]:
    """Keys `[Hkv, L, Dk]` and values `[Hkv, L, Dv]` from position 0 to the chunk's end."""
    # Rounded ones are read back, so that a token does not see in what chunks its prompt came.
    if chunk.start == 0 and not cache.is_rounded:
        return key[:, chunk.rows], value[:, chunk.rows]
    keys, values = cache.gather(layer, chunk.table.head_blocks(layer, cache))
    return keys[:, 0, : chunk.end], values[:, 0, : chunk.end]


def _prefill(
    query: Tensor, keys: Tensor, values: Tensor, chunk: PrefillChunk, head: _Head
) -> Tensor:
    """Several tokens of a request: query `[Hq, T, Dk]`, keys `[Hkv, L, Dk]` -> `[T, Hq, Dv]`."""
    num_kv_heads = keys.shape[0]
    grouped = query.unflatten(0, (num_kv_heads, -1)) * head.scaling  # [Hkv, G, T, Dk]
    sinks = None if head.sinks is None else head.sinks.view(num_kv_heads, -1, 1, 1)
    out = query.new_empty(query.shape[1], query.shape[0], values.shape[-1])  # [T, Hq, Dv]
    for tile in chunk.tiled(head.reach, query.shape[0], query.dtype):
        rows = grouped[:, :, tile.rows]  # [Hkv, G, t, Dk]
        seen = keys[:, tile.keys].transpose(1, 2)
        scores = torch.bmm(rows.flatten(1, 2), seen).view(*rows.shape[:3], -1)  # [Hkv, G, t, L]
        weights = _weights(scores, tile.mask, head.softcap, sinks)
        mixed = torch.bmm(weights.flatten(1, 2), values[:, tile.keys])  # [Hkv, G * t, Dv]
        mixed = mixed.view(*rows.shape[:3], -1).flatten(0, 1)  # [Hq, t, Dv]
        out[tile.rows] = mixed.transpose(0, 1)
    return out
