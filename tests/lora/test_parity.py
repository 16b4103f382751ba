"""Greedy replies in fp32, token for token with PEFT's own model: alone, mixed, and under load."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from martlet.engine.engine import Engine
from martlet.engine.params import SamplingParams
from martlet.engine.request import Request
from martlet.models.folder import ModelFolder, open_folder
from martlet.models.load import LoadedModel, load_model
from support.adapters import load_with_peft, make_adapter, peft_replies
from support.engines import (
    Reply,
    assert_same,
    greedy,
    greedy_reply,
    load_fp32,
    load_reference,
    make_engine,
    run_to_end,
)
from support.tiny_models import tiny_model_folder

NUM_TOKENS = 10
ALL = "all-linear"
EIGHT: Mapping[str, Mapping[str, object]] = {
    "small": {"r": 4, "target_modules": ["q_proj", "v_proj"]},
    "large": {"r": 64, "lora_alpha": 32, "target_modules": ALL},
    "dora": {"r": 8, "target_modules": ALL, "use_dora": True},
    "saved": {"r": 8, "target_modules": ["k_proj"], "modules_to_save": ["lm_head", "norm"]},
    "stable": {"r": 16, "target_modules": ALL, "use_rslora": True, "lora_bias": True},
    "patterns": {
        "r": 8,
        "target_modules": ALL,
        "rank_pattern": {"q_proj": 32, r"layers\.1\.mlp\..*": 4},
        "alpha_pattern": {"model.layers.0.self_attn.o_proj": 3},
    },
    "biases": {"r": 4, "target_modules": ["q_proj", "down_proj"], "bias": "all", "use_dora": True},
    "ends": {"r": 16, "target_modules": ["embed_tokens", "lm_head", "o_proj"], "use_dora": True},
}


@dataclass(frozen=True)
class Case:
    """A base, adapters for it, prompts, and the replies of PEFT and of the base."""

    folder: ModelFolder
    model: LoadedModel
    adapters: Mapping[str, Path]
    prompts: list[list[int]]
    replies: Mapping[str | None, list[Reply]]

    def engine(self, **sizes: int) -> Engine:
        """An engine with all adapters loaded."""
        engine = make_engine(self.model, **sizes)
        for name, path in self.adapters.items():
            engine.adapters.install(engine.adapters.prepare(name, path))
        return engine


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    place = tmp_path_factory.mktemp("eight")
    folder = open_folder(tiny_model_folder("qwen2", place / "model"))
    adapters = {
        name: make_adapter(place / name, folder, seed=seed, **config)
        for seed, (name, config) in enumerate(EIGHT.items())
    }
    generator = torch.Generator().manual_seed(3)
    prompts = [
        torch.randint(5, 300, (length,), generator=generator).tolist() for length in (1, 16, 21, 50)
    ]
    reference = load_reference(folder)
    base = [greedy_reply(reference, prompt, NUM_TOKENS) for prompt in prompts]
    adapted = peft_replies(folder, adapters, dict.fromkeys(adapters, prompts), NUM_TOKENS)
    return Case(folder, load_fp32(folder), adapters, prompts, {None: base, **adapted})


def add_all(engine: Engine, case: Case) -> list[tuple[Request, Reply]]:
    """Each prompt by each adapter and by the base, neighbours by different ones."""
    return [
        (
            engine.add(f"{name} {number}", prompt, greedy(NUM_TOKENS), seed=0, adapter=name),
            case.replies[name][number],
        )
        for number, prompt in enumerate(case.prompts)
        for name in case.replies
    ]


def test_the_adapters_answer_differently(case: Case) -> None:
    """Otherwise the tests below could not fail."""
    distinct = {tuple(replies[3].token_ids) for replies in case.replies.values()}
    assert len(distinct) == len(EIGHT) + 1


@pytest.mark.parametrize("max_num_batched_tokens", [40, 1024])
def test_eight_adapters_and_the_base_in_one_batch(case: Case, max_num_batched_tokens: int) -> None:
    engine = case.engine(max_num_requests=36, max_num_batched_tokens=max_num_batched_tokens)
    pairs = add_all(engine, case)
    run_to_end(engine)
    for request, reply in pairs:
        assert_same(request, reply)


def test_each_alone(case: Case) -> None:
    engine = case.engine()
    for name, replies in case.replies.items():
        request = engine.add("alone", case.prompts[2], greedy(NUM_TOKENS), seed=0, adapter=name)
        run_to_end(engine)
        assert_same(request, replies[2])


def test_after_preemption_and_with_little_memory(case: Case) -> None:
    engine = case.engine(num_blocks=16)
    pairs = add_all(engine, case)
    run_to_end(engine)
    assert engine.stats.num_preempted > 0
    for request, reply in pairs:
        assert_same(request, reply)


def test_replaced_and_dropped_under_load(case: Case, tmp_path: Path) -> None:
    """Every request is answered to its end by the revision that it began with."""
    engine = case.engine(max_num_requests=40, max_num_batched_tokens=60)
    new = {
        name: make_adapter(tmp_path / name, case.folder, seed=100 + seed, **EIGHT[name])
        for seed, name in enumerate(["large", "dora", "ends"])
    }
    expected = peft_replies(case.folder, new, dict.fromkeys(new, case.prompts), NUM_TOKENS)
    pairs = add_all(engine, case)
    for name, path in new.items():
        for _ in range(2):
            engine.step()
            engine.check_integrity()
        before = engine.adapters.get(name).revision
        assert engine.adapters.install(engine.adapters.prepare(name, path)).revision != before
        pairs += [
            (engine.add(f"new {name} {n}", prompt, greedy(NUM_TOKENS), seed=0, adapter=name), reply)
            for n, (prompt, reply) in enumerate(zip(case.prompts, expected[name], strict=True))
        ]
    for name in ("small", "large"):
        engine.adapters.drop(name)
    run_to_end(engine)
    for request, reply in pairs:
        assert_same(request, reply)


ARCHITECTURES: Mapping[str, Mapping[str, object]] = {
    "llama": {"target_modules": ALL},
    "qwen3": {"target_modules": ALL, "use_dora": True},
    "gemma2": {"target_modules": ["embed_tokens", "q_proj", "down_proj"]},
    "gemma3": {"target_modules": ["embed_tokens", "o_proj"], "use_dora": True},
    "phi3": {"target_modules": ALL},
    "gpt_neox": {"target_modules": ALL, "bias": "all"},
    "gpt2": {"target_modules": ALL, "use_dora": True, "fan_in_fan_out": True},
    "opt": {"target_modules": ["q_proj", "fc1"], "bias": "lora_only"},
    "mixtral": {"target_modules": ["q_proj", "v_proj"], "layers_to_transform": [1]},
    "deepseek_v3": {"target_modules": ["q_a_proj", "kv_b_proj", "o_proj"]},
    "olmo2": {"target_modules": ["up_proj"], "modules_to_save": ["q_norm", "embed_tokens"]},
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_architectures(architecture: str, tmp_path: Path) -> None:
    folder = open_folder(tiny_model_folder(architecture, tmp_path / "model"))
    path = make_adapter(tmp_path / "a", folder, **{"r": 8, **ARCHITECTURES[architecture]})
    engine = make_engine(load_fp32(folder))
    engine.adapters.install(engine.adapters.prepare("a", path))
    prompts = [list(range(5, 5 + length)) for length in (7, 40)]
    models = {None: load_reference(folder), "a": load_with_peft(folder, path)}
    pairs = [
        (
            engine.add(f"{name}-{len(prompt)}", prompt, greedy(6), seed=0, adapter=name),
            greedy_reply(model, prompt, 6),
        )
        for prompt in prompts
        for name, model in models.items()
    ]
    run_to_end(engine)
    for request, reply in pairs:
        assert_same(request, reply)


def test_on_a_bf16_base_the_logits_are_those_of_peft_up_to_rounding(case: Case) -> None:
    model = load_model(case.folder, dtype=torch.bfloat16, device=torch.device("cpu"))
    engine = make_engine(model)
    for name, path in case.adapters.items():
        engine.adapters.install(engine.adapters.prepare(name, path))
    prompt = case.prompts[3]
    asked = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0)
    requests = {
        name: engine.add(str(name), prompt, asked, seed=0, adapter=name) for name in case.replies
    }
    run_to_end(engine)
    for name, path in case.adapters.items():
        with torch.inference_mode():
            logits = load_with_peft(case.folder, path)(torch.tensor([prompt])).logits[0]
        scores = torch.log_softmax(logits, dim=-1)[:-1].gather(1, torch.tensor(prompt[1:])[:, None])
        got = torch.tensor([score.logprob for score in requests[name].prompt_logprobs])
        base = torch.tensor([score.logprob for score in requests[None].prompt_logprobs])
        error = (got - scores[:, 0]).abs().mean()
        assert error < 0.1 * (got - base).abs().mean(), (name, error)
