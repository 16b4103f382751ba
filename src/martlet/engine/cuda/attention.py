"""Paged attention by the Triton kernels, in the place of `engine/attention` on a CUDA device.

Every step launches the same kernels with the same shapes, whatever its requests; what differs
stands in tensors. So a step can be recorded in a CUDA graph.

Shapes: T tokens of a step, P parts, Hq query heads, Hkv key-value heads, Dk and Dv widths of a
head.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
from torch import Tensor, nn

from martlet.engine.attention import layer_index
from martlet.engine.cuda import kernels
from martlet.engine.cuda.fp8_cache import Fp8Cache
from martlet.engine.kv_cache import KVCache
from martlet.models.guard import LayerShape

MIN_ROWS = 16
"""What tensor cores take at least."""
_BYTES_A_KEY_TILE = 256 * 64
"""Of keys, and as much of values, in shared memory at once."""


@dataclass(frozen=True, kw_only=True)
class PartBuffers:
    """Room for the parts of split rows, shared by all layers."""

    out: Tensor
    """`[P * Hq * Dv]` in fp32."""
    scale: Tensor
    """`[P * Hq]` in fp32."""


@dataclass(frozen=True, kw_only=True)
class KernelStep:
    """What the attention of one step needs to know; the same for every layer."""

    cache: KVCache
    slots: Tensor
    """`[T]`, where each token's keys and values go; negative for rows that are no tokens."""
    positions: Tensor
    """`[T]`."""
    block_ids: Tensor
    """Block tables, one behind the other."""
    narrow: Tensor
    """Work items of one row, `[items, fields]`; see `work`. One of no rows does nothing."""
    wide: Tensor
    """Work items of up to `num_wide_tokens` rows."""
    num_wide_tokens: int
    first_parts: Tensor
    """`[T]`."""
    num_parts: Tensor
    """`[T]`, 0 for rows that are no tokens."""
    parts: PartBuffers
    chunked_layers: frozenset[int] = frozenset()
    chunk_size: int | None = None


def kernel_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001 -- always None; part of transformers' signature
    *,
    martlet_step: KernelStep,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """What `engine.attention.paged_attention` computes, with the same arguments.

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
    write(step.cache, layer, key[0], value[0], step.slots)
    launch = _Launch(
        step=step,
        layer=layer,
        scaling=query.shape[-1] ** -0.5 if scaling is None else scaling,
        window=sliding_window or 0,
        chunk=(step.chunk_size or 0) if layer in step.chunked_layers else 0,
        softcap=softcap,
        sinks=s_aux,
        query=_with_dense_columns(query[0]),
        out=query.new_empty(query.shape[2], query.shape[1], value.shape[-1]),
    )
    launch.attend(step.wide, step.num_wide_tokens)
    launch.attend(step.narrow, 1)
    launch.merge()
    return launch.out[None], None


def write(cache: KVCache, layer: int, key: Tensor, value: Tensor, slots: Tensor) -> None:
    """Stores the keys `[Hkv, T, Dk]` and values `[Hkv, T, Dv]` of a step's tokens in the pool."""
    key, value = _with_dense_columns(key), _with_dense_columns(value)
    key_pool, value_pool = cache.pools(layer)
    key_scales, value_scales = _scales(cache, layer)
    num_heads, num_rows, key_dim = key.shape
    value_dim = value.shape[-1]
    kernels.write_slots[(num_rows, num_heads)](
        key,
        value,
        key_pool,
        value_pool,
        key_scales,
        value_scales,
        slots,
        key_pool.shape[1],
        key.stride(0),
        key.stride(1),
        value.stride(0),
        value.stride(1),
        KEY_DIM=key_dim,
        VALUE_DIM=value_dim,
        KEY_WIDTH=triton.next_power_of_2(key_dim),
        VALUE_WIDTH=triton.next_power_of_2(value_dim),
        IN_FP8=isinstance(cache, Fp8Cache),
    )


