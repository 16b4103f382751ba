"""The compiled draw at a temperature: the race that the plain one runs, with the same numbers."""

import pytest
import torch
from torch import Tensor

from engine.test_sampling import assert_drawn_from, keys
from martlet.engine.choice import (
    LARGE_VOCABULARY,
    can_choose_tempered,
    choose_tempered,
    choose_unfiltered,
)
from martlet.engine.noise import draw_keys
from martlet.engine.params import SamplingParams
from martlet.engine.request import Request
from martlet.engine.sampler import draw
from martlet.models.compiled.threads import can_compile

pytestmark = pytest.mark.skipif(not can_compile(), reason="nothing is compiled on this machine")


def logits_of(num_rows: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(num_rows, LARGE_VOCABULARY, generator=generator) * 3).bfloat16()


def test_it_draws_what_the_plain_one_draws() -> None:
    logits = logits_of(200)
    temperatures = [0.2 + 0.01 * row for row in range(200)]
    own_keys = draw_keys(range(200), [7] * 200)
    largest = logits.amax(dim=1).float()
    drawn = choose_tempered(logits, largest, temperatures, own_keys)
    shaped = logits.float() / torch.tensor(temperatures)[:, None]
    assert (drawn == choose_unfiltered(shaped, own_keys)).float().mean() >= 0.99
    row = 17
    alone = choose_tempered(
        logits[row : row + 1], largest[row : row + 1], temperatures[row : row + 1], own_keys[[row]]
    )
    assert alone.item() == drawn[row]


def test_it_draws_from_the_softmax() -> None:
    row = torch.full((1, LARGE_VOCABULARY), float("-inf"))
    row[0, ::1000] = torch.linspace(-2, 2, len(row[0, ::1000]))
    row = row.bfloat16()
    drawn = [
        choose_tempered(
            row.expand(200, -1).contiguous(), row.amax().expand(200).float(), [0.7] * 200, some
        )
        for some in keys().reshape(-1, 200)
    ]
    assert_drawn_from(torch.cat(drawn), (row[0].float() / 0.7).softmax(dim=0))


def test_a_row_is_drawn_alike_whoever_its_neighbours_are() -> None:
    def request(number: int, **params: object) -> Request:
        return Request(
            request_id=str(number),
            prompt_ids=(1, 2),
            params=SamplingParams(**params),
            seed=number,
            stop_ids=frozenset(),
            max_num_tokens=8,
        )

    wanted = [
        {"temperature": 0.7},
        {"temperature": 0},
        {"temperature": 1.3},
        {"temperature": 0.7, "top_k": 5},
        {"temperature": 0.7, "presence_penalty": 1},
        {"temperature": 0.9},
    ]
    logits = logits_of(len(wanted))
    assert can_choose_tempered(logits)
    logits[5, 77] = float("nan")
    requests = [request(number, **params) for number, params in enumerate(wanted)]
    drawn = draw(logits, requests)
    assert drawn[5] is None
    assert drawn[1] == logits[1].argmax()
    for row, each in enumerate(requests):
        assert draw(logits[row : row + 1], [each]) == [drawn[row]]
