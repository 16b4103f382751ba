"""Keys and values in eight bits, E4M3 (Micikevicius et al., arXiv:2209.05433): half of bf16.

A token's key, and its value, has a scale for each head, so that its largest number is the largest
that the format has: nothing is cut off, and no token's rounding depends on its neighbours.

Shapes: T tokens, Hkv key-value heads, D width of a head, S slots of the pool, L gathered keys.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from martlet.engine.kv_cache import KVCache
from martlet.models.guard import LayerShape

LARGEST = 448.0
"""What E4M3 has, beside NaN."""
SMALLEST = 1e-30
"""Rows that hold nothing larger become zero: the inverse of their scale would be infinite."""


def to_fp8(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rounds to the nearest, ties to even.

    Args:
        x: `[..., D]`.

    Returns:
        The bits `[..., D]` in uint8, and the scales `[...]` in fp32. A row that is not finite has a
        scale that is not.
    """
    x = x.float()
    largest = x.abs().amax(dim=-1)
    scaled = x * (LARGEST / largest.where(largest > SMALLEST, 1.0))[..., None]
    return scaled.to(torch.float8_e4m3fn).view(torch.uint8), largest * (1 / LARGEST)


def from_fp8(bits: Tensor, scales: Tensor) -> Tensor:
    """What `to_fp8` rounded, `[..., D]` in fp32."""
    return bits.view(torch.float8_e4m3fn).float() * scales[..., None]


class Fp8Cache(KVCache):
    """A `KVCache` of rounded keys and values.

    Its own operations are the plain ones; on a CUDA device, kernels read and write `pools` and
    `scales`.

    Args:
        layers: What each layer stores, by layer index.
        num_blocks: Blocks in the pool.
        block_size: Tokens in a block.
        dtype: Of what is gathered.
        device: Where they live.
    """

    is_rounded = True

    def __init__(
        self,
        layers: Sequence[LayerShape],
        *,
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        super().__init__(
            layers, num_blocks=num_blocks, block_size=block_size, dtype=torch.uint8, device=device
        )
        self.dtype = dtype
        self._scales = [
            torch.zeros(2, layer.num_kv_heads, num_blocks * block_size, device=device)
            for layer in layers
        ]  # each [2, Hkv, S]: of keys, of values

    def scales(self, layer: int) -> tuple[Tensor, Tensor]:
        """Of a layer's keys and of its values, each `[Hkv, S]`."""
        keys, values = self._scales[layer]
        return keys, values

    def write(self, layer: int, key: Tensor, value: Tensor, slots: Tensor) -> None:
        """See `KVCache.write`."""
        (keys, key_scales), (values, value_scales) = to_fp8(key), to_fp8(value)
        super().write(layer, keys, values, slots)
        self._scales[layer].index_copy_(2, slots, torch.stack([key_scales, value_scales]))

    def gather(self, layer: int, head_blocks: Tensor) -> tuple[Tensor, Tensor]:
        """See `KVCache.gather`."""
        keys, values = super().gather(layer, head_blocks)
        of_keys, of_values = (
            scales.reshape(-1, self.block_size)[head_blocks].flatten(2)  # [Hkv, R, L]
            for scales in self._scales[layer]
        )
        return (
            from_fp8(keys, of_keys).to(self.dtype),
            from_fp8(values, of_values).to(self.dtype),
        )

    def clear(self, block_ids: Sequence[int]) -> None:
        """See `KVCache.clear`."""
        super().clear(block_ids)
        for scales in self._scales:
            ids = torch.tensor(block_ids, dtype=torch.long, device=scales.device)
            scales.unflatten(2, (-1, self.block_size)).index_fill_(2, ids, 0)

    def clear_slots(self, slots: Tensor) -> None:
        """See `KVCache.clear_slots`."""
        super().clear_slots(slots)
        for scales in self._scales:
            scales.index_fill_(2, slots, 0)
