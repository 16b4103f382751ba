"""The tensors behind the block pool: keys and values of every layer, written and gathered.

A layer's pool is laid out head first, `[Hkv, blocks, block_size, D]`, so that gathering the blocks
of many requests gives each head's keys as one contiguous matrix, ready for a batched product. The
gathered copy goes to a scratch buffer that all layers share: it stays in the CPU's last-level
cache, so memory itself is read once.

Shapes: T tokens of a step, R requests, N blocks of a request, L = N * block_size keys,
Hkv key-value heads, D width of a head.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from martlet.models.guard import LayerShape


class KVCache:
    """Keys and values of `num_blocks` blocks, for every layer.

    The memory is only reserved here; on a CPU a page is paid for when it is first written.

    Args:
        layers: What each layer stores, by layer index.
        num_blocks: Blocks in the pool.
        block_size: Tokens in a block.
        dtype: Of keys and values.
        device: Where they live.
    """

    def __init__(
        self,
        layers: Sequence[LayerShape],
        *,
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.layers = tuple(layers)
        shape = (num_blocks, block_size)
        self._keys = [
            _zeros((layer.num_kv_heads, *shape, layer.key_dim), dtype, device) for layer in layers
        ]  # each [Hkv, blocks, block_size, Dk]
        self._values = [
            _zeros((layer.num_kv_heads, *shape, layer.value_dim), dtype, device) for layer in layers
        ]  # each [Hkv, blocks, block_size, Dv]
        self._slots = [
            (keys.flatten(1, 2), values.flatten(1, 2))
            for keys, values in zip(self._keys, self._values, strict=True)
        ]  # the same memory, each [Hkv, blocks * block_size, D]
        self._scratch = [torch.empty(0, dtype=dtype, device=device) for _ in range(2)]

    def write(self, layer: int, key: Tensor, value: Tensor, slots: Tensor) -> None:
        """Stores the keys and values of a step's tokens.

        Args:
            key: `[Hkv, T, Dk]`.
            value: `[Hkv, T, Dv]`.
            slots: `[T]`, block id times block size plus offset.
        """
        keys, values = self._slots[layer]
        keys.index_copy_(1, slots, key)
        values.index_copy_(1, slots, value)

    def pools(self, layer: int) -> tuple[Tensor, Tensor]:
        """A layer's keys `[Hkv, S, Dk]` and values `[Hkv, S, Dv]`, for S slots of all blocks."""
        return self._slots[layer]

    def head_blocks(self, layer: int, block_ids: Tensor) -> Tensor:
        """Where blocks lie in a layer's pool; the same for all layers with as many heads.

        Args:
            block_ids: `[R, N]`.

        Returns:
            `[Hkv, R, N]`, counted in blocks of one head.
        """
        heads = torch.arange(self.layers[layer].num_kv_heads, device=block_ids.device)
        return heads[:, None, None] * self.num_blocks + block_ids

    def gather(self, layer: int, head_blocks: Tensor) -> tuple[Tensor, Tensor]:
        """Copies blocks out, one contiguous matrix a head and request.

        The result is overwritten by the next call.

        Args:
            head_blocks: `[Hkv, R, N]`, from the method of this name.

        Returns:
            Keys `[Hkv, R, L, Dk]` and values `[Hkv, R, L, Dv]`.
        """
        return (
            self._gather(self._keys[layer], head_blocks, 0),
            self._gather(self._values[layer], head_blocks, 1),
        )

    def clear(self, block_ids: Sequence[int]) -> None:
        """Zeroes blocks that held what is not finite."""
        ids = torch.tensor(block_ids, dtype=torch.long, device=self._keys[0].device)
        for pool in (*self._keys, *self._values):
            pool.index_fill_(1, ids, 0)

    def clear_slots(self, slots: Tensor) -> None:
        """Zeroes single tokens, `[T]` of them, that left what is not finite."""
        for keys, values in self._slots:
            keys.index_fill_(1, slots, 0)
            values.index_fill_(1, slots, 0)

    def _gather(self, pool: Tensor, head_blocks: Tensor, index: int) -> Tensor:
        num_heads, num_requests, num_gathered = head_blocks.shape
        _, _, block_size, dim = pool.shape
        num_values = head_blocks.numel() * block_size * dim
        if self._scratch[index].numel() < num_values:
            # Requests grow a block at a time: a buffer that grew with them would leave holes.
            self._scratch[index] = pool.new_empty(1 << (num_values - 1).bit_length())
        out = self._scratch[index][:num_values].view(-1, block_size * dim)
        torch.index_select(pool.view(-1, block_size * dim), 0, head_blocks.view(-1), out=out)
        return out.view(num_heads, num_requests, num_gathered * block_size, dim)


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeroed memory; on a CPU the operating system zeroes a page when it is first touched.

    It must be zeroed: masked keys have the weight 0, and 0 times whatever was there may be NaN.
    """
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    num_bytes = math.prod(shape) * dtype.itemsize
    return torch.from_numpy(np.zeros(num_bytes, dtype=np.uint8)).view(dtype).view(shape)
