"""The inner operations that docs/architecture.md compares, one thread, best of many.

    python benchmarks/operations.py

Decode attention: 64 requests of 320 keys, 14 heads over 2 key-value heads of width 64, bf16, the
keys of 24 layers in turn so that they come from memory. Argmax: bf16 logits of 64 rows over a
vocabulary of 151,936.
"""

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from martlet.engine.choice import argmax
from martlet.engine.kv_cache import KVCache
from martlet.models.guard import LayerShape

NUM_LAYERS, NUM_REQUESTS, NUM_KEYS = 24, 64, 320
NUM_KV_HEADS, NUM_GROUPS, DIM, BLOCK_SIZE = 2, 7, 64, 16


def best_ms(call: Callable[[], object], *, repeats: int = 12) -> float:
    """Milliseconds of CPU time: other programs on the machine do not count."""
    call()
    times = []
    for _ in range(repeats):
        start = time.thread_time()
        call()
        times.append(time.thread_time() - start)
    return min(times) * 1e3


def products(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    weights = torch.softmax(torch.bmm(query, keys.transpose(1, 2)), dim=-1)
    return torch.bmm(weights, values)


def main() -> None:
    torch.set_num_threads(1)
    num_rows = NUM_KV_HEADS * NUM_REQUESTS
    query = torch.randn(num_rows, NUM_GROUPS, DIM).bfloat16()
    contiguous = [torch.randn(2, num_rows, NUM_KEYS, DIM).bfloat16() for _ in range(NUM_LAYERS)]
    num_blocks = NUM_REQUESTS * NUM_KEYS // BLOCK_SIZE
    shape = LayerShape(
        num_heads=NUM_GROUPS * NUM_KV_HEADS,
        num_kv_heads=NUM_KV_HEADS,
        key_dim=DIM,
        value_dim=DIM,
    )
    cache = KVCache(
        [shape] * NUM_LAYERS,
        num_blocks=num_blocks,
        block_size=BLOCK_SIZE,
        dtype=torch.bfloat16,
        device=torch.device("cpu"),
    )
    slots = torch.arange(num_blocks * BLOCK_SIZE)
    for layer in range(NUM_LAYERS):
        filling = torch.randn(2, NUM_KV_HEADS, len(slots), DIM).bfloat16()
        cache.write(layer, filling[0], filling[1], slots)
    table = torch.randperm(num_blocks).view(NUM_REQUESTS, -1)

    def fused() -> None:
        heads = query.view(NUM_REQUESTS, NUM_KV_HEADS, NUM_GROUPS, DIM)
        for keys, values in contiguous:
            split = (t.view(NUM_REQUESTS, NUM_KV_HEADS, NUM_KEYS, DIM) for t in (keys, values))
            F.scaled_dot_product_attention(heads, *split)

    def contiguous_products() -> None:
        for keys, values in contiguous:
            products(query, keys, values)

    def gathered_products() -> None:
        for layer in range(NUM_LAYERS):
            keys, values = cache.gather(layer, table)
            products(query, keys.flatten(0, 1), values.flatten(0, 1))

    print(f"torch {torch.__version__}, one thread, milliseconds")
    for name, call in (
        ("scaled_dot_product_attention, contiguous keys", fused),
        ("product, softmax, product, contiguous keys", contiguous_products),
        ("gather blocks, product, softmax, product", gathered_products),
    ):
        print(f"{name:48} {best_ms(call) / NUM_LAYERS:6.2f} a layer")
    logits = torch.randn(64, 151_936).bfloat16()
    print(f"{'Tensor.argmax':48} {best_ms(lambda: logits.argmax(dim=1)):6.2f}")
    print(f"{'argmax in two levels':48} {best_ms(lambda: argmax(logits)):6.2f}")


if __name__ == "__main__":
    main()
