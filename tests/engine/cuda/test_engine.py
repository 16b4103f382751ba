"""The engine on the kernels: the replies of transformers, with graphs and without."""

from pathlib import Path

import pytest
import torch

from martlet.engine.cuda.graphs import graph_ladder
from martlet.engine.engine import Engine
from martlet.engine.params import SamplingParams
from martlet.models.folder import ModelFolder, open_folder
from martlet.models.load import LoadedModel, load_model
from support.adapters import load_with_peft, make_adapter
from support.attention_steps import DEVICE
from support.engines import (
    assert_same,
    greedy,
    greedy_reply,
    load_reference,
    make_engine,
    run_to_end,
)
from support.tiny_models import tiny_model_folder

ARCHITECTURES = ["llama", "gemma2", "gpt_oss", "mixtral"]
"""Plain; softcap and windows; sinks; experts."""


def kernel_engine(model: LoadedModel, **sizes: int) -> Engine:
    return make_engine(model, uses_kernels=True, graph_sizes=(1, 2, 4), **sizes)


def load(folder: ModelFolder) -> LoadedModel:
    return load_model(folder, dtype=torch.float32, device=DEVICE)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_greedy_replies_equal_transformers(architecture: str, tmp_path: Path) -> None:
    folder = open_folder(tiny_model_folder(architecture, tmp_path / architecture))
    reference = load_reference(folder)
    engine = kernel_engine(load(folder), max_num_batched_tokens=40)
    prompts = [list(range(5, 5 + length)) for length in (1, 17, 50)]
    requests = [engine.add(str(i), p, greedy(4), seed=i) for i, p in enumerate(prompts)]
    run_to_end(engine)
    for request, prompt in zip(requests, prompts, strict=True):
        assert_same(request, greedy_reply(reference, prompt, 4), tolerance=1e-3)


def test_samples_of_one_prompt_are_those_of_plain_attention(tiny_llama: ModelFolder) -> None:
    """They read the prompt's keys together, in recorded steps with rows to spare."""
    params = SamplingParams(temperature=1, max_tokens=6, ignore_eos=True)
    replies = []
    for uses_kernels in (False, True):
        engine = make_engine(
            load(tiny_llama), uses_kernels=uses_kernels, graph_sizes=(8,) if uses_kernels else ()
        )
        requests = [
            engine.add(str(sample), list(range(5, 305)), params, seed=sample) for sample in range(5)
        ]
        run_to_end(engine)
        replies.append([request.output_ids for request in requests])
    assert replies[0] == replies[1]


def test_replies_survive_preemption(tiny_llama: ModelFolder) -> None:
    reference = load_reference(tiny_llama)
    engine = kernel_engine(load(tiny_llama), num_blocks=7)
    prompts = [list(range(5 + i, 40 + i)) for i in range(2)]
    requests = [engine.add(str(i), p, greedy(16), seed=i) for i, p in enumerate(prompts)]
    run_to_end(engine)
    assert engine.stats.num_preempted > 0
    for request, prompt in zip(requests, prompts, strict=True):
        assert_same(request, greedy_reply(reference, prompt, 16), tolerance=1e-3)


def test_an_adapter_finds_its_rows_beside_the_base(tiny_llama: ModelFolder, tmp_path: Path) -> None:
    path = make_adapter(tmp_path / "adapter", tiny_llama, target_modules="all-linear")
    expected = {
        "a": greedy_reply(load_with_peft(tiny_llama, path), [7, 8, 9], 5),
        None: greedy_reply(load_reference(tiny_llama), [7, 8, 9], 5),
    }
    engine = kernel_engine(load(tiny_llama))
    engine.adapters.install(engine.adapters.prepare("a", str(path)))
    requests = [
        engine.add(str(i), [7, 8, 9], greedy(5), seed=i, adapter=name)
        for i, name in enumerate(("a", None, "a"))
    ]
    run_to_end(engine)
    for request, name in zip(requests, ("a", None, "a"), strict=True):
        assert_same(request, expected[name], tolerance=1e-3)


@pytest.mark.parametrize("max_num_requests", [1, 2, 3, 64, 128, 1000])
def test_no_step_is_padded_by_more_than_half(max_num_requests: int) -> None:
    ladder = graph_ladder(max_num_requests)
    assert ladder == tuple(sorted(set(ladder)))
    for num_requests in range(1, max_num_requests + 1):
        size = next(size for size in ladder if size >= num_requests)
        assert size <= max(2 * num_requests, num_requests + 2)
