"""Compiled attention gives what the plain one gives, which is its oracle."""

import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Self

import pytest
import torch
from torch import Tensor

from martlet.engine.attention import StepAttention, paged_attention
from martlet.engine.batch import BatchBuilder, PackedChunks
from martlet.engine.int8_cache import Int8Cache
from martlet.engine.kv_cache import KVCache
from martlet.engine.params import SamplingParams
from martlet.engine.plan import Chunk, StepPlan
from martlet.engine.request import Request
from martlet.models.compiled.threads import can_compile
from martlet.models.guard import LayerShape

pytestmark = pytest.mark.skipif(not can_compile(), reason="nothing is compiled on this machine")
NUM_BLOCKS = 256
CPU = torch.device("cpu")
in_both_caches = pytest.mark.parametrize("make", [KVCache, Int8Cache])


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def new_cache(
    make: type[KVCache], num_heads: int, num_kv_heads: int, dim: int, *, block_size: int = 16
) -> KVCache:
    shape = LayerShape(num_heads=num_heads, num_kv_heads=num_kv_heads, key_dim=dim, value_dim=dim)
    return make(
        [shape], num_blocks=NUM_BLOCKS, block_size=block_size, dtype=torch.bfloat16, device=CPU
    )


@dataclass
class Vectors:
    """Keys and values of all slots, `[Hkv, S, D]`, beside the pool that they are in."""

    keys: Tensor
    values: Tensor

    @classmethod
    def put_in(cls, cache: KVCache) -> Self:
        shape = cache.layers[0]
        size = (shape.num_kv_heads, NUM_BLOCKS * cache.block_size, shape.key_dim)
        vectors = cls(*(torch.randn(size).bfloat16() for _ in range(2)))
        vectors.write_to(cache)
        return vectors

    def write_to(self, cache: KVCache) -> None:
        cache.write(0, self.keys, self.values, torch.arange(self.keys.shape[1]))


