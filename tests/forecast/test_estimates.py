"""The arithmetic of a forecast: lengths seen in part, costs of steps, prices."""

from random import Random

import pytest

from martlet.engine.config import EngineConfig
from martlet.errors import ParameterError
from martlet.forecast.costs import Load, StepCosts
from martlet.forecast.pace import load_of
from martlet.forecast.price import Price, TrainingPrice
from martlet.forecast.survival import Survival
from martlet.forecast.work import Amount, Open, Work

NOTHING = Amount(questions=0, samples=0, tokens_in=0, tokens_out=0)


def test_what_is_seen_to_its_end_has_its_own_mean() -> None:
    lengths = Survival.of([1, 4, 4, 7])
    assert lengths.mean_up_to(100) == 4
    assert lengths.mean_up_to(4) == (1 + 4 + 4 + 4) / 4
    assert lengths.mean_after(1, limit=100) == (3 + 3 + 6) / 3
    assert [lengths.length_at(share) for share in (1.0, 0.75, 0.5, 0.2)] == [0, 1, 4, 7]


def test_kaplan_and_meiers_estimate_by_hand() -> None:
    # Four at risk at 2, two at 5: the shares are 3/4 and 3/8.
    lengths = Survival.of([2, 5], [3, 6])
    assert lengths.shares == (1.0, 0.75, 0.375)
    assert lengths.mean_up_to(6) == 2 * 1.0 + 3 * 0.75 + 1 * 0.375


def test_a_short_look_at_long_replies_is_not_biased() -> None:
    random = Random(1)
    replies = [random.lognormvariate(4.0, 0.8) for _ in range(4000)]
    true_mean = sum(replies) / len(replies)
    ages = [random.uniform(0, 250) for _ in replies]  # of each, when the look ends
    ended = [reply for reply, age in zip(replies, ages, strict=True) if reply <= age]
    unended = [age for reply, age in zip(replies, ages, strict=True) if reply > age]
    assert sum(ended) / len(ended) < 0.8 * true_mean
    assert Survival.of(ended, unended).mean_up_to(10_000) == pytest.approx(true_mean, rel=0.05)


def test_replies_that_never_end_are_as_long_as_they_may_be() -> None:
    assert Survival.of([], [10, 20]).mean_up_to(64) == 64
    assert Survival.of([]).mean_up_to(64) == 64


def test_costs_of_prompts_and_replies_are_told_apart() -> None:
    random = Random(2)
    loads = [
        Load(steps=1, tokens=prompt + drawn, drawn=drawn, attended=random.randint(50, 900))
        for prompt, drawn in (
            (random.choice((0, 0, 60)), random.randint(1, 64)) for _ in range(300)
        )
    ]
    seconds = [0.01 + 2e-4 * load.tokens + 1e-5 * load.attended for load in loads]
    noisy = [each * random.uniform(0.9, 1.1) for each in seconds]
    costs = StepCosts.fit(loads, noisy)
    assert min(costs.seconds_per) >= 0
    run = Load(steps=1000, tokens=64_000, drawn=64_000, attended=500_000)
    assert costs.seconds(run) == pytest.approx(10 + 12.8 + 5, rel=0.05)


def test_a_place_is_taken_again_as_soon_as_it_is_free() -> None:
    questions = tuple(
        Open(num_samples=1, num_prompt_tokens=10, max_reply_tokens=8) for _ in range(12)
    )
    work = Work(drawn=NOTHING, open_questions=questions, reply_lengths=Survival.of([]))
    sizes = {"num_blocks": 64, "block_size": 16, "max_context_tokens": 64}
    load = load_of(work, EngineConfig(max_num_requests=4, **sizes), share_computed=0.5)
    assert load == Load(steps=24, tokens=12 * (5 + 8 - 1), drawn=96, attended=12 * 8 * (10 + 4))
    # A pool of two such requests is what limits them, not the number that is allowed.
    sizes["num_blocks"], sizes["max_context_tokens"] = 2, 32
    load = load_of(work, EngineConfig(max_num_requests=4, **sizes), share_computed=0.5)
    assert load.steps == 48


def test_price() -> None:
    price = Price.parse("0.5, 2")
    assert price.of(tokens_in=3_000_000, tokens_out=250_000) == 2.0
    for wrong in ("1", "1,2,3", "-1,2", "nan,1", "one,two", ""):
        with pytest.raises(ParameterError, match=r"0\.15,0\.60"):
            Price.parse(wrong)


def test_price_of_a_training() -> None:
    assert TrainingPrice.parse("3.00").of(500_000) == 1.5
    for wrong in ("0.15,0.60", "-1", "inf", "three", ""):
        with pytest.raises(ParameterError, match="a training draws none"):
            TrainingPrice.parse(wrong)
