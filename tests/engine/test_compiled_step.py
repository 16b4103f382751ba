"""Layers computed as one program give the logits that they give one by one, bit for bit."""

import gc
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from martlet.engine.batch import PackedChunks
from martlet.engine.compiled_step import MAX_WANTED
from martlet.engine.config import KVDtype
from martlet.engine.engine import Engine
from martlet.engine.logits import Logits
from martlet.engine.params import SamplingParams
from martlet.engine.plan import StepPlan
from martlet.engine.runner import PlainRunner
from martlet.models.compiled.threads import can_compile
from martlet.models.folder import ModelFolder, open_folder
from martlet.models.linear.tokens import compiled_rounding
from martlet.models.load import LoadedModel, load_model
from martlet.models.machine_code.product import products
from martlet.models.machine_code.worker import MachineCode
from martlet.models.weights import Weights
from support.adapters import make_adapter
from support.engines import greedy, make_engine, run_to_end
from support.tiny_models import tiny_model_folder

pytestmark = pytest.mark.skipif(not can_compile(), reason="nothing is compiled on this machine")
WIDE = {
    "vocab_size": 1024,
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "sliding_window": None,
}
REPEATING = [*range(40, 60), *range(40, 60), *range(40, 48)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return wide_folder("qwen2", tmp_path_factory.mktemp("wide"))


@pytest.fixture(scope="module")
def model(folder: ModelFolder) -> LoadedModel:
    return load(folder)


def wide_folder(architecture: str, path: Path) -> ModelFolder:
    return open_folder(tiny_model_folder(architecture, path, **WIDE))


def load(folder: ModelFolder, weights: Weights = "stored") -> LoadedModel:
    return load_model(folder, dtype=torch.bfloat16, device=torch.device("cpu"), weights=weights)


class Recorded:
    """An engine that keeps the logits of its steps, and counts those of one program.

    Where the most likely tokens were found on the way, they are compared.

    Args:
        is_plain: Whether every step goes through the modules of the model.
    """

    def __init__(self, engine: Engine, *, is_plain: bool = False) -> None:
        self.engine = engine
        self.logits: list[Tensor] = []
        self.num_compiled = self.num_searched = 0
        runner = engine._runner
        assert isinstance(runner, PlainRunner)
        assert runner._compiled is not None
        self._run, self._run_compiled = runner.run, runner._compiled.run
        runner.run = self._keep  # type: ignore[method-assign]
        runner._compiled.run = self._count  # type: ignore[method-assign]
        self._is_plain = is_plain

    def _keep(self, plan: StepPlan) -> object:
        rows, logits = self._run(plan)
        if logits.likeliest is not None:
            self.num_searched += 1
            ids = logits.values.float().argmax(dim=1)
            assert list(logits.likeliest.token_ids) == ids.tolist()
            largest = logits.values.float().gather(1, ids[:, None])[:, 0]
            assert list(logits.likeliest.logits) == largest.tolist()
        self.logits.append(logits.values.clone())
        return rows, logits

    def _count(self, packed: PackedChunks) -> Logits | None:
        logits = None if self._is_plain else self._run_compiled(packed)
        self.num_compiled += logits is not None
        return logits


def replies(engine: Engine, lengths: Iterable[int], params: SamplingParams) -> list[list[int]]:
    requests = [
        engine.add(str(length), [7 * length % 300, *range(5, 4 + length)], params, seed=length)
        for length in lengths
    ]
    run_to_end(engine)
    return [request.output_ids for request in requests]


@pytest.mark.parametrize(
    ("architecture", "weights"),
    [
        ("llama", "stored"),
        ("mistral", "stored"),
        ("qwen2", "stored"),
        ("qwen2", "int8"),
        ("qwen2", "int4"),
    ],
)
@pytest.mark.parametrize("kv_dtype", ["model", "int8"])
def test_the_same_bits(
    architecture: str, weights: Weights, kv_dtype: KVDtype, tmp_path: Path
) -> None:
    model = load(wide_folder(architecture, tmp_path), weights)
    params = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True)
    sizes = {"num_blocks": 400, "max_num_requests": 70, "kv_dtype": kv_dtype}
    # One row, some that each thread rounds for itself, and more, whose gate the product applies.
    for lengths in (range(9, 10), range(12, 44), range(3, 73)):
        plain, compiled = (
            Recorded(make_engine(model, **sizes), is_plain=each) for each in (True, False)
        )
        assert replies(plain.engine, lengths, params) == replies(compiled.engine, lengths, params)
        assert compiled.num_compiled == len(compiled.logits) >= 20
        assert compiled.num_searched == compiled.num_compiled
        assert plain.num_compiled == 0
        for expected, got in zip(plain.logits, compiled.logits, strict=True):
            assert torch.equal(expected, got)


