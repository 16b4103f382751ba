"""Accuracy and its intervals."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from martlet.answers.interval import clustered_interval, wilson_interval
from martlet.answers.score import JudgedQuestion, score
from martlet.answers.vote import Answer, majority

shares = st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=40)


def judged(
    right: str, *answers: str | None, kind: str | None = None, name: str = "row"
) -> JudgedQuestion:
    vote = majority([Answer(value=value) for value in answers])
    return JudgedQuestion(
        name=name, question="?", right=right, vote=vote, sample_answers=answers, kind=kind
    )


@pytest.mark.parametrize(
    ("num_right", "num_trials", "low", "high"),
    # At 0 of n the upper bound is z² / (n + z²); 8 of 10 is worked out by hand.
    [(8, 10, 0.4901625, 0.9433178), (0, 10, 0.0, 0.2775328), (10, 10, 0.7224672, 1.0)],
)
def test_wilson_interval(num_right: int, num_trials: int, low: float, high: float) -> None:
    interval = wilson_interval(num_right / num_trials, num_trials)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-6)


def test_samples_that_always_agree_count_as_one_per_row() -> None:
    shares = [1.0] * 30 + [0.0] * 20
    clustered = clustered_interval(shares, num_trials=400)
    independent = wilson_interval(0.6, 50)
    assert (clustered.low, clustered.high) == pytest.approx(
        (independent.low, independent.high), abs=0.005
    )


def test_samples_that_are_independent_count_each() -> None:
    clustered = clustered_interval([0.5] * 50, num_trials=400)
    assert clustered == wilson_interval(0.5, 400)


@given(shares)
def test_an_interval_holds_its_share_and_stays_inside(shares: list[float]) -> None:
    mean = sum(shares) / len(shares)
    interval = clustered_interval(shares, num_trials=4 * len(shares))
    assert 0 <= interval.low <= mean + 1e-12
    assert mean - 1e-12 <= interval.high <= 1
    assert interval.low < interval.high


def test_the_card_of_a_run() -> None:
    card = score(
        [
            judged("A", "A", "A", "B", kind="order", name="r1"),
            judged("B", "A", "B", "A", kind="order", name="r2"),
            judged("C", None, None, None, kind="links", name="r3"),
            judged("paris", "Paris", "Paris", "Paris", name="r4"),
        ]
    )
    assert card is not None
    assert card.total.num_questions == 4
    assert card.total.vote.value == 0.5
    assert card.total.single.value == pytest.approx((2 / 3 + 1 / 3 + 0 + 1) / 4)
    assert [(kind, each.num_questions, each.vote.value) for kind, each in card.by_kind] == [
        ("links", 1, 0.0),
        ("order", 2, 0.5),
    ]
    assert [each.name for each in card.wrong] == ["r2", "r3"]


def test_nothing_to_score() -> None:
    assert score([]) is None
