"""The tensors behind the block pool: keys and values of every layer, written and gathered.

What a layer's blocks look like in memory is up to its pool: panels where the compiled attention
reads them, and otherwise matrices.

Shapes: T tokens of a step, R requests, N blocks of a request, L = N * block_size keys,
Hkv key-value heads, D width of a head.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from martlet.engine.panel_pool import PanelPool
from martlet.engine.plain_pool import PlainPool, Scratch
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

    is_rounded: ClassVar[bool] = False
    """Whether what is gathered is not to the last bit what was written."""
    STORED: ClassVar[torch.dtype | None] = None
    """Of matrices, where that is not the dtype of what is gathered."""

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
        self.dtype = dtype
        """Of what is gathered, and of what is written to layers that have no panels."""
        self._like = torch.empty(0, dtype=dtype, device=device)
        stored = self._like.to(self.STORED or dtype)
        self._scratch = Scratch(stored), Scratch(stored)
        self._pools = [self._new_pool(layer) for layer in layers]

    def write(self, layer: int, key: Tensor, value: Tensor, slots: Tensor) -> None:
        """Stores the keys and values of a step's tokens.

        Args:
            key: `[Hkv, T, Dk]`.
            value: `[Hkv, T, Dv]`.
            slots: `[T]`, block id times block size plus offset.
        """
        self._pools[layer].write(key, value, slots)

    def pools(self, layer: int) -> tuple[Tensor, Tensor]:
        """A layer's keys `[Hkv, S, Dk]` and values `[Hkv, S, Dv]`, for S slots of all blocks.

        Of a layer that has no panels.
        """
        pool = self._pools[layer]
        assert isinstance(pool, PlainPool), "callers that want matrices are on other devices"
        return pool.slots

    def panels(self, layer: int) -> PanelPool | None:
        """A layer's pool, if it is the compiled attention that reads it."""
        pool = self._pools[layer]
        return pool if isinstance(pool, PanelPool) else None

    def lay_out_anew(self, block_ids: Sequence[int]) -> None:
        """Moves the layers to panels that the compiled attention has become worth it for.

        Args:
            block_ids: Those whose keys and values are kept.
        """
        ids = torch.tensor(block_ids, dtype=torch.long, device=self._like.device)
        offsets = torch.arange(self.block_size, device=ids.device)
        slots = (ids[:, None] * self.block_size + offsets).flatten()
        for index, (layer, old) in enumerate(zip(self.layers, self._pools, strict=True)):
            if isinstance(old, PlainPool) and self._fits_panels(layer):
                new = self._new_pool(layer)
                new.write(*old.read(slots), slots)
                self._pools[index] = new

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
        return self._pools[layer].gather(head_blocks)

    def clear(self, block_ids: Sequence[int]) -> None:
        """Zeroes blocks that held what is not finite."""
        ids = torch.tensor(block_ids, dtype=torch.long, device=self._like.device)
        for pool in self._pools:
            pool.clear(ids)

    def clear_slots(self, slots: Tensor) -> None:
        """Zeroes single tokens, `[T]` of them, that left what is not finite."""
        for pool in self._pools:
            pool.clear_slots(slots)

    def _new_pool(self, layer: LayerShape) -> PlainPool | PanelPool:
        fits = self._fits_panels(layer)
        return self._new_panels(layer) if fits else self._new_matrices(layer)

    def _new_panels(self, layer: LayerShape) -> PanelPool:
        return PanelPool(layer, self.num_blocks)

    def _new_matrices(self, layer: LayerShape) -> PlainPool:
        return PlainPool(
            layer,
            num_blocks=self.num_blocks,
            block_size=self.block_size,
            dtype=self._like.dtype,
            device=self._like.device,
            scratch=self._scratch,
        )

    def _fits_panels(self, layer: LayerShape) -> bool:
        like = self._like
        return PanelPool.fits(
            layer, block_size=self.block_size, dtype=like.dtype, device=like.device
        )


def rounded_bytes_per_token(layers: Sequence[LayerShape]) -> int:
    """Bytes that all layers store for a token in eight bits, with the scales."""
    return sum(layer.values_per_token + layer.scale_bytes_per_token for layer in layers)