def test_with_norms_of_heads_all_but_their_last_bit(tmp_path: Path) -> None:
    model = load(wide_folder("qwen3", tmp_path))
    params = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
    plain, compiled = (Recorded(make_engine(model), is_plain=each) for each in (True, False))
    for each in (plain, compiled):
        replies(each.engine, range(12, 20), params)
    assert compiled.num_compiled == len(compiled.logits) >= 8
    # The first step of draws: later ones may follow from other tokens.
    expected, got = plain.logits[1].float(), compiled.logits[1].float()
    assert (got - expected).norm() < 0.01 * expected.norm()


def test_drafts_are_rows_like_others(model: LoadedModel) -> None:
    engines = [
        Recorded(make_engine(model, speculation=speculates), is_plain=not speculates)
        for speculates in (False, True)
    ]
    bias = dict.fromkeys((7, 8, 9), 40.0)
    params = SamplingParams(temperature=0, max_tokens=60, ignore_eos=True, logit_bias=bias)
    requests = [each.engine.add("1", REPEATING, params, seed=0) for each in engines]
    for each in engines:
        run_to_end(each.engine)
    assert requests[1].num_accepted_tokens > 10
    assert engines[1].num_compiled == len(engines[1].logits)
    assert len(engines[1].logits) < len(engines[0].logits)


@pytest.mark.parametrize("kv_dtype", ["model", "int8"])
def test_of_long_prompts_only_the_wanted_rows_are_computed_to_the_end(
    model: LoadedModel, kv_dtype: KVDtype
) -> None:
    sizes = {"num_blocks": 400, "max_num_batched_tokens": 48, "kv_dtype": kv_dtype}
    plain, compiled = (
        Recorded(make_engine(model, **sizes), is_plain=each) for each in (True, False)
    )
    scores = []
    for each in (plain, compiled):
        # Chunks of which nothing is wanted, prompts beside replies, and all rows of a prompt.
        requests = [
            each.engine.add(
                str(length),
                [length, *range(5, 4 + length)],
                SamplingParams(temperature=0, max_tokens=6, prompt_logprobs=wanted),
                seed=0,
            )
            for length, wanted in ((130, None), (20, 2), (30, None), (60, 1))
        ]
        run_to_end(each.engine)
        scores.append([request.prompt_logprobs for request in requests])
    assert compiled.num_compiled == len(compiled.logits)
    num_wanted = {len(logits) for logits in compiled.logits}
    assert 0 in num_wanted
    assert max(num_wanted) > 20
    assert all(map(torch.equal, plain.logits, compiled.logits))
    assert scores[0] == scores[1]


@pytest.mark.parametrize(("num_requests", "num_compiled"), [(MAX_WANTED, 3), (MAX_WANTED + 1, 0)])
def test_steps_of_which_very_many_rows_are_wanted_go_through_the_modules(
    model: LoadedModel, num_requests: int, num_compiled: int
) -> None:
    engine = Recorded(
        make_engine(model, num_blocks=2 * num_requests, max_num_requests=num_requests)
    )
    for index in range(num_requests):
        engine.engine.add(str(index), [index, 5], greedy(3), seed=0)
    run_to_end(engine.engine)
    assert engine.num_compiled == num_compiled
    assert [len(logits) for logits in engine.logits] == [num_requests] * 3


