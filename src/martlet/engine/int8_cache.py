"""Keys and values in eight bits on a CPU: half of bf16.

A token's key, and its value, has a scale for each head, so that no token's rounding depends on its
neighbours. Where the compiled attention reads a layer, it multiplies these bytes as they are.

Shapes: T tokens, Hkv key-value heads, D width of a head, S slots of the pool, L gathered keys.
"""

import torch
from torch import Tensor

from martlet.engine.kv_cache import KVCache
from martlet.engine.panel_pool import PanelPool, RoundedPanelPool
from martlet.engine.plain_pool import PlainPool, Scratch
from martlet.engine.reserved import reserved
from martlet.models.guard import LayerShape

LARGEST = 127
SMALLEST = 1e-30
"""Rows that hold nothing larger become zero: the inverse of their scale would be infinite."""


def to_int8(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rounds to the nearest, ties to even.

    Args:
        x: `[..., D]`.

    Returns:
        Whole numbers `[..., D]` in int8, and the scales `[...]` in fp32. A row that is not finite
        has a scale that is not.
    """
    x = x.float()
    largest = x.abs().amax(dim=-1)
    # A number divided by a tensor is its inverse times the number, which rounds twice.
    number = torch.full_like(largest, LARGEST)
    steps = x * (number / largest.where(largest > SMALLEST, torch.inf))[..., None]
    return steps.nan_to_num(0).round().to(torch.int8), largest / LARGEST


def from_int8(numbers: Tensor, scales: Tensor) -> Tensor:
    """What `to_int8` rounded, `[..., D]` in fp32."""
    return numbers.float() * scales[..., None]


class RoundedPool(PlainPool):
    """The blocks of a layer that PyTorch's operations read.

    Args:
        layer: What it stores.
        num_blocks: Blocks in the pool.
        block_size: Tokens in a block.
        dtype: Of what is gathered.
        device: Where they live.
        scratch: For the keys and the values that are gathered, in int8.
    """

    def __init__(
        self,
        layer: LayerShape,
        *,
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device,
        scratch: tuple[Scratch, Scratch],
    ) -> None:
        super().__init__(
            layer,
            num_blocks=num_blocks,
            block_size=block_size,
            dtype=torch.int8,
            device=device,
            scratch=scratch,
        )
        self._dtype = dtype
        shape = (2, layer.num_kv_heads, num_blocks, block_size)
        self._scales = reserved(shape, torch.float32, device)

    def write(self, key: Tensor, value: Tensor, slots: Tensor) -> None:
        """See `KVCache.write`."""
        (keys, key_scales), (values, value_scales) = to_int8(key), to_int8(value)
        super().write(keys, values, slots)
        self._scales.flatten(2).index_copy_(2, slots, torch.stack([key_scales, value_scales]))

    def gather(self, head_blocks: Tensor) -> tuple[Tensor, Tensor]:
        """See `KVCache.gather`."""
        both = super().gather(head_blocks)
        of_both = (scales.flatten(0, 1)[head_blocks].flatten(2) for scales in self._scales)
        keys, values = (
            from_int8(numbers, scales).to(self._dtype)
            for numbers, scales in zip(both, of_both, strict=True)
        )
        return keys, values

    def read(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """See `PlainPool.read`."""
        both = zip(super().read(slots), self._scales.flatten(2)[:, :, slots], strict=True)
        keys, values = (from_int8(*each).to(self._dtype) for each in both)
        return keys, values

    def clear(self, block_ids: Tensor) -> None:
        """See `PlainPool.clear`."""
        super().clear(block_ids)
        self._scales.index_fill_(2, block_ids, 0)

    def clear_slots(self, slots: Tensor) -> None:
        """See `KVCache.clear_slots`."""
        super().clear_slots(slots)
        self._scales.flatten(2).index_fill_(2, slots, 0)


class Int8Cache(KVCache):
    """A `KVCache` of rounded keys and values; its arguments are the same."""

    is_rounded = True
    STORED = torch.int8

    def _new_panels(self, layer: LayerShape) -> PanelPool:
        return RoundedPanelPool(layer, self.num_blocks)

    def _new_matrices(self, layer: LayerShape) -> PlainPool:
        return RoundedPool(
            layer,
            num_blocks=self.num_blocks,
            block_size=self.block_size,
            dtype=self._like.dtype,
            device=self._like.device,
            scratch=self._scratch,
        )
