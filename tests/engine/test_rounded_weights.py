"""Weights rounded at load: as the plain form computes, and alone as in a crowd."""

import itertools
from pathlib import Path

import pytest
import torch
from torch import nn

from martlet.backends.load import load_backend
from martlet.backends.opened import open_model
from martlet.backends.options import BackendOptions
from martlet.engine.engine import Engine
from martlet.engine.params import SamplingParams
from martlet.errors import ParameterError
from martlet.models.folder import ModelFolder, open_folder
from martlet.models.linear.int4 import Int4Linear
from martlet.models.linear.int8 import Int8Linear
from martlet.models.linear.integer import IntegerLinear
from martlet.models.linear.packed import can_pack
from martlet.models.linear.rounded import round_linear, to_int4, to_int8
from martlet.models.load import load_model
from martlet.models.machine_code.support import can_compile
from martlet.models.weights import Weights, held_bytes
from support.adapters import make_adapter
from support.engines import make_engine, run_to_end
from support.tiny_models import tiny_model_folder

pytestmark = pytest.mark.skipif(not can_pack(), reason="this CPU packs no bf16 weights")
CPU = torch.device("cpu")
PARAMS = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return open_folder(tiny_model_folder("qwen2", tmp_path_factory.mktemp("base") / "model"))


@pytest.mark.parametrize("num_rows", [1, 5, 70])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_fast_int8_layer_computes_what_the_plain_one_does(
    dtype: torch.dtype, num_rows: int
) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(96, 80, dtype=dtype).requires_grad_(False)
    # Rows of very different size: each has a scale of its own. The last one is zero.
    x = (torch.randn(1, num_rows, 96) * torch.logspace(-4, 4, num_rows)[:, None]).to(dtype)
    x[:, -1] *= num_rows == 1
    stored = to_int8(linear)
    expected, got = stored(x).float(), Int8Linear(stored)(x).float()
    error = (got - expected).norm(dim=-1) / expected.norm(dim=-1)
    assert error.max() < (1e-3 if dtype == torch.float32 else 1e-2)
    assert (expected - linear(x).float()).norm(dim=-1).max() < 0.02 * expected.norm(dim=-1).max()


def test_the_fast_int4_layer_computes_what_the_plain_one_does() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(96, 80, dtype=torch.bfloat16).requires_grad_(False)
    x = torch.randn(1, 5, 96).bfloat16()
    stored = to_int4(linear)
    expected, got = stored(x).float(), Int4Linear(stored)(x).float()
    assert (got - expected).norm() < 0.01 * expected.norm()
    assert (expected - linear(x).float()).norm() < 0.15 * expected.norm()


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_a_row_is_computed_alike_to_the_last_bit_whoever_its_neighbours_are(
    weights: Weights,
) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(256, 96, dtype=torch.bfloat16).requires_grad_(False)
    layer = round_linear(linear, weights)
    assert layer is not None
    x = torch.randn(1, 70, 256).bfloat16() * torch.logspace(-3, 3, 70)[:, None].bfloat16()
    crowd = layer(x)
    for row in range(70):
        assert torch.equal(layer(x[:, row : row + 1]), crowd[:, row : row + 1])


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_the_same_tokens_alone_and_in_a_crowd(
    folder: ModelFolder, tmp_path: Path, weights: Weights
) -> None:
    if weights == "int4" and not can_compile():
        pytest.skip("PyTorch's four bits have no fast product of fp32")
    # In fp32, so that only the rounding of weights and tokens is at stake.
    model = load_model(folder, dtype=torch.float32, device=CPU, weights=weights)
    adapter = make_adapter(tmp_path / "a", folder, r=4, target_modules="all-linear")
    engine = make_engine(model)
    engine.adapters.install(engine.adapters.prepare("a", str(adapter)))
    prompts = [list(range(7 + i, 12 + 3 * i)) for i in range(32)]
    names = list(itertools.islice(itertools.cycle((None, "a", None)), 32))
    alone = []
    for prompt, name in zip(prompts, names, strict=True):
        alone += replies(engine, [prompt], [name])
    assert replies(engine, prompts, names) == alone


def replies(
    engine: Engine, prompts: list[list[int]], adapters: list[str | None]
) -> list[tuple[int, ...]]:
    requests = [
        engine.add(str(i), prompt, PARAMS, seed=i, adapter=name)
        for i, (prompt, name) in enumerate(zip(prompts, adapters, strict=True))
    ]
    run_to_end(engine)
    return [tuple(request.token_ids[request.num_prompt_tokens :]) for request in requests]


def test_the_option_reaches_the_model_its_identity_and_the_plan_of_memory() -> None:
    options = BackendOptions(weights="int8")
    opened, plain = open_model("demo", options), open_model("demo", BackendOptions())
    assert opened.identity("native").dtype.endswith("int8 weights")
    assert opened.identity("native") != plain.identity("native")
    assert opened.memory.weights_bytes == held_bytes(opened.folder, opened.dtype, "int8")
    assert opened.memory.weights_bytes < 0.6 * plain.memory.weights_bytes
    backend = load_backend("demo", options=options)
    head = backend.engine._model.module.get_output_embeddings()  # type: ignore[attr-defined]
    assert isinstance(head, IntegerLinear if can_compile() else Int8Linear)
    backend.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "int8", "backend": "transformers"}, "--backend native"),
        ({"weights": "int4", "dtype": "fp32"}, "--dtype bf16"),
        ({"weights": "int3"}, "stored, int8, int4"),
        ({"kv_dtype": "fp8", "device": "cpu"}, "a CPU keeps keys and values in int8"),
        ({"kv_dtype": "fp8", "backend": "transformers"}, "--backend native"),
        ({"kv_dtype": "int8", "backend": "transformers"}, "--backend native"),
        ({"kv_dtype": "int4"}, "kv_dtype must be one of model, int8, fp8"),
    ],
)
def test_what_cannot_be_rounded_is_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        open_model("demo", BackendOptions(**options))  # type: ignore[arg-type]
