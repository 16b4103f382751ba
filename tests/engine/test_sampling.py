"""Draws: the right distribution, transformers' filters, the same draw whoever else is there."""

import math

import numpy as np
import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from martlet.engine.choice import argmax, choose_filtered, choose_unfiltered, most_likely
from martlet.engine.noise import Keys, draw_keys, waiting_times
from martlet.engine.params import SamplingParams
from martlet.engine.request import Request
from martlet.engine.sampler import draw
from martlet.engine.shaping import shape
from martlet.models.folder import ModelFolder
from martlet.models.load import LoadedModel
from support.engines import load_fp32, make_engine, plain_logits, run_to_end

NUM_DRAWS = 20_000
ORDER = ("seed", "position", "token")


def logits_of(vocab_size: int, *, spread: float = 2.0) -> torch.Tensor:
    return torch.randn(1, vocab_size, generator=torch.Generator().manual_seed(3)) * spread


def padded(logits: torch.Tensor, rows: int) -> torch.Tensor:
    """The sampler's layout: a multiple of 128 columns, the rest minus infinity."""
    width = -(-logits.shape[1] // 128) * 128
    out = torch.full((rows, width), float("-inf"))
    out[:, : logits.shape[1]] = logits
    return out


def keys() -> Keys:
    return draw_keys(range(NUM_DRAWS), [5] * NUM_DRAWS)


def assert_drawn_from(token_ids: torch.Tensor, probabilities: torch.Tensor) -> None:
    """A chi-square test, five standard deviations wide, and nothing impossible was drawn."""
    counts = torch.bincount(token_ids, minlength=len(probabilities)).double()
    assert counts[probabilities == 0].sum() == 0
    expected = probabilities.double() * len(token_ids)
    is_common = expected >= 5
    rare = (counts[~is_common].sum(), expected[~is_common].sum())
    observed = torch.cat((counts[is_common], torch.tensor([rare[0]])))
    wanted = torch.cat((expected[is_common], torch.tensor([max(rare[1].item(), 1e-9)])))
    if rare[1] < 1:
        observed, wanted = observed[:-1], wanted[:-1]
    statistic = ((observed - wanted) ** 2 / wanted).sum().item()
    freedom = max(len(observed) - 1, 1)
    assert statistic < freedom + 5 * math.sqrt(2 * freedom), (statistic, freedom)


@pytest.mark.parametrize("vocab_size", [50, 320, 1000])
def test_an_unfiltered_draw_follows_the_softmax(vocab_size: int) -> None:
    logits = logits_of(vocab_size)
    drawn = choose_unfiltered(padded(logits, NUM_DRAWS), keys())
    assert_drawn_from(drawn, padded(logits, 1).softmax(dim=-1)[0])


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(top_p=0.8),
        SamplingParams(top_k=5),
        SamplingParams(min_p=0.2),
        SamplingParams(top_k=20, top_p=0.7),
        SamplingParams(top_k=40, top_p=0.95, min_p=0.05),
        SamplingParams(top_p=1e-6),
    ],
    ids=lambda p: f"top_k={p.top_k} top_p={p.top_p:g} min_p={p.min_p:g}",
)
@pytest.mark.parametrize("spread", [0.05, 2.0])
def test_a_filtered_draw_follows_transformers_warpers(
    params: SamplingParams, spread: float
) -> None:
    """With the small spread the distribution is nearly flat: 256 candidates do not suffice."""
    logits = logits_of(400, spread=spread)
    warpers = LogitsProcessorList()
    if params.top_k:
        warpers.append(TopKLogitsWarper(params.top_k))
    if params.top_p < 1:
        warpers.append(TopPLogitsWarper(params.top_p))
    if params.min_p:
        warpers.append(MinPLogitsWarper(params.min_p))
    expected = padded(warpers(torch.zeros(1, 1, dtype=torch.long), logits), 1).softmax(dim=-1)[0]
    drawn = choose_filtered(padded(logits, NUM_DRAWS), [params] * NUM_DRAWS, keys())
    assert_drawn_from(drawn, expected)


