"""Keys and values of a layer, laid out as the compiled attention multiplies them.

A block has all that a layer keeps of its tokens in one place, so that the CPU reads it from memory
in one go. What lies where in it, `martlet.models.compiled.panel_block` draws.

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
    """The blocks of a layer.

    Args:
        layer: What it stores; one that `fits` said yes to.
        num_blocks: Blocks in the pool.
    """

    is_rounded = False
    """Which of the compiled functions read and write it."""

    def __init__(self, layer: LayerShape, num_blocks: int) -> None:
        self.num_kv_heads, self._dim = layer.num_kv_heads, layer.key_dim
        dim = self._dim
        shape = (num_blocks, self.num_kv_heads, 2, _BLOCK_SIZE * dim)
        self.blocks = reserved(shape, torch.bfloat16, torch.device("cpu"))
        """`[blocks, Hkv, 2, 16 * D]`."""
        keys, values = self.blocks.unbind(2)
        self._keys = keys.unflatten(2, (dim // 2, _BLOCK_SIZE, 2))
        self._values = values.unflatten(2, (_BLOCK_SIZE // 2, dim, 2))

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
        """See `KVCache.write`."""
        from martlet.models.compiled.panel_block import write

        if key.stride(2) != 1:
            key = key.contiguous()
        if value.stride(2) != 1:
            value = value.contiguous()
        write(self.blocks, key, value, slots, is_rounded=self.is_rounded)

    def gather(self, head_blocks: Tensor) -> tuple[Tensor, Tensor]:
        """See `KVCache.gather`."""
        block_ids = head_blocks[0]  # Those of the first head are counted in blocks.
        keys = self._keys[block_ids].permute(2, 0, 1, 4, 3, 5)  # [Hkv, R, N, 16, D / 2, 2]
        values = self._values[block_ids].permute(2, 0, 1, 3, 5, 4)  # [Hkv, R, N, 8, 2, D]
        return keys.flatten(4).flatten(2, 3), values.flatten(3, 4).flatten(2, 3)

    def clear(self, block_ids: Tensor) -> None:
        """Zeroes blocks, `[N]` of them."""
        self.blocks.index_fill_(0, block_ids, 0)

    def clear_slots(self, slots: Tensor) -> None:
        """See `KVCache.clear_slots`."""
        nothing = torch.zeros(self.num_kv_heads, len(slots), self._dim, dtype=torch.bfloat16)
        self.write(nothing, nothing, slots)


class RoundedPanelPool(PanelPool):
    """The same in eight bits; its arguments are those of `PanelPool`."""

    is_rounded = True

    def __init__(self, layer: LayerShape, num_blocks: int) -> None:
        from martlet.models.compiled.byte_block import bytes_of_head

        self.num_kv_heads, self._dim = layer.num_kv_heads, layer.key_dim
        shape = (num_blocks, self.num_kv_heads, bytes_of_head(self._dim))
        self.blocks = reserved(shape, torch.uint8, torch.device("cpu"))
        """`[blocks, Hkv, bytes]`, see `martlet.models.compiled.byte_block`."""
        compile_for_rounded_pools()

    def gather(self, head_blocks: Tensor) -> tuple[Tensor, Tensor]:
        """See `KVCache.gather`."""
        from martlet.models.compiled.byte_block import ZERO

        num_bytes = _BLOCK_SIZE * self._dim
        blocks = self.blocks[head_blocks[0]].permute(2, 0, 1, 3)  # [Hkv, R, N, bytes]
        *parts, scales = blocks.split((num_bytes, num_bytes, blocks.shape[3] - 2 * num_bytes), 3)
        keys = parts[0].unflatten(3, (-1, _BLOCK_SIZE, 4)).transpose(3, 4).flatten(4)
        values = parts[1].unflatten(3, (-1, self._dim, 4)).transpose(4, 5).flatten(3, 4)
        both = torch.stack((keys, values)).float() - ZERO  # [2, Hkv, R, N, 16, D]
        of_each = scales.contiguous().view(torch.float32).unflatten(3, (2, _BLOCK_SIZE))
        rounded = both * of_each.movedim(3, 0)[..., None]
        keys, values = rounded.bfloat16().flatten(3, 4)
        return keys, values