ADAPTERS = {
    "whole": {"r": 8, "target_modules": "all-linear"},
    "thin": {"r": 20, "target_modules": ["q_proj", "v_proj"]},
    "mlp": {"r": 4, "target_modules": ["up_proj", "down_proj"]},
    "head": {"r": 8, "target_modules": ["o_proj"], "modules_to_save": ["lm_head", "embed_tokens"]},
}


def with_adapters(
    folder: ModelFolder, path: Path, names: Iterable[str], *, is_plain: bool = False
) -> Recorded:
    """An engine with adapters; those of one name are the same each time."""
    # So few that prompts are cut: of some adapters' rows none is wanted.
    engine = Recorded(make_engine(load(folder), max_num_batched_tokens=48), is_plain=is_plain)
    for seed, name in enumerate(names):
        adapter = make_adapter(path / name, folder, seed=seed, **ADAPTERS[name])
        engine.engine.adapters.install(engine.engine.adapters.prepare(name, adapter))
    return engine


@pytest.mark.parametrize(
    "names", [["whole"], ["thin", None], ["whole", "thin", "mlp", "head", None]]
)
def test_the_same_bits_with_adapters(
    names: list[str | None], folder: ModelFolder, tmp_path: Path
) -> None:
    known = [name for name in names if name is not None]
    engines = [with_adapters(folder, tmp_path, known, is_plain=each) for each in (True, False)]
    drawn = []
    for each in engines:
        requests = [
            each.engine.add(str(index), [*range(5, 20 + index)], greedy(10), seed=0, adapter=name)
            for index, name in enumerate(3 * names)
        ]
        run_to_end(each.engine)
        drawn.append([request.output_ids for request in requests])
    plain, compiled = engines
    assert drawn[0] == drawn[1]
    assert (plain.num_compiled, compiled.num_compiled) == (0, len(compiled.logits))
    assert all(map(torch.equal, plain.logits, compiled.logits))


def test_what_more_an_adapter_does_goes_through_the_modules(
    folder: ModelFolder, tmp_path: Path
) -> None:
    how = {"r": 8, "target_modules": ["q_proj"], "use_dora": True}
    path = make_adapter(tmp_path / "a", folder, **how)
    engine = Recorded(make_engine(load(folder)))
    engine.engine.adapters.install(engine.engine.adapters.prepare("a", path))
    for index, name in enumerate([None, "a"]):
        engine.engine.add(str(index), [*range(5, 30)], greedy(8), seed=0, adapter=name)
        run_to_end(engine.engine)
        assert engine.num_compiled == 8


def test_an_adapter_that_is_gone_is_held_by_no_program(folder: ModelFolder, tmp_path: Path) -> None:
    engine = with_adapters(folder, tmp_path, ["whole"])
    engine.engine.add("1", [*range(5, 30)], greedy(4), seed=0, adapter="whole")
    run_to_end(engine.engine)
    assert engine.num_compiled == 4
    matrices = weakref.ref(engine.engine.adapters.acquire("whole"))
    engine.engine.adapters.release(matrices())
    engine.engine.adapters.drop("whole")
    gc.collect()
    assert matrices() is None


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_no_step_waits_for_a_product_to_be_compiled(
    folder: ModelFolder, weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    products.cache_clear()
    compiled_rounding.cache_clear()
    model = load(folder, weights)

    def refuse(_: MachineCode, module: Any) -> None:
        pytest.fail(f"{module.name} is compiled in a step")

    monkeypatch.setattr(MachineCode, "add", refuse)
    engine = make_engine(model, max_num_requests=80)
    replies(engine, [1, 20, 70, 300], greedy(2))
    replies(engine, range(2, 82), greedy(2))
