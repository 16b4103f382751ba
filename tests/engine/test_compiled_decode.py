"""Compiled attention gives what the plain one gives, which is its oracle."""

import pytest
import torch

from martlet.engine import attention
from martlet.engine.attention import BlockTable, DecodeGroup, Reach
from martlet.engine.compiled_decode import can_decode
from martlet.engine.kv_cache import KVCache
from martlet.models.compiled.threads import can_compile
from martlet.models.guard import LayerShape

pytestmark = pytest.mark.skipif(not can_compile(), reason="nothing is compiled on this machine")


def filled_cache(num_kv_heads: int, dim: int, *, block_size: int = 16) -> KVCache:
    shape = LayerShape(num_kv_heads=num_kv_heads, key_dim=dim, value_dim=dim)
    cache = KVCache(
        [shape],
        num_blocks=96,
        block_size=block_size,
        dtype=torch.bfloat16,
        device=torch.device("cpu"),
    )
    for pool in cache.pools(0):
        pool.normal_()
    return cache


def group_of(lengths: list[int]) -> DecodeGroup:
    """Requests of these lengths, in shuffled blocks; the first blocks are everybody's."""
    num_blocks = -(-max(lengths) // 16)
    table = torch.stack([torch.randperm(96)[:num_blocks] for _ in lengths])
    table[:, :1] = 5
    for row, length in zip(table, lengths, strict=True):
        row[-(-length // 16) :] = row[-(-length // 16) - 1]
    positions = torch.tensor(lengths) - 1
    return DecodeGroup(rows=slice(0, len(lengths)), table=BlockTable(table), positions=positions)


def attend(query, cache, group, reach=Reach(), *, compiled=True, scaling=0.2):  # noqa: B008
    head = attention._Head(scaling=scaling, reach=reach, softcap=None, sinks=None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "can_decode", lambda *_: compiled)
        return attention._decode_group(query, cache, 0, group, head)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("reach", [Reach(), Reach(window=40), Reach(chunk=64)])
@pytest.mark.parametrize(
    ("num_heads", "num_kv_heads", "dim"), [(14, 2, 64), (16, 16, 32), (24, 1, 128)]
)
def test_it_equals_the_plain_one(num_heads: int, num_kv_heads: int, dim: int, reach: Reach) -> None:
    cache, group = filled_cache(num_kv_heads, dim), group_of([1, 15, 16, 17, 100, 256, 257, 700])
    assert can_decode(cache, 0, num_heads)
    query = torch.randn(num_heads, 8, dim).bfloat16()
    expected = attend(query, cache, group, reach, compiled=False).float()
    for given in (query, query.transpose(0, 1).contiguous().transpose(0, 1)):
        got = attend(given, cache, group, reach).float()
        assert (got - expected).norm() < 0.01 * expected.norm()


def test_scores_of_any_size_give_weights_that_sum_to_one() -> None:
    cache, group = filled_cache(2, 64), group_of([300, 700])
    cache.pools(0)[1].fill_(0.5)
    query = torch.randn(4, 2, 64).bfloat16()
    for scaling in (1e-6, 0.125, 30.0, 1e4):
        out = attend(query, cache, group, scaling=scaling).float()
        torch.testing.assert_close(out, torch.full_like(out, 0.5), rtol=1e-2, atol=0)


def test_what_is_not_finite_stays_with_its_request() -> None:
    cache, group = filled_cache(2, 64), group_of([100, 40])
    query = torch.randn(4, 2, 64).bfloat16()
    own_block = group.table.block_ids[0, 4]
    for pool in cache.pools(0):
        before = pool.clone()
        pool[:, own_block * 16 + 3] = float("nan")
        out = attend(query, cache, group)
        assert out.isnan().any(dim=(1, 2)).tolist() == [True, False]
        pool.copy_(before)


def test_pools_of_another_form_are_left_to_the_plain_one() -> None:
    assert not can_decode(filled_cache(2, 48), 0, 32)
    assert not can_decode(filled_cache(2, 64, block_size=8), 0, 32)
    assert not can_decode(filled_cache(2, 64), 0, 2)
