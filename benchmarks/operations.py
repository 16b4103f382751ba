"""The inner operations that docs/architecture.md compares, one thread, best of many.

    python benchmarks/operations.py

Decode attention: 64 requests of 320 keys, 14 heads over 2 key-value heads of width 64, bf16, the
keys of 24 layers in turn so that they come from memory. Products: the packed weights of the 0.5B
model of `offline.py`, one after the other, for some rows; 512 rows are 506 GFLOP. Adapters: 8 of
rank 16 on all its layers but the head, for 64 rows that take turns. Draws: bf16 logits of 64 rows
over a vocabulary of 151,936. Planning: 1,024 decoding requests of 257 tokens; a GPU waits for it.
"""

import time
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from martlet.engine import compiled_attention
from martlet.engine.attention import Reach
from martlet.engine.choice import argmax
from martlet.engine.compiled_attention import Stretch, TokenTiles
from martlet.engine.config import EngineConfig
from martlet.engine.cuda.batch import pack
from martlet.engine.cuda.work import WorkShape
from martlet.engine.int8_cache import Int8Cache
from martlet.engine.kv_cache import KVCache
from martlet.engine.params import SamplingParams
from martlet.engine.request import Request
from martlet.engine.sampler import draw
from martlet.engine.scheduler import Scheduler
from martlet.models.compiled.threads import can_compile
from martlet.models.guard import LayerShape
from martlet.models.heap import huge_pages
from martlet.models.linear.compiled_low_rank import CompiledLowRank, RankPanels
from martlet.models.linear.low_rank import LowRank
from martlet.models.linear.packed import PackedLinear

NUM_LAYERS, NUM_REQUESTS, NUM_KEYS = 24, 64, 320
NUM_KV_HEADS, NUM_GROUPS, DIM, BLOCK_SIZE = 2, 7, 64, 16
LAYER_SHAPES = ((1152, 896), (896, 896), (4864, 896), (4864, 896), (896, 4864))
ADAPTED_SHAPES = (
    (896, 896),
    (128, 896),
    (128, 896),
    (896, 896),
    (4864, 896),
    (4864, 896),
    (896, 4864),
)
VOCAB_SIZE = 151_936

Timed = Iterator[tuple[str, Callable[[], object], int]]
"""What is timed: its name, a call, and the number of parts of it that the time is divided by."""


def main() -> None:
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread, milliseconds")
    for timed in (attention(), products(), adapters(), draws(), planning()):
        for name, call, num_parts in timed:
            print(f"{name:56} {best_ms(call) / num_parts:7.2f}", flush=True)


def best_ms(call: Callable[[], object], *, repeats: int = 8) -> float:
    """Milliseconds of CPU time: other programs on the machine do not count."""
    call()
    times = []
    for _ in range(repeats):
        start = time.thread_time()
        call()
        times.append(time.thread_time() - start)
    return min(times) * 1e3


def attention() -> Timed:
    """A layer of decoding."""
    num_rows = NUM_KV_HEADS * NUM_REQUESTS
    query = torch.randn(num_rows, NUM_GROUPS, DIM).bfloat16()
    contiguous = [torch.randn(2, num_rows, NUM_KEYS, DIM).bfloat16() for _ in range(NUM_LAYERS)]
    matrices, panels = filled_cache(is_plain=False), filled_cache(is_plain=True)
    rounded = filled_cache(is_plain=True, make=Int8Cache)
    table = torch.randperm(matrices.num_blocks).view(NUM_REQUESTS, -1)
    stretches = [
        Stretch(first_row=row, num_tokens=1, start=NUM_KEYS - 1, block_ids=block_ids)
        for row, block_ids in enumerate(table.tolist())
    ]
    tiles = TokenTiles(stretches, NUM_GROUPS)
    first_keys = Reach().first_keys(tiles.positions)

    def fused() -> None:
        heads = query.view(NUM_REQUESTS, NUM_KV_HEADS, NUM_GROUPS, DIM)
        for keys, values in contiguous:
            split = (t.view(NUM_REQUESTS, NUM_KV_HEADS, NUM_KEYS, DIM) for t in (keys, values))
            F.scaled_dot_product_attention(heads, *split)

    def contiguous_products() -> None:
        for keys, values in contiguous:
            multiply(query, keys, values)

    def gathered_products() -> None:
        for layer in range(NUM_LAYERS):
            keys, values = matrices.gather(layer, matrices.head_blocks(layer, table))
            multiply(query, keys.flatten(0, 1), values.flatten(0, 1))

    def compiled(cache: KVCache) -> None:
        heads = query.view(-1, NUM_REQUESTS, DIM)
        for layer in range(NUM_LAYERS):
            pool = cache.panels(layer)
            assert pool is not None
            compiled_attention.attend(heads, pool, tiles, first_keys=first_keys, scaling=DIM**-0.5)

    yield "scaled_dot_product_attention, contiguous keys", fused, NUM_LAYERS
    yield "product, softmax, product, contiguous keys", contiguous_products, NUM_LAYERS
    yield "gather blocks, product, softmax, product", gathered_products, NUM_LAYERS
    if can_compile():
        yield "compiled, blocks read where they lie", lambda: compiled(panels), NUM_LAYERS
        yield "compiled, blocks in eight bits", lambda: compiled(rounded), NUM_LAYERS


