"""Keys and values of a layer, laid out head first, for the operations that PyTorch has.

Gathering the blocks of many requests gives each head's keys as one contiguous matrix, ready for a
batched product. The gathered copy goes to a scratch buffer that all layers share: it stays in the
CPU's last-level cache, so memory itself is read once.

Shapes: T tokens of a step, R requests, N blocks of a request, L = N * block_size keys,
Hkv key-value heads, D width of a head.
"""

import torch
from torch import Tensor

from martlet.engine.reserved import reserved
from martlet.models.guard import LayerShape


class Scratch:
    """A buffer that grows.

    Args:
        like: Of the dtype and on the device that it is to have.
    """

    def __init__(self, like: Tensor) -> None:
        self._values = like.new_empty(0)

    def take(self, num_values: int) -> Tensor:
        """`[num_values]`, to be overwritten by whoever asks next."""
        if self._values.numel() < num_values:
            # Requests grow a block at a time: a buffer that grew with them would leave holes.
            self._values = self._values.new_empty(1 << (num_values - 1).bit_length())
        return self._values[:num_values]


class PlainPool:
    """The blocks of a layer.

    Args:
        layer: What it stores.
        num_blocks: Blocks in the pool.
        block_size: Tokens in a block.
        dtype: Of keys and values.
        device: Where they live.
        scratch: For the keys and the values that are gathered.
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
        self._scratch = scratch
        shape = (layer.num_kv_heads, num_blocks, block_size)
        self._keys = reserved((*shape, layer.key_dim), dtype, device)
        self._values = reserved((*shape, layer.value_dim), dtype, device)
        self.slots = self._keys.flatten(1, 2), self._values.flatten(1, 2)
        """Keys `[Hkv, S, Dk]` and values `[Hkv, S, Dv]`, for S slots of all blocks."""

    def write(self, key: Tensor, value: Tensor, slots: Tensor) -> None:
        """See `KVCache.write`."""
        for pool, each in zip(self.slots, (key, value), strict=True):
            pool.index_copy_(1, slots, each)

    def gather(self, head_blocks: Tensor) -> tuple[Tensor, Tensor]:
        """See `KVCache.gather`."""
        keys, values = self._scratch
        return _gather(self._keys, head_blocks, keys), _gather(self._values, head_blocks, values)

    def read(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Keys `[Hkv, N, Dk]` and values `[Hkv, N, Dv]` of N slots."""
        keys, values = self.slots
        return keys[:, slots], values[:, slots]

    def clear(self, block_ids: Tensor) -> None:
        """Zeroes blocks, `[N]` of them."""
        for pool in (self._keys, self._values):
            pool.index_fill_(1, block_ids, 0)

    def clear_slots(self, slots: Tensor) -> None:
        """See `KVCache.clear_slots`."""
        for pool in self.slots:
            pool.index_fill_(1, slots, 0)


def _gather(pool: Tensor, head_blocks: Tensor, scratch: Scratch) -> Tensor:
    num_heads, num_requests, num_gathered = head_blocks.shape
    _, _, block_size, dim = pool.shape
    out = scratch.take(head_blocks.numel() * block_size * dim).view(-1, block_size * dim)
    torch.index_select(pool.view(-1, block_size * dim), 0, head_blocks.view(-1), out=out)
    return out.view(num_heads, num_requests, num_gathered * block_size, dim)