def test_rows_with_different_filters_do_not_touch_each_other() -> None:
    logits = logits_of(900).bfloat16().float()  # many are equal
    params = [
        SamplingParams(top_p=0.3),
        SamplingParams(top_k=400),
        SamplingParams(min_p=0.5),
        SamplingParams(top_k=1),
    ]
    four = keys()[:4]
    together = choose_filtered(padded(logits, 4), params, four)
    alone = [
        choose_filtered(padded(logits, 1), [params[row]], four[row : row + 1]).item()
        for row in range(4)
    ]
    assert together.tolist() == alone


@pytest.mark.parametrize("params", [SamplingParams(), SamplingParams(top_p=0.999)])
def test_a_draw_hardly_ever_tips_when_the_logits_move_in_their_last_bits(
    params: SamplingParams,
) -> None:
    """Neighbours change how sums are rounded; that must not change a sample."""
    some = keys()[:5000]
    logits = padded(logits_of(2000, spread=0.5), len(some))
    noise = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1)) * 1e-3

    def draw(moved: torch.Tensor) -> torch.Tensor:
        if params.top_p < 1:
            return choose_filtered(moved, [params] * len(some), some)
        return choose_unfiltered(moved.clone(), some)

    # The two distributions share all but 0.0004. Of a cumulative sum, each of 2,000 boundaries
    # moves, and about a fiftieth of the draws with them.
    num_tipped = (draw(logits) != draw(logits + noise)).sum().item()
    assert num_tipped <= 15


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocab_size", [128, 151936, 1000])
def test_argmax_is_the_first_largest(dtype: torch.dtype, vocab_size: int) -> None:
    logits = torch.randn(9, vocab_size, generator=torch.Generator().manual_seed(0)).to(dtype)
    expected = logits.float().numpy().argmax(axis=1)
    assert argmax(logits).tolist() == expected.tolist()


@pytest.mark.parametrize("count", [1, 7, 256, 4_096, 20_096])
def test_the_most_likely_tokens_are_those_of_a_sort(count: int) -> None:
    logits = torch.randn(3, 20_096, generator=torch.Generator().manual_seed(0))
    values, ids = most_likely(logits, count)
    assert torch.equal(values, logits.sort(dim=1, descending=True).values[:, :count])
    assert torch.equal(logits.gather(1, ids), values)
    assert all(len(set(row)) == count for row in ids.tolist())


def test_noise_depends_on_seed_position_and_token_alone() -> None:
    some = draw_keys([7, 7, 8, -1, 2**64 - 1], [3, 4, 3, 3, 3])
    assert draw_keys([8], [3])[0] == some[2]
    assert len(set(some[:4])) == 4
    assert some[3] == some[4]
    ids = np.array([[-1, 0, 1, 2]])
    times = waiting_times(some[:, None], ids)
    assert len(set(times[:4].flatten())) == 16
    assert np.array_equal(waiting_times(some[2:3, None], ids), times[2:3])


@pytest.mark.parametrize("varied", ["seed", "position", "token"])
def test_noise_is_exponential_and_neighbours_share_nothing(varied: str) -> None:
    counting, zeros = np.arange(100_000), np.zeros(100_000, dtype=np.int64)
    seeds, positions, ids = (counting if varied == name else zeros for name in ORDER)
    times = waiting_times(draw_keys(seeds.tolist(), positions.tolist()), ids)
    assert times.min() > 0
    assert abs(times.mean() - 1) < 0.02
    assert abs(np.median(times) - math.log(2)) < 0.02
    assert abs(np.corrcoef(times[:-1], times[1:])[0, 1]) < 0.02


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("filters", [{}, {"top_p": 0.9}, {"top_k": 7, "min_p": 0.02}])
def test_a_row_that_is_not_finite_draws_nothing_and_its_neighbours_do_not_notice(
    bad: float, filters: dict[str, float]
) -> None:
    params = SamplingParams(temperature=0.8, **filters)
    requests = [
        Request(
            request_id=str(seed),
            prompt_ids=(1, 2),
            params=params,
            seed=seed,
            stop_ids=frozenset(),
            max_num_tokens=9,
        )
        for seed in range(3)
    ]
    logits = logits_of(5000).repeat(3, 1)
    whole = draw(logits, requests)
    logits[1] = bad
    assert draw(logits, requests) == [whole[0], None, whole[2]]