def filled_cache(*, is_plain: bool, make: type[KVCache] = KVCache) -> KVCache:
    """With panels where something is compiled for plain attention, otherwise with matrices."""
    shape = LayerShape(
        num_heads=NUM_GROUPS * NUM_KV_HEADS,
        num_kv_heads=NUM_KV_HEADS,
        key_dim=DIM,
        value_dim=DIM,
        is_plain=is_plain,
    )
    cache = make(
        [shape] * NUM_LAYERS,
        num_blocks=NUM_REQUESTS * NUM_KEYS // BLOCK_SIZE,
        block_size=BLOCK_SIZE,
        dtype=torch.bfloat16,
        device=torch.device("cpu"),
    )
    slots = torch.arange(cache.num_blocks * BLOCK_SIZE)
    for layer in range(NUM_LAYERS):
        key, value = torch.randn(2, NUM_KV_HEADS, len(slots), DIM).bfloat16()
        cache.write(layer, key, value, slots)
    return cache


def multiply(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    weights = torch.softmax(torch.bmm(query, keys.transpose(1, 2)), dim=-1)
    return torch.bmm(weights, values)


def products() -> Timed:
    """All linear layers of the model."""
    shapes = (*LAYER_SHAPES * NUM_LAYERS, (VOCAB_SIZE, 896))
    with huge_pages(sum(num_outputs * num_inputs * 2 for num_outputs, num_inputs in shapes)):
        layers = [
            PackedLinear(nn.Linear(num_inputs, num_outputs, bias=False, dtype=torch.bfloat16))
            for num_outputs, num_inputs in shapes
        ]

    def by_onednn(inputs: dict[int, Tensor]) -> None:
        for layer in layers:
            x = inputs[layer.in_features]
            torch.ops.mkldnn._linear_pointwise(x, layer.weight_packed, None, "none", [], "")

    def by_layer(inputs: dict[int, Tensor]) -> None:
        for layer in layers:
            layer(inputs[layer.in_features])

    for num_rows in (1, 2, 4, 8, 64, 512):
        rows = {width: torch.randn(num_rows, width).bfloat16() for width in (896, 4864)}
        yield f"{num_rows} rows through all weights, oneDNN", lambda x=rows: by_onednn(x), 1
        if can_compile():
            yield f"{num_rows} rows through all weights, compiled", lambda x=rows: by_layer(x), 1


def adapters() -> Timed:
    """What un-merged adapters add to a step."""
    num_rows, num_adapters, rank = 64, 8, 16
    slots = torch.arange(num_rows) % num_adapters
    mask = (torch.arange(num_adapters * rank) // rank == slots[:, None]).bfloat16()
    rows, ends = torch.argsort(slots, stable=True), torch.bincount(slots).cumsum(0).int()
    layers = []
    for num_outputs, num_inputs in ADAPTED_SHAPES * NUM_LAYERS:
        downs = torch.randn(num_adapters, rank, num_inputs).bfloat16() / num_inputs**0.5
        ups = torch.randn(num_adapters, rank, num_outputs).bfloat16()
        x, out = torch.randn(num_rows, num_inputs), torch.randn(num_rows, num_outputs)
        stacked = LowRank(downs.flatten(0, 1), ups.flatten(0, 1))
        panels = [RankPanels.of(down, up) for down, up in zip(downs, ups, strict=True)]
        layers.append((stacked, panels, x.bfloat16(), out.bfloat16()))

    def masked() -> None:
        for stacked, _, x, out in layers:
            stacked.add(out, stacked.ranks(x) * mask)

    def compiled() -> None:
        for product, (*_, x, out) in zip(products, layers, strict=True):
            product.add_(out, x, rows, ends)

    yield "8 adapters, 64 rows, stacked and masked", masked, 1
    if can_compile():
        products = [CompiledLowRank(panels) for _, panels, _, _ in layers]
        yield "8 adapters, 64 rows, compiled", compiled, 1


def draws() -> Timed:
    """A token for each of 64 rows."""
    logits = torch.randn(64, VOCAB_SIZE).bfloat16() * 3
    yield "Tensor.argmax", lambda: logits.argmax(dim=1), 1
    yield "argmax in two levels", lambda: argmax(logits), 1
    wishes = {
        "temperature 0.7": SamplingParams(temperature=0.7),
        "temperature 0.7, top_p 0.8": SamplingParams(temperature=0.7, top_p=0.8),
    }
    for name, params in wishes.items():
        requests = [request(params, row, [1]) for row in range(64)]
        yield f"a draw at {name}", lambda some=requests: draw(logits, some), 1


def request(params: SamplingParams, seed: int, prompt_ids: list[int]) -> Request:
    return Request(
        request_id=str(seed),
        prompt_ids=tuple(prompt_ids),
        params=params,
        seed=seed,
        stop_ids=frozenset(),
        max_num_tokens=2 * len(prompt_ids),
    )


def planning() -> Timed:
    """The host's part of a large step on a GPU."""
    num_requests, prompt_length = 1024, 256
    scheduler = Scheduler(
        EngineConfig(
            num_blocks=num_requests * (prompt_length // BLOCK_SIZE + 4),
            max_num_requests=num_requests,
            max_num_batched_tokens=8192,
            max_context_tokens=2 * prompt_length,
            speculation=False,
        )
    )
    for number in range(num_requests):
        ids = torch.randint(VOCAB_SIZE, (prompt_length,)).tolist()
        scheduler.add(request(SamplingParams(temperature=0), number, ids))
    while any(each.num_computed_tokens < prompt_length for each in scheduler.requests()):
        plan = scheduler.plan()
        for chunk in plan.chunks:
            if chunk.samples:
                chunk.request.append(0, None)
        scheduler.commit(plan)
    plan = scheduler.plan()
    shape = WorkShape(num_wide_tokens=16, num_items_wanted=66)
    yield "plan 1,024 decoding requests", scheduler.plan, 1
    yield "pack their step for the kernels", lambda: pack(plan, shape, BLOCK_SIZE), 1


if __name__ == "__main__":
    main()
