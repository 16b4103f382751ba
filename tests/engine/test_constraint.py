"""Replies that must have a form: the engine's part, with a constraint that lists its replies."""

from collections.abc import Sequence
from itertools import product
from random import Random

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from martlet.engine.constraint import TokenMask, only_token
from martlet.engine.engine import Engine
from martlet.engine.params import SamplingParams
from martlet.engine.request import Request
from martlet.models.folder import ModelFolder
from martlet.models.load import LoadedModel
from support.engines import load_fp32, load_reference, make_engine, run_to_end
from support.tiny_models import VOCAB_SIZE

PROMPT = [11, 22, 33, 44, 55]
END = 2
GREEDY = SamplingParams(temperature=0, max_tokens=10)


class OneOf:
    """Allows a few replies, token by token; behind a whole one, the end token."""

    def __init__(self, replies: Sequence[Sequence[int]], *, fails_at: int | None = None) -> None:
        self.replies = [(*reply, END) for reply in replies]
        self.drawn: tuple[int, ...] = ()
        self.fails_at = fails_at

    def allowed(self) -> set[int]:
        length = len(self.drawn)
        return {r[length] for r in self.replies if r[:length] == self.drawn and len(r) > length}

    def fill(self, mask: TokenMask) -> None:
        if len(self.drawn) == self.fails_at:
            raise ValueError("too complex")
        for token_id in self.allowed():
            mask[token_id // 32] |= np.uint32(1 << token_id % 32)

    def accept(self, token_id: int) -> None:
        self.drawn = (*self.drawn, token_id)

    @property
    def is_finished(self) -> bool:
        return self.allowed() <= {END}


REPLIES = [*product((60, 160, 260), (70, 170, 319), (31, 32, 63), (80, 180)), (60, 70)]


@pytest.fixture(scope="module")
def model(tiny_llama: ModelFolder) -> LoadedModel:
    return load_fp32(tiny_llama)


@pytest.fixture(scope="module")
def reference(tiny_llama: ModelFolder) -> PreTrainedModel:
    return load_reference(tiny_llama)


def add(engine: Engine, name: str, params: SamplingParams, constraint: OneOf | None) -> Request:
    seed = sum(name.encode())
    return engine.add(name, PROMPT, params, seed=seed, stop_ids=(END,), constraint=constraint)


def reply(model: LoadedModel, params: SamplingParams, constraint: OneOf) -> Request:
    engine = make_engine(model)
    request = add(engine, "reply", params, constraint)
    run_to_end(engine)
    return request


@torch.inference_mode()
def greedy_by_trying_every_token(model: PreTrainedModel, constraint: OneOf) -> list[int]:
    while not constraint.is_finished:
        logits = model(torch.tensor([[*PROMPT, *constraint.drawn]])).logits[0, -1]
        constraint.accept(max(constraint.allowed(), key=lambda token_id: logits[token_id].item()))
    return list(constraint.drawn)


def test_a_greedy_reply_is_the_oracles(model: LoadedModel, reference: PreTrainedModel) -> None:
    for first in (60, 160, 260):
        replies = [one for one in REPLIES if one[0] == first]
        request = reply(model, GREEDY, OneOf(replies))
        assert request.output_ids == greedy_by_trying_every_token(reference, OneOf(replies))


def test_a_complete_reply_ends_by_itself(model: LoadedModel) -> None:
    for params in (GREEDY, SamplingParams(temperature=0, ignore_eos=True, min_tokens=9)):
        request = reply(model, params, OneOf([(60, 70, 80)]))
        assert (request.output_ids, request.finish_reason) == ([60, 70, 80], "stop")
        assert request.stop_reason is None
    cut = SamplingParams(temperature=0, max_tokens=2)
    assert reply(model, cut, OneOf([(60, 70, 80)])).finish_reason == "length"


def test_min_tokens_bars_an_end_unless_nothing_else_is_left(model: LoadedModel) -> None:
    """Without the bar, the bias would end the reply after (60, 70)."""
    bias = {END: 100.0}
    replies = [(60, 70), (60, 70, 80, 90)]
    ended = reply(model, SamplingParams(temperature=0, logit_bias=bias), OneOf(replies))
    assert ended.output_ids == [60, 70, END]
    params = SamplingParams(temperature=0, logit_bias=bias, min_tokens=3)
    assert reply(model, params, OneOf(replies)).output_ids == [60, 70, 80, 90]

    class Unaware(OneOf):
        is_finished = False  # as a grammar that notices its end only when asked

    request = reply(model, params, Unaware([(60, 70)]))
    assert (request.output_ids, request.finish_reason) == ([60, 70, END], "stop")


def test_draws_are_the_same_in_a_crowd_and_after_preemption(model: LoadedModel) -> None:
    names = [f"request {number}" for number in range(12)]
    params = SamplingParams(temperature=1.5, top_p=0.9, repetition_penalty=1.1)
    random = Random(0)
    replies = [random.choices((60, 160, 260), k=30) for _ in range(200)]
    alone = {}
    for name in names:
        engine = make_engine(model)
        alone[name] = add(engine, name, params, OneOf(replies))
        run_to_end(engine)
    crowded = make_engine(model, num_blocks=16)
    requests = [add(crowded, name, params, OneOf(replies)) for name in names]
    free = add(crowded, "free", SamplingParams(temperature=0, max_tokens=8), None)
    run_to_end(crowded)
    assert sum(request.num_preemptions for request in requests) > 0
    assert free.finish_reason == "length"
    for name, request in zip(names, requests, strict=True):
        assert request.output_ids == alone[name].output_ids
    assert len({tuple(request.output_ids) for request in requests}) > 3


def test_a_constraint_that_fails_ends_its_request_alone(model: LoadedModel) -> None:
    engine = make_engine(model)
    failing = add(engine, "failing", GREEDY, OneOf(REPLIES, fails_at=2))
    empty = add(engine, "empty", GREEDY, OneOf([]))
    whole = add(engine, "whole", GREEDY, OneOf(REPLIES))
    free = add(engine, "free", GREEDY, None)
    run_to_end(engine)
    assert (failing.finish_reason, len(failing.output_ids)) == ("error", 2)
    assert failing.error == "the form of the reply cannot be kept: too complex"
    assert (empty.finish_reason, empty.output_ids) == ("error", [])
    assert "allows no token" in (empty.error or "")
    assert whole.finish_reason == "stop"
    assert free.finish_reason == "length"


@pytest.mark.parametrize("token_id", [0, 31, 32, 63, VOCAB_SIZE - 1])
def test_a_mask_of_one_token_names_it(token_id: int) -> None:
    mask = np.zeros(-(-VOCAB_SIZE // 32), dtype=np.uint32)
    mask[token_id // 32] = 1 << token_id % 32
    assert only_token(mask) == token_id
    mask[0] |= np.uint32(2)
    assert only_token(mask) is None
