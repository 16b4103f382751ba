"""Keys and values in E4M3: the kernels' bits, attention over them, and what the rounding costs."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from martlet.engine.cuda.attention import write
from martlet.engine.cuda.fp8_cache import Fp8Cache, from_fp8, to_fp8
from martlet.engine.cuda.work import WorkShape
from martlet.engine.engine import Engine
from martlet.engine.kv_cache import rounded_bytes_per_token
from martlet.engine.params import SamplingParams
from martlet.models.folder import ModelFolder, open_folder
from martlet.models.guard import LayerShape
from martlet.models.load import load_model
from martlet.models.memory import kv_bytes_per_token
from support.attention_steps import (
    DEVICE,
    Asked,
    Vectors,
    by_kernels,
    make_plan,
    new_vectors,
    plain,
)
from support.engines import make_engine, run_to_end
from support.tiny_models import tiny_model_folder

BLOCK_SIZE = 16
LAYER = LayerShape(num_heads=6, num_kv_heads=2, key_dim=24, value_dim=16)
SAMPLED = SamplingParams(temperature=1, max_tokens=4, ignore_eos=True)
ASKED = [
    Asked(start=600),
    Asked(start=590, shares=(0, 30)),
    Asked(start=3),
    Asked(start=0, num_tokens=21),
    Asked(start=37, num_tokens=18),
]


def new_cache(num_blocks: int) -> Fp8Cache:
    return Fp8Cache(
        [LAYER], num_blocks=num_blocks, block_size=BLOCK_SIZE, dtype=torch.float32, device=DEVICE
    )


def filled_cache(num_blocks: int) -> Fp8Cache:
    cache = new_cache(num_blocks)
    vectors = new_vectors(LAYER, num_blocks * BLOCK_SIZE, torch.float32)
    cache.write(0, vectors.key, vectors.value, torch.arange(num_blocks * BLOCK_SIZE).to(DEVICE))
    return cache


def rounded(x: Tensor) -> Tensor:
    return from_fp8(*to_fp8(x))


def test_kernels_round_every_number_as_pytorch_does() -> None:
    """All magnitudes from what vanishes to the largest, ties among them, and rows of zeros."""
    steps = torch.arange(2**13, dtype=torch.int32) * 2**18 + 2**17
    numbers = steps.view(torch.float32)
    numbers = numbers[numbers.isfinite() & (numbers < 448)]
    exact = torch.arange(1, 126, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    ties = (exact[1:] + exact[:-1]) / 2
    numbers = torch.cat([numbers, -numbers, exact, ties, -ties])
    num_tokens = -(-len(numbers) // (2 * 23)) + 1
    padded = torch.zeros(2 * num_tokens * 23)
    padded[: len(numbers)] = numbers
    # One number sets the scale of each row to 1, save in the last ones.
    key = torch.cat([padded.view(2, num_tokens, 23), torch.full((2, num_tokens, 1), 448.0)], dim=2)
    key[0, -1], key[1, -1] = 0, 1e-38
    key, value = key.to(DEVICE), new_vectors(LAYER, num_tokens, torch.float32).value
    plainly, by_kernel = (new_cache(-(-num_tokens // BLOCK_SIZE)) for _ in range(2))
    slots = torch.arange(num_tokens).to(DEVICE)
    plainly.write(0, key, value, slots)
    write(by_kernel, 0, key, value, slots)
    for ours, theirs in zip(by_kernel.pools(0), plainly.pools(0), strict=True):
        assert torch.equal(ours, theirs)
    for ours, theirs in zip(by_kernel.scales(0), plainly.scales(0), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("how", [{}, {"sliding_window": 50}], ids=["all", "window"])
@pytest.mark.parametrize("num_items", [2, 40], ids=["whole", "cut"])
def test_attention_reads_what_was_rounded(how: dict[str, object], num_items: int) -> None:
    plan, num_blocks = make_plan(ASKED, BLOCK_SIZE)
    vectors = new_vectors(LAYER, plan.num_tokens, torch.float32)
    # The plain operations attend to a prompt's own keys, and not to what the pool made of them.
    given = Vectors(query=vectors.query, key=rounded(vectors.key), value=rounded(vectors.value))
    expected = plain(plan, filled_cache(num_blocks), given, how, None)
    shape = WorkShape(num_wide_tokens=4, num_items_wanted=num_items)
    got = by_kernels(plan, filled_cache(num_blocks), vectors, how, None, shape)
    torch.testing.assert_close(got, expected, rtol=2e-5, atol=2e-5)


def test_a_number_is_rounded_by_a_sixteenth_at_most_whatever_its_row_holds() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1000, 128, generator=generator)
    x *= 10 ** torch.randint(-20, 20, (1000, 1), generator=generator)
    error = (rounded(x) - x).abs()
    # Far below the largest of its row, a number is rounded to steps of 2^-9 of 448ths.
    smallest = x.abs().amax(dim=1, keepdim=True) / 448 * 2**-10
    assert (error <= torch.maximum(x.abs() / 16, smallest) * 1.001).all()
    assert (error.norm() / x.norm()).item() < 0.03


@pytest.mark.filterwarnings("ignore:invalid value")  # NumPy's word for what is asked for here.
def test_a_token_that_is_not_finite_stays_so_until_it_is_cleared() -> None:
    cache = new_cache(2)
    key, value = (torch.ones(2, 3, dim, device=DEVICE) for dim in (24, 16))
    key[0, 0, 5], value[1, 1, 3] = float("nan"), float("inf")
    write(cache, 0, key, value, torch.tensor([0, 17, 18], device=DEVICE))
    for bad in ((0, 0, 0), (1, 1, 17)):
        kind, head, slot = bad
        assert not cache.scales(0)[kind][head, slot].isfinite()
    cache.clear([0])
    cache.clear_slots(torch.tensor([17], device=DEVICE))
    for scales in cache.scales(0):
        assert scales.isfinite().all()
        assert scales[:, :18].count_nonzero() == 0
        assert scales[:, 18].count_nonzero() == 2


@torch.inference_mode()
@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_an_engine_strays_little(architecture: str, tmp_path: Path) -> None:
    folder = open_folder(tiny_model_folder(architecture, tmp_path / architecture))
    model = load_model(folder, dtype=torch.float32, device=DEVICE)
    prompt = tuple(range(5, 60))
    exact, got = (
        make_engine(model, uses_kernels=True, kv_dtype=kind).logits(prompt)
        for kind in ("model", "fp8")
    )
    error = ((got - exact).norm() / exact.norm()).item()
    assert 0 < error < 0.15


def test_replies_do_not_depend_on_how_they_were_computed(tiny_llama: ModelFolder) -> None:
    """Alone or together, in chunks, after a prefix hit: a token is rounded by itself."""
    prompts = [list(range(5, 45)), [*range(5, 40), 3, 4], [9]]

    def replies(engine: Engine, *, together: bool) -> list[list[int]]:
        requests = []
        for index, prompt in enumerate(prompts):
            requests.append(engine.add(str(index), prompt, SAMPLED, seed=index))
            if not together:
                run_to_end(engine)
        run_to_end(engine)
        return [request.output_ids for request in requests]

    def new_engine(**sizes: int) -> Engine:
        model = load_model(tiny_llama, dtype=torch.float32, device=DEVICE)
        return make_engine(model, uses_kernels=True, kv_dtype="fp8", graph_sizes=(1, 2, 4), **sizes)

    alone = replies(new_engine(), together=False)
    assert (
        replies(new_engine(max_num_batched_tokens=16, max_num_requests=4), together=True) == alone
    )


def test_the_pool_takes_what_was_planned(tiny_llama: ModelFolder) -> None:
    model = load_model(tiny_llama, dtype=torch.float32, device=DEVICE)
    planned = kv_bytes_per_token(tiny_llama.shape, bytes_per_value=1, has_scales=True)
    assert rounded_bytes_per_token(model.layers) == planned
    cache = Fp8Cache(
        model.layers, num_blocks=3, block_size=BLOCK_SIZE, dtype=model.dtype, device=DEVICE
    )
    tensors = [t for i in range(len(model.layers)) for t in (*cache.pools(i), *cache.scales(i))]
    assert np.sum([t.nbytes for t in tensors]) == planned * 3 * BLOCK_SIZE
