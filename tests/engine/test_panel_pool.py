"""Keys and values come out of panels as they were put in, and as they come out of matrices."""

import pytest
import torch
from torch import Tensor

from martlet.engine.int8_cache import Int8Cache
from martlet.engine.kv_cache import KVCache
from martlet.models.compiled.threads import can_compile
from martlet.models.guard import LayerShape

pytestmark = pytest.mark.skipif(not can_compile(), reason="nothing is compiled on this machine")
NUM_BLOCKS, NUM_KV_HEADS, DIM = 12, 3, 96
NUM_SLOTS = NUM_BLOCKS * 16


def new_cache(make: type[KVCache], *, is_plain: bool) -> KVCache:
    """With panels, or, for an attention that is more than plain, with matrices."""
    shape = LayerShape(
        num_heads=6, num_kv_heads=NUM_KV_HEADS, key_dim=DIM, value_dim=DIM, is_plain=is_plain
    )
    cpu = torch.device("cpu")
    cache = make([shape], num_blocks=NUM_BLOCKS, block_size=16, dtype=torch.bfloat16, device=cpu)
    assert (cache.panels(0) is not None) == is_plain
    return cache


@pytest.fixture(params=[KVCache, Int8Cache])
def make(request: pytest.FixtureRequest) -> type[KVCache]:
    cache: type[KVCache] = request.param
    return cache


@pytest.fixture
def caches(make: type[KVCache]) -> tuple[KVCache, KVCache]:
    return new_cache(make, is_plain=True), new_cache(make, is_plain=False)


def random_vectors(num_tokens: int) -> tuple[Tensor, Tensor]:
    """Keys and values `[Hkv, T, D]`, as projections give them: the heads of a token in a row."""
    rows = torch.randn(num_tokens, 2, NUM_KV_HEADS, DIM).bfloat16()
    return rows[:, 0].transpose(0, 1), rows[:, 1].transpose(0, 1)


def assert_same(caches: tuple[KVCache, KVCache]) -> None:
    ids = torch.randperm(NUM_BLOCKS).view(3, 4)
    ours, theirs = (cache.gather(0, cache.head_blocks(0, ids)) for cache in caches)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.shape == other.shape == (NUM_KV_HEADS, 3, 64, DIM)
        # Sixteen bits are not those of bf16, but nearer to what was written than these are.
        error = (mine.float() - other.float()).norm() / other.float().norm()
        assert error == 0 if isinstance(caches[0], Int8Cache) else error < 2**-9


def test_what_is_written_is_gathered(caches: tuple[KVCache, KVCache]) -> None:
    torch.manual_seed(0)
    for num_tokens in (1, 7, 100, NUM_SLOTS):
        slots = torch.randperm(NUM_SLOTS)[:num_tokens]
        key, value = random_vectors(num_tokens)
        for cache in caches:
            cache.write(0, key, value, slots)
        assert_same(caches)


def test_numbers_of_a_head_may_lie_apart(caches: tuple[KVCache, KVCache]) -> None:
    key, value = (torch.randn(NUM_KV_HEADS, DIM, 20).bfloat16().transpose(1, 2) for _ in range(2))
    for cache in caches:
        cache.write(0, key, value, torch.arange(5, 25))
    assert_same(caches)


def test_blocks_and_slots_are_cleared(caches: tuple[KVCache, KVCache]) -> None:
    vectors = random_vectors(NUM_SLOTS)
    for cache in caches:
        cache.write(0, *vectors, torch.arange(NUM_SLOTS))
        cache.clear([3, 7])
        cache.clear_slots(torch.tensor([0, 17, 18, NUM_SLOTS - 1]))
    assert_same(caches)


def test_a_pool_is_laid_out_anew_once_that_is_worth_it(
    make: type[KVCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors, expected = random_vectors(NUM_SLOTS), new_cache(make, is_plain=False)
    with monkeypatch.context() as narrow:
        narrow.setattr("martlet.engine.panel_pool.is_compiled_for", lambda *_: False)
        shape = LayerShape(num_heads=6, num_kv_heads=NUM_KV_HEADS, key_dim=DIM, value_dim=DIM)
        cache = make(
            [shape],
            num_blocks=NUM_BLOCKS,
            block_size=16,
            dtype=torch.bfloat16,
            device=torch.device("cpu"),
        )
        assert cache.panels(0) is None
    for each in (cache, expected):
        each.write(0, *vectors, torch.arange(NUM_SLOTS))
    expected.clear([2])
    cache.lay_out_anew([block for block in range(NUM_BLOCKS) if block != 2])
    assert cache.panels(0) is not None
    assert_same((cache, expected))