def step_of(stretches: list[tuple[int, int]], cache: KVCache) -> StepAttention:
    """A step of requests that compute some tokens from a position on, in shuffled blocks."""
    free = iter(torch.randperm(NUM_BLOCKS).tolist())
    chunks = [
        Chunk(
            request=Request(
                request_id=str(start),
                prompt_ids=(1,) * (start + count),
                params=SamplingParams(),
                seed=0,
                stop_ids=frozenset(),
                max_num_tokens=9999,
            ),
            start=start,
            num_tokens=count,
            block_ids=tuple(next(free) for _ in range(-(-(start + count) // 16))),
            samples=False,
            scores_prompt=False,
        )
        for start, count in stretches
    ]
    builder = BatchBuilder(cache, CPU, chunked_layers=frozenset({0}), chunk_size=None)
    packed = PackedChunks.of(StepPlan(chunks=tuple(chunks)), cache.block_size)
    return builder.build(packed).attention


def attend(
    query: Tensor, step: StepAttention, vectors: Vectors, *, compiled: bool, **how: object
) -> Tensor:
    """`[Hq, T, D] -> [T, Hq, D]`, of keys and values that are in the pool already."""
    keys, values = (each[None, :, step.slots] for each in (vectors.keys, vectors.values))
    if not compiled:
        fields = ("cache", "slots", "decode_groups", "prefill_chunks", "chunked_layers")
        given = {name: getattr(step, name) for name in fields}
        step = StepAttention(**given, chunk_size=step.chunk_size)
    module = SimpleNamespace(layer_idx=0)
    out, _ = paged_attention(module, query[None], keys, values, None, martlet_step=step, **how)
    return out[0]


STRETCHES = [(0, 1), (14, 1), (15, 1), (16, 1), (255, 1), (256, 1), (700, 1), (0, 40), (37, 600)]


@in_both_caches
@pytest.mark.parametrize("window", [None, 40])
@pytest.mark.parametrize(
    ("num_heads", "num_kv_heads", "dim"), [(14, 2, 64), (16, 16, 32), (12, 2, 96), (24, 1, 128)]
)
def test_it_equals_the_plain_one(
    make: type[KVCache], num_heads: int, num_kv_heads: int, dim: int, window: int | None
) -> None:
    cache = new_cache(make, num_heads, num_kv_heads, dim)
    assert cache.panels(0) is not None
    vectors = Vectors.put_in(cache)
    step = step_of(STRETCHES, cache)
    query = torch.randn(num_heads, len(step.slots), dim).bfloat16()
    expected = attend(query, step, vectors, compiled=False, sliding_window=window).float()
    for given in (query, query.transpose(0, 1).contiguous().transpose(0, 1)):
        got = attend(given, step, vectors, compiled=True, sliding_window=window).float()
        differences = (got - expected).norm(dim=(1, 2)) / expected.norm(dim=(1, 2))
        assert differences.max() < 0.02


@in_both_caches
def test_a_token_comes_out_the_same_whoever_its_neighbours_are(make: type[KVCache]) -> None:
    cache = new_cache(make, 14, 2, 64)
    vectors = Vectors.put_in(cache)
    step = step_of(STRETCHES, cache)
    query = torch.randn(14, len(step.slots), 64).bfloat16()
    together = attend(query, step, vectors, compiled=True)
    for each in step.stretches:
        rows = slice(each.first_row, each.first_row + each.num_tokens)
        alone = replace(step, slots=step.slots[rows], stretches=[replace(each, first_row=0)])
        alone = replace(alone, _tiles={}, _first_keys={})
        assert torch.equal(attend(query[:, rows], alone, vectors, compiled=True), together[rows])


@in_both_caches
def test_scores_of_any_size_give_weights_that_sum_to_one(make: type[KVCache]) -> None:
    cache = new_cache(make, 14, 2, 64)
    vectors = Vectors.put_in(cache)
    vectors.values.fill_(0.5)
    vectors.write_to(cache)
    step = step_of(STRETCHES, cache)
    query = torch.randn(14, len(step.slots), 64).bfloat16()
    for scaling in (1e-6, 0.125, 30.0, 1e4):
        out = attend(query, step, vectors, compiled=True, scaling=scaling).float()
        torch.testing.assert_close(out, torch.full_like(out, 0.5), rtol=1e-2, atol=0)


def test_scores_are_finer_than_those_of_bf16() -> None:
    cache = new_cache(KVCache, 14, 2, 64)
    vectors = Vectors(*(torch.randn(2, NUM_BLOCKS * 16, 64) for _ in range(2)))
    vectors.write_to(cache)
    step = step_of([(400, 1)], cache)
    query = torch.randn(14, 1, 64)
    got = attend(query, step, vectors, compiled=True, scaling=3.0).double()
    blocks = torch.tensor(step.stretches[0].block_ids)
    slots = (blocks[:, None] * 16 + torch.arange(16)).flatten()[:401]
    keys, values = (each[:, slots] for each in (vectors.keys, vectors.values))

    def attended(query: Tensor, keys: Tensor) -> Tensor:
        grouped = query.double().view(2, 7, 64)
        weights = torch.softmax(3.0 * grouped @ keys.double().transpose(1, 2), dim=-1)
        return (weights @ values.double()).view(1, 14, 64)

    exact = attended(query, keys)
    by_bf16 = (attended(query.bfloat16(), keys.bfloat16()) - exact).norm()
    rounding = (exact.bfloat16() - exact).norm()
    assert (got - exact).norm() < 1.1 * rounding < 0.3 * by_bf16


@pytest.mark.parametrize("length", [1e-12, 1.0, 1e4])
def test_no_sum_of_products_leaves_its_bits(length: float) -> None:
    cache = new_cache(KVCache, 14, 2, 64)
    same, one = torch.full((64,), length / 8), torch.zeros(64)
    one[5] = length
    for vector in (same, one):
        vectors = Vectors.put_in(cache)
        vectors.keys = vector.expand(2, NUM_BLOCKS * 16, 64).clone()
        vectors.keys[:, ::2] *= -1
        vectors.values = torch.full_like(vectors.keys, 1.0)
        vectors.values[:, ::2] = -1.0
        vectors.write_to(cache)
        step = step_of([(700, 1)], cache)
        query = vector.expand(14, 1, 64)
        out = attend(query, step, vectors, compiled=True, scaling=50 / length**2)
        torch.testing.assert_close(out.float(), torch.full((1, 14, 64), 1.0))


@in_both_caches
def test_a_query_of_zeros_attends_to_all_alike(make: type[KVCache]) -> None:
    cache = new_cache(make, 14, 2, 64)
    vectors = Vectors.put_in(cache)
    step = step_of(STRETCHES, cache)
    query = torch.zeros(14, len(step.slots), 64).bfloat16()
    out = attend(query, step, vectors, compiled=True).float()
    for each in step.stretches:
        if each.num_tokens == 1:
            blocks = torch.tensor(each.block_ids)
            slots = (blocks[:, None] * 16 + torch.arange(16)).flatten()[: each.start + 1]
            mean = vectors.values[:, slots].float().mean(dim=1).repeat_interleave(7, dim=0)
            torch.testing.assert_close(out[each.first_row], mean, rtol=0.02, atol=0.02)


@in_both_caches
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", ["keys", "values"])
def test_what_is_not_finite_stays_with_its_request(
    make: type[KVCache], part: str, number: float
) -> None:
    cache = new_cache(make, 14, 2, 64)
    vectors = Vectors.put_in(cache)
    step = step_of([(40, 1), (99, 1), (200, 3)], cache)
    query = torch.randn(14, 5, 64).bfloat16()
    slot = step.stretches[1].block_ids[4] * 16 + 3
    getattr(vectors, part)[:, slot] = number
    vectors.write_to(cache)
    out = attend(query, step, vectors, compiled=True)
    assert (~out.isfinite()).any(dim=(1, 2)).tolist() == [False, True, False, False, False]


@in_both_caches
def test_layers_of_another_form_have_no_panels(make: type[KVCache]) -> None:
    assert new_cache(make, 32, 2, 48).panels(0) is None
    assert new_cache(make, 32, 2, 64, block_size=8).panels(0) is None
    assert new_cache(make, 2, 2, 64).panels(0) is None


COMPILE = """
from martlet.models.compiled import attention, number_block

number_block.write_tokens(is_rounded={is_rounded})
attention.attend(is_rounded={is_rounded})
"""
ATTEND = """
import torch
from engine.test_compiled_attention import Vectors, attend, new_cache, step_of
from martlet.engine.int8_cache import Int8Cache
from martlet.engine.kv_cache import KVCache

torch.manual_seed(0)
for make in (KVCache, Int8Cache):
    cache = new_cache(make, 14, 2, 64)
    vectors = Vectors.put_in(cache)
    step = step_of([(40, 1), (0, 40)], cache)
    query = torch.randn(14, 41, 64).bfloat16()
    both = [attend(query, step, vectors, compiled=each).float() for each in (True, False)]
    assert (both[0] - both[1]).norm() < 0.02 * both[1].norm()
"""


def test_what_two_processes_compiled_is_told_apart_by_a_third(tmp_path: Path) -> None:
    tests = str(Path(__file__).parents[1])
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": tests}
    compiling = [COMPILE.format(is_rounded=each) for each in (False, True)]
    for script in (*compiling, ATTEND):
        subprocess.run([sys.executable, "-c", script], check=True, env=environment)
