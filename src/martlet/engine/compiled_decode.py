"""Decoding requests attend through a compiled function, where there is one for their layer.

Shapes as in `martlet.engine.attention`.
"""

import ctypes

from torch import Tensor

from martlet.engine.kv_cache import KVCache
from martlet.models.compiled.threads import WIDTH, is_compiled_for, run

_BLOCK_SIZE = 16
"""Tokens that the compiled function takes at once."""


def can_decode(cache: KVCache, layer: int, num_heads: int) -> bool:
    """Whether the compiled function knows the layer's pool, and the layer is worth it."""
    shape = cache.layers[layer]
    keys, _ = cache.pools(layer)
    return (
        is_compiled_for(keys, num_heads * shape.key_dim)
        and cache.block_size == _BLOCK_SIZE
        and shape.key_dim == shape.value_dim
        and shape.key_dim % WIDTH == 0
    )


def decode(
    query: Tensor,
    cache: KVCache,
    layer: int,
    *,
    block_ids: Tensor,
    first_keys: Tensor,
    positions: Tensor,
    scaling: float,
) -> Tensor:
    """Attends for one token a request.

    Args:
        query: `[Hq, R, D]`.
        block_ids: `[R, N]`; of each request, as many are read as it has.
        first_keys: `[R]`, the first position that each token sees.
        positions: `[R]`, the last one: its own.

    Returns:
        `[R, Hq, D]`.
    """
    from martlet.models.compiled.decode import attend

    if query.stride(-1) != 1:
        query = query.contiguous()
    keys, values = cache.pools(layer)
    num_heads, num_requests, dim = query.shape
    num_kv_heads = len(keys)
    out = query.new_empty(num_requests, num_heads, dim)
    scale = ctypes.c_float(scaling)
    run(
        attend(),
        (
            query.data_ptr(),
            keys.data_ptr(),
            values.data_ptr(),
            block_ids.data_ptr(),
            first_keys.data_ptr(),
            positions.data_ptr(),
            ctypes.addressof(scale),
            out.data_ptr(),
            num_requests,
            query.stride(1) * query.itemsize,
            query.stride(0) * query.itemsize,
            block_ids.shape[1],
            cache.num_blocks,
            num_kv_heads,
            num_heads // num_kv_heads,
            dim,
        ),
    )
    return out
