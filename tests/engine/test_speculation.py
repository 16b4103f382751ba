"""Speculation changes no token, no score and no end: with it and without it, side by side."""

import random
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from martlet.engine.constraint import TokenMask
from martlet.engine.engine import Engine
from martlet.engine.params import SamplingParams
from martlet.engine.request import Request
from martlet.models.folder import ModelFolder, open_folder
from martlet.models.load import LoadedModel
from support.adapters import make_adapter
from support.engines import load_fp32, make_engine, run_to_end
from support.tiny_models import tiny_model_folder

REPEATING = [*range(40, 60), *range(40, 60), *range(40, 48)]
FEW = dict.fromkeys((7, 8, 9), 40.0)
"""A bias under which replies consist of three tokens: much repeats, and often otherwise."""
LOOPS = SamplingParams(temperature=0, max_tokens=60, ignore_eos=True, logprobs=2, logit_bias=FEW)
DRAWS = SamplingParams(max_tokens=60, ignore_eos=True, logprobs=0, logit_bias=FEW)
PARAMS = {
    "greedy": LOOPS,
    "greedy, penalised": replace(LOOPS, repetition_penalty=1.05, frequency_penalty=0.02),
    "sampled": DRAWS,
    "sampled, filtered": replace(DRAWS, temperature=0.6, top_p=0.9, top_k=20),
    "sampled, penalised": replace(DRAWS, presence_penalty=0.3, repetition_penalty=1.05),
    "frequency": replace(DRAWS, temperature=0.3, frequency_penalty=0.4),
    "barred": replace(DRAWS, ignore_eos=False, min_tokens=20, stop_token_ids=(9,)),
    "stopped": replace(DRAWS, stop_token_ids=(6,), logit_bias={**FEW, 6: 36.0}),
    "candidates": replace(DRAWS, max_tokens=20),
}


@pytest.fixture(scope="module")
def model(tiny_llama: ModelFolder) -> LoadedModel:
    return load_fp32(tiny_llama)


