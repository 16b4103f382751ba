"""Keys and values of a layer, laid out as the compiled attention multiplies them.

A block has all that a layer keeps of its tokens in one place, so that the CPU reads it from memory
in one go. What lies where in it, `martlet.models.compiled.number_block` draws.

Shapes: T tokens of a step, R requests, N blocks of a request, L = N * 16 keys, Hkv key-value heads,
D width of a head.
"""

import torch
from torch import Tensor

from martlet.engine.reserved import reserved
from martlet.models.compiled.threads import (
    WIDTH,
    compile_for_rounded_pools,
    is_compiled_for,
)
from martlet.models.guard import LayerShape

_BLOCK_SIZE = 16
"""Tokens that the compiled functions take at once."""


class PanelPool:
    """The blocks of a layer, in whole numbers of sixteen bits.

    Args:
        layer: What it stores; one that `fits` said yes to.
        num_blocks: Blocks in the pool.
    """

    is_rounded = False
    """Whether it has less precision than bf16 has."""

    def __init__(self, layer: LayerShape, num_blocks: int) -> None:
        from martlet.models.compiled.number_block import numbers

        self.num_kv_heads, self._dim = layer.num_kv_heads, layer.key_dim
        self._numbers, cpu = numbers(is_rounded=self.is_rounded), torch.device("cpu")
        halves = (num_blocks, self.num_kv_heads, 2)
        self.blocks = reserved((*halves, _BLOCK_SIZE * self._dim), self._numbers.dtype, cpu)
        """`[blocks, Hkv, 2, 16 * D]`, see `martlet.models.compiled.number_block`."""
        self.scales = reserved((*halves, _BLOCK_SIZE), torch.float32, cpu)
        """`[blocks, Hkv, 2, 16]`."""

    @staticmethod
    def fits(
        layer: LayerShape, *, block_size: int, dtype: torch.dtype, device: torch.device
    ) -> bool:
        """Whether the compiled attention knows the layer, and it is worth it."""
        like = torch.empty(0, dtype=dtype, device=device)
        return (
            layer.is_plain
            and block_size == _BLOCK_SIZE
            and layer.key_dim == layer.value_dim
            and layer.key_dim % WIDTH == 0
            and is_compiled_for(like, layer.num_heads * layer.key_dim)
        )

    def write(self, key: Tensor, value: Tensor, slots: Tensor) -> None:
        """See `KVCache.write`; keys and values may also be in fp32."""
        from martlet.models.compiled.number_block import write

        both = (each.float() for each in (key, value))
        key, value = (each if each.stride(2) == 1 else each.contiguous() for each in both)
        write(self.blocks, self.scales, key, value, slots, is_rounded=self.is_rounded)

    def gather(self, head_blocks: Tensor) -> tuple[Tensor, Tensor]:
        """See `KVCache.gather`."""
        block_ids = head_blocks[0]  # Those of the first head are counted in blocks.
        in_lane, zero = self._numbers.in_lane, self._numbers.zero
        blocks, scales = (
            each[block_ids].permute(3, 2, 0, 1, 4) for each in (self.blocks, self.scales)
        )  # [2, Hkv, R, N, ...]
        keys = blocks[0].unflatten(3, (-1, _BLOCK_SIZE, in_lane)).transpose(3, 4).flatten(4)
        values = blocks[1].unflatten(3, (-1, self._dim, in_lane)).transpose(4, 5).flatten(3, 4)
        both = torch.stack((keys, values)).float() - zero  # [2, Hkv, R, N, 16, D]
        keys, values = (both * scales[..., None]).bfloat16().flatten(3, 4)
        return keys, values

    def clear(self, block_ids: Tensor) -> None:
        """Zeroes blocks, `[N]` of them."""
        for each in (self.blocks, self.scales):
            each.index_fill_(0, block_ids, 0)

    def clear_slots(self, slots: Tensor) -> None:
        """See `KVCache.clear_slots`."""
        nothing = torch.zeros(self.num_kv_heads, len(slots), self._dim)
        self.write(nothing, nothing, slots)


class RoundedPanelPool(PanelPool):
    """The same in eight bits; its arguments are those of `PanelPool`."""

    is_rounded = True

    def __init__(self, layer: LayerShape, num_blocks: int) -> None:
        super().__init__(layer, num_blocks)
        compile_for_rounded_pools()
