"""The attention kernels against the plain operations, on steps of many kinds."""

import pytest
import torch

from martlet.engine.cuda.work import WorkShape
from martlet.models.guard import LayerShape
from support.attention_steps import (
    DEVICE,
    Asked,
    by_kernels,
    empty_step,
    make_plan,
    new_cache,
    new_vectors,
    plain,
)

BLOCK_SIZE = 16
SMALL = LayerShape(num_heads=4, num_kv_heads=2, key_dim=16, value_dim=16)
MIXED = [
    Asked(start=0),
    Asked(start=90),
    Asked(start=600),
    Asked(start=15),
    Asked(start=0, num_tokens=21),
    Asked(start=37, num_tokens=18),
]
SHARING = [
    Asked(start=1400),
    Asked(start=1377, shares=(0, 80)),
    Asked(start=1290, shares=(0, 80)),
    Asked(start=1350, shares=(0, 70)),
    Asked(start=20),
    Asked(start=0, num_tokens=5),
]
# The interpreter multiplies the bits of bfloat16 as whole numbers.
HALF = torch.bfloat16 if DEVICE.type == "cuda" else torch.float16
FEW_TILES = WorkShape(num_wide_tokens=4, num_items_wanted=2)
MANY_PARTS = WorkShape(num_wide_tokens=2, num_items_wanted=40)


def assert_equal(
    asked: list[Asked],
    layer: LayerShape = SMALL,
    *,
    shape: WorkShape = FEW_TILES,
    dtype: torch.dtype = torch.float32,
    chunk: int | None = None,
    **how: object,
) -> None:
    """Both kinds of attention give the same, and leave the same pool."""
    plan, num_blocks = make_plan(asked, BLOCK_SIZE)
    caches = [new_cache(layer, num_blocks + 3, BLOCK_SIZE, dtype) for _ in range(2)]
    vectors = new_vectors(layer, plan.num_tokens, dtype)
    expected = plain(plan, caches[0], vectors, how, chunk)
    got = by_kernels(plan, caches[1], vectors, how, chunk, shape)
    tolerance = 2e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)
    for ours, theirs in zip(caches[1].pools(0), caches[0].pools(0), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("shape", [FEW_TILES, MANY_PARTS], ids=["whole", "cut"])
@pytest.mark.parametrize("asked", [MIXED, SHARING], ids=["mixed", "sharing"])
def test_steps_of_prompts_replies_and_sharers(asked: list[Asked], shape: WorkShape) -> None:
    assert_equal(asked, shape=shape)


@pytest.mark.parametrize("shape", [FEW_TILES, MANY_PARTS], ids=["whole", "cut"])
@pytest.mark.parametrize(
    "how",
    [
        {"sliding_window": 50},
        {"chunk": 64},
        {"softcap": 2.0, "scaling": 0.4},
        {"s_aux": torch.tensor([-1.0, 0.0, 3.0, 200.0])},
    ],
    ids=["window", "chunk", "softcap", "sinks"],
)
def test_what_architectures_add(how: dict[str, object], shape: WorkShape) -> None:
    how = {name: v.to(DEVICE) if isinstance(v, torch.Tensor) else v for name, v in how.items()}
    for asked in (MIXED, SHARING):
        assert_equal(asked, shape=shape, **how)


@pytest.mark.parametrize("dtype", [torch.float32, HALF])
@pytest.mark.parametrize(
    "layer",
    [
        LayerShape(num_heads=3, num_kv_heads=3, key_dim=64, value_dim=64),
        LayerShape(num_heads=14, num_kv_heads=2, key_dim=64, value_dim=64),
        LayerShape(num_heads=2, num_kv_heads=1, key_dim=80, value_dim=80),
        LayerShape(num_heads=6, num_kv_heads=2, key_dim=96, value_dim=48),
        LayerShape(num_heads=8, num_kv_heads=2, key_dim=128, value_dim=128),
        LayerShape(num_heads=18, num_kv_heads=1, key_dim=256, value_dim=256),
    ],
    ids=lambda layer: f"{layer.num_heads}-{layer.num_kv_heads}-{layer.key_dim}-{layer.value_dim}",
)
def test_shapes_of_heads(layer: LayerShape, dtype: torch.dtype) -> None:
    asked = [Asked(start=40), Asked(start=3), Asked(start=9, num_tokens=7)]
    assert_equal(asked, layer, dtype=dtype)


def test_rows_that_are_no_tokens_write_nothing_and_come_out_as_zero() -> None:
    _, num_blocks = make_plan(MIXED[:3], BLOCK_SIZE)
    cache = new_cache(SMALL, num_blocks, BLOCK_SIZE, torch.float32)
    before = [pool.clone() for pool in cache.pools(0)]
    out = empty_step(cache, SMALL, num_rows=5)
    assert torch.equal(out, torch.zeros_like(out))
    for pool, kept in zip(cache.pools(0), before, strict=True):
        assert torch.equal(pool, kept)
