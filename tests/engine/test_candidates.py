"""Candidates of a draw: what is told of them is what the draw was made from."""

import math

import pytest
import torch

from martlet.engine.candidates import candidates_of
from martlet.engine.params import SamplingParams
from martlet.engine.request import Request
from martlet.engine.sampler import draw

VOCABULARY = 300
NUM_DRAWS = 4000


def request_with(params: SamplingParams, *, seed: int = 0) -> Request:
    request = Request(
        request_id="r",
        prompt_ids=(1, 2),
        params=params,
        seed=seed,
        stop_ids=frozenset({0}),
        max_num_tokens=50,
        num_candidates=20,
    )
    request.append(3)
    return request


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(3)) * 2


def test_each_step_is_what_its_parameter_says(logits: torch.Tensor) -> None:
    params = SamplingParams(temperature=0.5, frequency_penalty=0.25, top_k=5, min_tokens=9)
    logits[3], logits[0] = 9.0, 8.5
    found = candidates_of(logits, request_with(params), 3)
    by_id = {each.token_id: each for each in found}
    assert by_id[3].logit == pytest.approx(9.0)
    assert by_id[3].adjusted == pytest.approx(8.75)  # it is in the reply once
    assert by_id[3].scaled == pytest.approx(17.5)
    # The end token is barred while the reply is too short, likely as it is.
    assert (by_id[0].adjusted, by_id[0].probability, by_id[0].draw_probability) == (-math.inf, 0, 0)
    drawable = [each for each in found if each.draw_probability > 0]
    assert len(drawable) == 5
    assert sum(each.draw_probability for each in drawable) == pytest.approx(1)
    assert found[0].token_id == 3


@pytest.mark.parametrize(
    "given", [{"top_p": 0.6}, {"min_p": 0.2}, {"top_k": 3, "top_p": 0.8}, {"temperature": 0.6}]
)
def test_draws_are_as_frequent_as_told(logits: torch.Tensor, given: dict[str, float]) -> None:
    params = SamplingParams(**{"temperature": 0.8, **given})
    requests = [request_with(params, seed=seed) for seed in range(NUM_DRAWS)]
    drawn = draw(logits.repeat(NUM_DRAWS, 1), requests)
    for each in candidates_of(logits, requests[0], drawn[0] or 0):
        share = each.draw_probability
        tolerance = 4 * math.sqrt(share * (1 - share) / NUM_DRAWS)
        assert drawn.count(each.token_id) / NUM_DRAWS == pytest.approx(share, abs=tolerance)


def test_greedy_leaves_one(logits: torch.Tensor) -> None:
    found = candidates_of(logits, request_with(SamplingParams(temperature=0)), 0)
    assert [each.draw_probability for each in found[:2]] == [1, 0]
    assert found[0].token_id == int(logits.argmax())