class Digits:
    """A form: tokens of a few, none twice in a row, and an end after some of them."""

    def __init__(self, length: int, *, fails_at: int | None = None) -> None:
        self._drawn: list[int] = []
        self._length = length
        self._fails_at = fails_at

    def fill(self, mask: TokenMask) -> None:
        for token_id in {7, 8, 9} - set(self._drawn[-1:]):
            mask[token_id // 32] |= np.uint32(1 << token_id % 32)

    def accept(self, token_id: int) -> None:
        assert token_id in {7, 8, 9} - set(self._drawn[-1:])
        self._drawn.append(token_id)
        if len(self._drawn) == self._fails_at:
            raise RuntimeError("the form is broken")

    @property
    def is_finished(self) -> bool:
        return len(self._drawn) == self._length


def both(
    model: LoadedModel,
    ask: Callable[[Engine], list[Request]],
    *,
    again: LoadedModel | None = None,
) -> tuple[Engine, list[Request]]:
    """Runs the same requests without speculation and with it, and compares all that they tell.

    Args:
        model: Of both engines, unless it is given once more.
        ask: Adds the requests.
        again: Engines with adapters need a model each.
    """
    plain = make_engine(model, speculation=False)
    speculating = make_engine(again or model)
    expected, got = ask(plain), ask(speculating)
    run_to_end(plain)
    run_to_end(speculating)
    assert plain.stats.num_drafted == 0
    for one, other in zip(expected, got, strict=True):
        assert_alike(one, other)
    assert speculating.stats.num_drawn == plain.stats.num_drawn
    return speculating, got


def assert_alike(expected: Request, got: Request) -> None:
    assert got.output_ids == expected.output_ids
    assert (got.finish_reason, got.stop_reason) == (expected.finish_reason, expected.stop_reason)
    assert len(got.logprobs) == len(expected.logprobs)
    for one, other in zip(expected.logprobs, got.logprobs, strict=True):
        assert (other.token_id, other.rank) == (one.token_id, one.rank)
        assert other.logprob == pytest.approx(one.logprob, abs=1e-4)
        # The more of them, the more a neighbour asked for.
        for mine, its in zip(one.top_logprobs, other.top_logprobs, strict=False):
            assert its == pytest.approx(mine, abs=1e-4)
        for mine, its in zip(one.candidates, other.candidates, strict=True):
            assert its.scaled == pytest.approx(mine.scaled, abs=1e-3)


@pytest.mark.parametrize("name", PARAMS)
def test_the_same_tokens_scores_and_ends(model: LoadedModel, name: str) -> None:
    def ask(engine: Engine) -> list[Request]:
        return [
            engine.add(
                str(seed),
                REPEATING[seed:],
                PARAMS[name],
                seed=seed,
                stop_ids=(2,),
                num_candidates=3 if name == "candidates" else 0,
            )
            for seed in range(6)
        ]

    engine, _ = both(model, ask)
    assert 0 < engine.stats.num_accepted < engine.stats.num_drafted


def test_alone_a_reply_that_repeats_takes_fewer_steps(model: LoadedModel) -> None:
    def ask(engine: Engine) -> list[Request]:
        return [engine.add("alone", REPEATING, LOOPS, seed=0)]

    engine, (request,) = both(model, ask)
    assert engine.stats.num_steps == 60 - engine.stats.num_accepted
    assert engine.stats.num_steps < 40
    assert request.num_accepted_tokens == engine.stats.num_accepted


def test_forms_are_kept_token_by_token(model: LoadedModel) -> None:
    def ask(engine: Engine) -> list[Request]:
        return [
            engine.add(str(seed), REPEATING, replace(DRAWS, logit_bias=None), seed=seed, **form)
            for seed in range(6)
            for form in ({"constraint": Digits(10 + 7 * seed)},)
        ]

    engine, requests = both(model, ask)
    assert engine.stats.num_accepted > 0
    assert [len(request.output_ids) for request in requests] == [10 + 7 * k for k in range(6)]


@pytest.mark.parametrize("architecture", ["gemma3", "gpt_oss", "llama4", "deepseek_v3"])
def test_windows_and_other_attention(architecture: str, tmp_path: Path) -> None:
    """Longer than the windows, so that a wrong guess beside them would show."""
    other = load_fp32(open_folder(tiny_model_folder(architecture, tmp_path)))

    def ask(engine: Engine) -> list[Request]:
        return [engine.add(str(k), REPEATING[k:], DRAWS, seed=k) for k in range(3)]

    engine, _ = both(other, ask)
    assert engine.stats.num_accepted > 0


def test_adapters_in_one_batch(tiny_llama: ModelFolder, tmp_path: Path) -> None:
    folders = [
        make_adapter(
            tmp_path / name, tiny_llama, seed=seed, r=4, target_modules=["q_proj", "v_proj"]
        )
        for seed, name in enumerate("ab")
    ]

    def ask(engine: Engine) -> list[Request]:
        for name, folder in zip("ab", folders, strict=True):
            engine.adapters.install(engine.adapters.prepare(name, str(folder)))
        return [
            engine.add(f"{k}", REPEATING, DRAWS, seed=k, adapter=adapter)
            for k, adapter in enumerate(["a", None, "b", "a", None, "b"])
        ]

    engine, requests = both(load_fp32(tiny_llama), ask, again=load_fp32(tiny_llama))
    assert engine.stats.num_accepted > 0
    assert len({tuple(request.output_ids) for request in requests}) == 6


def test_random_traces_with_preemption_and_aborts(model: LoadedModel) -> None:
    """Every finished reply is that of a request alone, without speculation and without sharing."""
    oracle = make_engine(model, prefix_sharing=False, speculation=False)
    names = [name for name in PARAMS if name != "candidates"]
    num_preempted = num_accepted = num_compared = 0
    for trace in range(4):
        chance = random.Random(trace)
        engine = make_engine(model, num_blocks=12, max_num_requests=6, max_num_batched_tokens=20)
        requests: list[Request] = []
        for number in range(70):
            action = chance.random()
            if action < 0.3:
                prompt = chance.choices((7, 8, 9), k=chance.randint(1, 50))
                params = replace(PARAMS[chance.choice(names)], max_tokens=chance.randint(20, 40))
                requests.append(engine.add(str(number), prompt, params, seed=number))
            elif action < 0.34 and requests:
                engine.abort(chance.choice(requests).request_id)
            else:
                engine.step()
            engine.check_integrity()
        run_to_end(engine)
        num_preempted += engine.stats.num_preempted
        num_accepted += engine.stats.num_accepted
        for request in requests:
            if request.finish_reason != "abort":
                assert_alike(alone(oracle, request), request)
                num_compared += 1
    assert min(num_preempted, num_accepted, num_compared) > 20


def alone(oracle: Engine, request: Request) -> Request:
    again = oracle.add("alone", request.prompt_ids, request.params, seed=request.seed)
    run_to_end(oracle)
    return again


def test_a_wrong_guess_that_is_not_finite_leaves_no_trace(model: LoadedModel) -> None:
    """Every pair of the reply's tokens foretells 300, which spoils whatever computes it."""
    prompt = [token for pair in product(FEW, FEW) for token in (*pair, 300)]
    plain = make_engine(model, prefix_sharing=False, speculation=False)
    expected = plain.add("plain", prompt, LOOPS, seed=0)
    run_to_end(plain)
    engine = make_engine(model, num_blocks=8, prefix_sharing=False)
    num_spoiled = 0

    def spoil(_: object, arguments: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        nonlocal num_spoiled
        is_guess = (arguments[0] == 300) & (arguments[0].shape[1] < len(prompt))
        num_spoiled += int(is_guess.sum())
        return output.masked_fill(is_guess[..., None], float("nan"))

    hook = model.module.get_input_embeddings().register_forward_hook(spoil)
    request = engine.add("guesses 300", prompt, LOOPS, seed=0)
    run_to_end(engine)
    hook.remove()
    assert num_spoiled > 0
    assert request.error is None
    assert request.output_ids == expected.output_ids
    # The successor gets every block that the wrong guesses were in.
    successor = engine.add("successor", prompt * 3, LOOPS, seed=0)
    run_to_end(engine)
    assert successor.finish_reason == "length"


def test_a_step_that_fails_after_its_first_draws_tells_none_of_them(model: LoadedModel) -> None:
    engine = make_engine(model)
    neighbour = engine.add("neighbour", REPEATING, LOOPS, seed=0)
    doomed = engine.add(
        "doomed",
        REPEATING,
        replace(LOOPS, logit_bias=FEW),
        seed=0,
        constraint=Digits(90, fails_at=40),
    )
    told: dict[str, list[int]] = {"neighbour": [], "doomed": []}
    while engine.num_unfinished:
        for output in engine.step():
            told[output.request.request_id] += output.token_ids
        engine.check_integrity()
    for request in (neighbour, doomed):
        assert request.error == "RuntimeError: the form is broken"
        assert request.output_ids == told[request.request_id]
        assert len(request.logprobs) == len(request.output_ids)
    again = engine.add("again", REPEATING, LOOPS, seed=0)
    run_to_end(engine)
    assert again.output_ids[:20] == neighbour.output_ids[:20]


def test_blocks_that_right_guesses_filled_are_shared(model: LoadedModel) -> None:
    engine = make_engine(model)
    first = engine.add("first", REPEATING, LOOPS, seed=0)
    run_to_end(engine)
    assert engine.stats.num_accepted > 16
    second = engine.add("second", [*first.token_ids, 5], LOOPS, seed=0)
    run_to_end(engine)
    assert second.num_cached_tokens == (first.num_tokens - 1) // 16 * 16