def _scales(cache: KVCache, layer: int) -> tuple[Tensor, Tensor]:
    """Of keys and values; anything where they have none."""
    return cache.scales(layer) if isinstance(cache, Fp8Cache) else cache.pools(layer)


@dataclass(frozen=True, kw_only=True)
class _Launch:
    """One layer's attention, as arguments of kernels."""

    step: KernelStep
    layer: int
    scaling: float
    window: int
    chunk: int
    softcap: float | None
    sinks: Tensor | None
    query: Tensor
    """`[Hq, T, Dk]`, its columns next to each other."""
    out: Tensor
    """`[T, Hq, Dv]`."""

    @property
    def key_width(self) -> int:
        return _width(self.query.shape[-1])

    @property
    def value_width(self) -> int:
        return _width(self.out.shape[-1])

    def attend(self, items: Tensor, num_tokens: int) -> None:
        """Runs work items of at most `num_tokens` rows."""
        if not len(items):
            return
        step = self.step
        key_pool, value_pool = step.cache.pools(self.layer)
        num_kv_heads, num_slots, key_dim = key_pool.shape
        num_heads = self.query.shape[0]
        group = num_heads // num_kv_heads
        kernels.attend[(len(items), num_kv_heads)](
            self.query,
            key_pool,
            value_pool,
            *_scales(step.cache, self.layer),
            self.query if self.sinks is None else self.sinks,
            items,
            step.positions,
            step.block_ids,
            step.first_parts,
            self.out,
            step.parts.out,
            step.parts.scale,
            self.scaling,
            self.softcap or 1.0,
            num_slots,
            self.query.stride(0),
            self.query.stride(1),
            NUM_HEADS=num_heads,
            GROUP=group,
            BLOCK_SIZE=step.cache.block_size,
            KEY_DIM=key_dim,
            VALUE_DIM=self.out.shape[-1],
            KEY_WIDTH=self.key_width,
            VALUE_WIDTH=self.value_width,
            WINDOW=self.window,
            CHUNK=self.chunk,
            HAS_SOFTCAP=self.softcap is not None,
            HAS_SINKS=self.sinks is not None,
            IN_FP8=isinstance(step.cache, Fp8Cache),
            NUM_ROWS=max(MIN_ROWS, triton.next_power_of_2(num_tokens * group)),
            NUM_KEYS=self._num_keys,
            # Three bf16 products or TF32 would not give fp32's own result.
            PRECISION="ieee",
        )

    def merge(self) -> None:
        """Joins the parts of the rows that have several, and zeroes rows that are no tokens."""
        num_rows, num_heads, value_dim = self.out.shape
        kernels.merge_parts[(num_rows, num_heads)](
            self.step.parts.out,
            self.step.parts.scale,
            self.out if self.sinks is None else self.sinks,
            self.step.first_parts,
            self.step.num_parts,
            self.out,
            NUM_HEADS=num_heads,
            VALUE_DIM=value_dim,
            VALUE_WIDTH=self.value_width,
            HAS_SINKS=self.sinks is not None,
        )

    @property
    def _num_keys(self) -> int:
        """Keys that are read at once: as many as shared memory has room for, from 16 to 64."""
        bytes_a_key = max(self.key_width, self.value_width) * self.query.element_size()
        return max(16, min(64, _BYTES_A_KEY_TILE // bytes_a_key))


def _width(dim: int) -> int:
    return max(MIN_ROWS, int(triton.next_power_of_2(dim)))


def _with_dense_columns(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def new_parts(num_parts: int, layers: Sequence[LayerShape], device: torch.device) -> PartBuffers:
    """Room for so many parts in the largest of some layers."""
    num_heads = max(layer.num_heads for layer in layers)
    num_values = max(layer.num_heads * layer.value_dim for layer in layers)
    return PartBuffers(
        out=torch.empty(num_parts * num_values, dtype=torch.float32, device=device),
        scale=torch.empty(num_parts * num_heads, dtype=torch.float32, device=device),
    )
