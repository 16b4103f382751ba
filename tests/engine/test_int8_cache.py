"""Keys and values in eight bits stray little, and no token depends on its neighbours' rounding."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from martlet.backends.opened import open_model
from martlet.backends.options import BackendOptions
from martlet.engine.engine import Engine
from martlet.engine.int8_cache import Int8Cache, RoundedPool, from_int8, to_int8
from martlet.engine.kv_cache import rounded_bytes_per_token
from martlet.engine.params import SamplingParams
from martlet.models.compiled.threads import can_compile
from martlet.models.folder import ModelFolder, open_folder
from martlet.models.load import LoadedModel, load_model
from martlet.models.memory import kv_bytes_per_token
from support.engines import BLOCK_SIZE, load_fp32, make_engine, run_to_end
from support.tiny_models import tiny_model_folder

CPU = torch.device("cpu")
SAMPLED = SamplingParams(temperature=0.8, max_tokens=12, ignore_eos=True)
WIDE = {
    "hidden_size": 512,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 64,
    # Small, as in trained models: in others an error grows from layer to layer.
    "initializer_range": 0.05,
}
needs_compiling = pytest.mark.skipif(not can_compile(), reason="nothing is compiled here")


def rounded(x: Tensor) -> Tensor:
    return from_int8(*to_int8(x))


@pytest.fixture(scope="module")
def wide_folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return open_folder(tiny_model_folder("llama", tmp_path_factory.mktemp("wide"), **WIDE))


@pytest.fixture(scope="module")
def wide(wide_folder: ModelFolder) -> LoadedModel:
    """Whose attention is compiled."""
    return load_model(wide_folder, dtype=torch.bfloat16, device=CPU)


def test_a_number_is_rounded_by_half_a_step_at_most_whatever_its_row_holds() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1000, 128, generator=generator)
    x *= 10 ** torch.randint(-20, 20, (1000, 1), generator=generator)
    step = x.abs().amax(dim=1, keepdim=True) / 127
    assert ((rounded(x) - x).abs() <= step * 0.5001).all()
    assert torch.equal(rounded(torch.zeros(2, 8)), torch.zeros(2, 8))


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_token_that_is_not_finite_stays_so_until_it_is_cleared(
    number: float, tiny_llama: ModelFolder
) -> None:
    model = load_fp32(tiny_llama)
    cache = Int8Cache(
        model.layers, num_blocks=3, block_size=BLOCK_SIZE, dtype=model.dtype, device=CPU
    )
    shape = model.layers[0]
    key, value = (torch.ones(shape.num_kv_heads, 3, dim) for dim in (shape.key_dim,) * 2)
    key[0, 0, 5] = value[1, 1, 3] = number
    cache.write(0, key, value, torch.tensor([0, 17, 18]))

    def finite() -> list[list[bool]]:
        both = cache.gather(0, cache.head_blocks(0, torch.tensor([[0, 1]])))
        return [
            each[:, 0, [0, 17, 18]].isfinite().flatten(2).all(2).all(0).tolist() for each in both
        ]

    assert finite() == [[False, True, True], [True, False, True]]
    cache.clear([0])
    cache.clear_slots(torch.tensor([17]))
    assert finite() == [[True] * 3] * 2


@torch.inference_mode()
@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_an_engine_strays_little(architecture: str, tmp_path: Path) -> None:
    model = load_fp32(open_folder(tiny_model_folder(architecture, tmp_path / architecture)))
    prompt = tuple(range(5, 60))
    exact, got = (make_engine(model, kv_dtype=kind).logits(prompt) for kind in ("model", "int8"))
    assert 0 < ((got - exact).norm() / exact.norm()).item() < 0.03


@needs_compiling
@torch.inference_mode()
def test_the_compiled_attention_strays_about_as_little_as_bf16(
    wide: LoadedModel, wide_folder: ModelFolder
) -> None:
    prompt = tuple(range(5, 305))
    got, eight = (
        make_engine(wide, kv_dtype=kind).logits(prompt).float() for kind in ("model", "int8")
    )
    exact = make_engine(load_fp32(wide_folder)).logits(prompt)
    errors = [((each - exact).norm() / exact.norm()).item() for each in (got, eight)]
    assert 0 < errors[0] < errors[1] < 2 * errors[0] < 0.05


def replies(engine: Engine, *, together: bool) -> list[list[int]]:
    prompts = [list(range(5, 45)), [*range(5, 40), 3, 4], [9], list(range(7, 100))]
    requests = []
    for index, prompt in enumerate(prompts):
        requests.append(engine.add(str(index), prompt, SAMPLED, seed=index))
        if not together:
            run_to_end(engine)
    run_to_end(engine)
    return [request.output_ids for request in requests]


def test_replies_do_not_depend_on_how_they_were_computed(tiny_llama: ModelFolder) -> None:
    """Alone or together, in chunks, after a prefix hit: a token is rounded by itself."""
    model = load_fp32(tiny_llama)
    alone = replies(make_engine(model, kv_dtype="int8"), together=False)
    small = {"max_num_batched_tokens": 16, "max_num_requests": 4}
    assert replies(make_engine(model, kv_dtype="int8", **small), together=True) == alone
    unshared = make_engine(model, kv_dtype="int8", prefix_sharing=False)
    assert replies(unshared, together=True) == alone


@needs_compiling
def test_compiled_too(wide: LoadedModel) -> None:
    # The products of bf16 rows may differ in a last bit with their number, so that is held.
    alone = replies(make_engine(wide, kv_dtype="int8", prefix_sharing=False), together=False)
    again = replies(make_engine(wide, kv_dtype="int8", prefix_sharing=True), together=False)
    assert again == alone


@needs_compiling
def test_wide_models_have_no_matrices_and_others_do(
    wide: LoadedModel, tiny_llama: ModelFolder
) -> None:
    sizes = {"num_blocks": 3, "block_size": BLOCK_SIZE, "device": CPU}
    panels = Int8Cache(wide.layers, dtype=wide.dtype, **sizes).panels(0)
    assert panels is not None
    assert panels.is_rounded
    narrow = Int8Cache(load_fp32(tiny_llama).layers, dtype=torch.float32, **sizes)
    assert isinstance(narrow._pools[0], RoundedPool)


@pytest.mark.parametrize("has_panels", [True, False])
def test_the_pool_takes_what_was_planned(
    has_panels: bool, wide: LoadedModel, tiny_llama: ModelFolder
) -> None:
    if has_panels and not can_compile():
        pytest.skip("nothing is compiled here")
    model = wide if has_panels else load_fp32(tiny_llama)
    cache = Int8Cache(
        model.layers, num_blocks=3, block_size=BLOCK_SIZE, dtype=model.dtype, device=CPU
    )
    taken = [
        pool._scales.nbytes + sum(each.nbytes for each in pool.slots)
        if isinstance(pool, RoundedPool)
        else pool.blocks.nbytes + pool.scales.nbytes  # type: ignore[union-attr]
        for pool in cache._pools
    ]
    assert np.sum(taken) == rounded_bytes_per_token(model.layers) * 3 * BLOCK_SIZE
    if not has_panels:
        planned = kv_bytes_per_token(tiny_llama.shape, bytes_per_value=1, has_scales=True)
        assert rounded_bytes_per_token(model.layers) == planned


def test_the_option_doubles_the_room_and_shows_in_the_identity() -> None:
    plain = open_model("demo", BackendOptions(kv_memory_gib=0.01))
    eight = open_model("demo", BackendOptions(kv_memory_gib=0.01, kv_dtype="int8"))
    assert eight.identity("native").dtype.endswith("int8 keys and values")
    ratio = eight.memory.num_tokens / plain.memory.num_tokens
    assert ratio > 1.6, "bf16; its heads are narrow, and scales take their part"