def shaped(params: SamplingParams, prompt: list[int], reply: list[int]) -> torch.Tensor:
    request = Request(
        request_id="r",
        prompt_ids=tuple(prompt),
        params=params,
        seed=0,
        stop_ids=frozenset({9}),
        max_num_tokens=100,
    )
    for token_id in reply:
        request.token_ids.append(token_id)
        shape(logits_of(64).clone(), [request])  # counts are kept up from step to step
    logits = logits_of(64).clone()
    shape(logits, [request])
    return logits[0]


def test_repetition_penalty_and_temperature_are_those_of_transformers() -> None:
    prompt, reply = [1, 2, 2, 3], [4, 5, 4]
    expected = LogitsProcessorList(
        [RepetitionPenaltyLogitsProcessor(1.3), TemperatureLogitsWarper(0.7)]
    )(torch.tensor([prompt + reply]), logits_of(64).clone())
    got = shaped(SamplingParams(repetition_penalty=1.3, temperature=0.7), prompt, reply)
    torch.testing.assert_close(got, expected[0])


def test_presence_and_frequency_penalties_count_the_reply_only() -> None:
    expected = logits_of(64)[0].clone()
    expected[4] -= 0.5 + 2 * 0.25
    expected[5] -= 0.5 + 0.25
    params = SamplingParams(presence_penalty=0.5, frequency_penalty=0.25)
    torch.testing.assert_close(shaped(params, [1, 2, 3], [4, 5, 4]), expected)


def test_bias_and_bars() -> None:
    expected = logits_of(64)[0].clone()
    expected[7] += 3.5
    expected[9] = float("-inf")
    params = SamplingParams(logit_bias={7: 3.5}, min_tokens=1)
    torch.testing.assert_close(shaped(params, [1], []), expected)


@pytest.fixture(scope="module")
def model(tiny_llama: ModelFolder) -> LoadedModel:
    return load_fp32(tiny_llama)


ARTICLE = SamplingParams(temperature=0.7, top_p=0.8, repetition_penalty=1.05, max_tokens=24)
"""The parameters of the article that the batch command is made for."""


def samples(model: LoadedModel, order: list[int], **sizes: int) -> dict[int, list[int]]:
    engine = make_engine(model, **sizes)
    requests = {
        seed: engine.add(str(seed), [11, 22, 33 + seed % 3], ARTICLE, seed=seed) for seed in order
    }
    run_to_end(engine)
    assert bool(engine.stats.num_preempted) == ("num_blocks" in sizes)
    return {seed: request.output_ids for seed, request in requests.items()}


def test_samples_do_not_depend_on_order_batch_size_or_preemption(model: LoadedModel) -> None:
    expected = samples(model, list(range(16)))
    assert len({tuple(reply) for reply in expected.values()}) == 16
    assert samples(model, list(range(15, -1, -1))) == expected
    assert samples(model, list(range(16)), max_num_requests=4) == expected
    assert samples(model, list(range(16)), num_blocks=7, max_num_requests=8) == expected
    assert samples(model, list(range(16)), max_num_batched_tokens=32) == expected


def test_drawn_tokens_of_the_engine_follow_the_exact_distribution(model: LoadedModel) -> None:
    prompt = [11, 22, 33, 44]
    logits = plain_logits(model, prompt)[-1]
    expected = (logits / 1.3).softmax(dim=-1)
    engine = make_engine(model, max_num_batched_tokens=2048)
    params = SamplingParams(temperature=1.3, max_tokens=1)
    requests = [engine.add(str(seed), prompt, params, seed=seed) for seed in range(6000)]
    run_to_end(engine)
    drawn = torch.tensor([request.output_ids[0] for request in requests])
    assert_drawn_from(drawn, expected)
