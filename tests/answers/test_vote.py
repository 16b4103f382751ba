"""The vote: counts, margin, ties and weights."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from martlet.answers.vote import Answer, majority

values = st.sampled_from(["A", "B", "C", None])
weights = st.sampled_from([0.25, 0.5, 0.7, 1.0])
answers = st.builds(lambda value, weight: Answer(value=value, weight=weight), values, weights)


def said(*values: str | None) -> list[Answer]:
    return [Answer(value=value) for value in values]


def test_the_most_frequent_answer_wins() -> None:
    vote = majority(said("B", "A", "B", None, "B"))
    assert vote.winner == "B"
    assert dict(vote.counts) == {"B": 3, "A": 1}
    assert (vote.num_samples, vote.num_unparsed) == (5, 1)
    assert vote.margin == pytest.approx((3 - 1) / 5)


@pytest.mark.parametrize(
    ("values", "winner"),
    [(("B", "A"), "B"), (("A", "B", "B", "A"), "A"), ((None, "C", "A", "A", "C"), "C")],
)
def test_the_first_given_of_equal_answers_wins(values: tuple[str | None, ...], winner: str) -> None:
    vote = majority(said(*values))
    assert vote.winner == winner
    assert vote.margin == 0


def test_weights_decide_where_they_are_given() -> None:
    vote = majority(
        [Answer(value="A", weight=0.2), Answer(value="A", weight=0.3), Answer(value="B")]
    )
    assert vote.winner == "B"
    assert vote.margin == pytest.approx((1.0 - 0.5) / 1.5)


def test_no_answer_at_all_has_no_winner() -> None:
    vote = majority(said(None, None))
    assert (vote.winner, vote.margin, dict(vote.counts)) == (None, 0, {})
    assert (vote.num_samples, vote.num_unparsed) == (2, 2)


def test_case_does_not_split_an_answer_and_the_first_spelling_is_kept() -> None:
    vote = majority(said("Paris", "Rome", "paris"))
    assert dict(vote.counts) == {"Paris": 2, "Rome": 1}


@given(st.lists(answers, min_size=1, max_size=9))
def test_the_winner_leads_and_ties_go_to_the_first(drawn: list[Answer]) -> None:
    vote = majority(drawn)
    assert 0 <= vote.margin <= 1
    assert vote.num_unparsed == sum(answer.value is None for answer in drawn)
    if vote.winner is None:
        assert vote.num_unparsed == len(drawn)
        return
    stated = [answer.value for answer in drawn]
    best = max(vote.counts.values())
    leaders = [value for value, count in vote.counts.items() if count == best]
    assert vote.winner == min(leaders, key=stated.index)
