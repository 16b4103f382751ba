"""The engine on a CUDA device: compiled kernels and recorded graphs; skipped where there is none.

The kernels' own tests (`tests/engine/cuda`) run compiled here too.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from martlet.engine.cuda.graphs import graph_ladder
from martlet.engine.engine import Engine
from martlet.engine.params import SamplingParams
from martlet.models.folder import ModelFolder, open_folder
from martlet.models.load import LoadedModel, load_model
from martlet.models.weights import Weights
from support.engines import (
    assert_same,
    greedy,
    greedy_reply,
    load_reference,
    make_engine,
    run_to_end,
)
from support.tiny_models import ARCHITECTURES, tiny_model_folder

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
PROMPTS = [list(range(5, 5 + length)) for length in (1, 16, 50)]


def load(folder: ModelFolder, dtype: torch.dtype, weights: Weights = "stored") -> LoadedModel:
    return load_model(folder, dtype=dtype, device=torch.device("cuda"), weights=weights)


def make_gpu_engine(model: LoadedModel, **sizes: Any) -> Engine:
    return make_engine(model, uses_kernels=True, graph_sizes=graph_ladder(32), **sizes)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_greedy_replies_in_fp32_equal_transformers(architecture: str, tmp_path: Path) -> None:
    folder = open_folder(tiny_model_folder(architecture, tmp_path / architecture))
    reference = load_reference(folder)
    engine = make_gpu_engine(load(folder, torch.float32), max_num_batched_tokens=40)
    requests = [engine.add(str(i), p, greedy(12), seed=i) for i, p in enumerate(PROMPTS)]
    run_to_end(engine)
    for request, prompt in zip(requests, PROMPTS, strict=True):
        assert_same(request, greedy_reply(reference, prompt, 12), tolerance=1e-3)


def test_plain_operations_give_the_same_without_triton(tiny_llama: ModelFolder) -> None:
    reference = load_reference(tiny_llama)
    engine = make_engine(load(tiny_llama, torch.float32), max_num_batched_tokens=40)
    requests = [engine.add(str(i), p, greedy(12), seed=i) for i, p in enumerate(PROMPTS)]
    run_to_end(engine)
    for request, prompt in zip(requests, PROMPTS, strict=True):
        assert_same(request, greedy_reply(reference, prompt, 12), tolerance=1e-3)


@torch.inference_mode()
@pytest.mark.parametrize("weights", ["stored", "int8", "int4", "fp8"])
def test_logits_in_bf16_are_near_those_in_fp64(tiny_llama: ModelFolder, weights: Weights) -> None:
    if weights == "fp8" and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("this GPU does not know E4M3")
    prompt = tuple(range(5, 60))
    exact = load_reference(tiny_llama).double()(torch.tensor([prompt])).logits[0]
    engine = make_gpu_engine(load(tiny_llama, torch.bfloat16, weights))
    got = engine.logits(prompt).double().cpu()
    error = ((got - exact).norm() / exact.norm()).item()
    assert error < {"stored": 0.02, "int8": 0.05, "int4": 0.5, "fp8": 0.15}[weights]


@torch.inference_mode()
def test_keys_and_values_in_fp8_stray_little(tiny_llama: ModelFolder) -> None:
    prompt = tuple(range(5, 60))
    model = load(tiny_llama, torch.bfloat16)
    exact = load_reference(tiny_llama).double()(torch.tensor([prompt])).logits[0]
    got = make_gpu_engine(model, kv_dtype="fp8").logits(prompt).double().cpu()
    assert ((got - exact).norm() / exact.norm()).item() < 0.15


def test_draws_are_those_of_the_cpu(tiny_llama: ModelFolder) -> None:
    """In fp32, by seed and position alone: whatever computes them, and however many at once."""
    params = [
        SamplingParams(temperature=1, max_tokens=12, ignore_eos=True),
        SamplingParams(temperature=0.8, top_p=0.9, top_k=20, max_tokens=12, ignore_eos=True),
    ]
    cpu = load_model(tiny_llama, dtype=torch.float32, device=torch.device("cpu"))
    replies = []
    for engine in (make_engine(cpu), make_gpu_engine(load(tiny_llama, torch.float32))):
        requests = [
            engine.add(f"{i}-{sample}", list(range(5, 305)), each, seed=sample)
            for i, each in enumerate(params)
            for sample in range(6)
        ]
        run_to_end(engine)
        replies.append([request.output_ids for request in requests])
    assert replies[0] == replies[1]


def test_a_step_reads_nothing_back_before_its_tokens(tiny_llama: ModelFolder) -> None:
    """The second step replays the graph that the first one recorded, without waiting once."""
    engine = make_gpu_engine(load(tiny_llama, torch.float32))
    engine.add("a", [5, 6, 7], greedy(6, logprobs=None), seed=0)
    for _ in range(3):
        engine.step()
    plan = engine._scheduler.plan()
    torch.cuda.set_sync_debug_mode("error")
    try:
        engine._runner.run(plan)
    finally:
        torch.cuda.set_sync_debug_mode("default")
