"""Early stop: the same winner as the full vote, whatever the order, with the fewest samples."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import exp

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from martlet.answers.ballot import BallotReader, Weighting
from martlet.answers.policy import EarlyStop, VotePolicy
from martlet.answers.vote import Answer, Vote, majority
from martlet.errors import ParameterError

EXACT = EarlyStop(mode="exact")
OFF = EarlyStop(mode="off")
BETA = EarlyStop(mode="beta", threshold=0.95)


@dataclass(frozen=True, kw_only=True)
class Sample:
    text: str
    finish_reason: str = "stop"
    cumulative_logprob: float | None = None
    num_tokens: int = 1


class WholeText:
    """An extractor that takes the text as the answer, and counts how often it is asked."""

    def __init__(self) -> None:
        self.num_calls = 0

    def extract(self, text: str) -> str | None:
        self.num_calls += 1
        return text or None


def policy_of(
    num_samples: int, early_stop: EarlyStop = EXACT, weighting: Weighting = "none"
) -> VotePolicy:
    return VotePolicy(
        num_samples=num_samples,
        early_stop=early_stop,
        reader=BallotReader(WholeText(), weighting=weighting),
    )


def run(
    policy: VotePolicy, samples: Sequence[Sample], order: Sequence[float] | None = None
) -> tuple[Vote, set[int]]:
    """Plays a question: of the samples asked for, the one with the least `order` finishes next."""
    finished: dict[int, Sample] = {}
    while wanted := policy.wanted(finished):
        assert not set(wanted) & set(finished)
        chosen = min(wanted, key=lambda k: order[k] if order else k)
        finished[chosen] = samples[chosen]
    return policy.decide(finished), set(finished)


texts = st.sampled_from(["A", "B", "C", ""])
samples_of_a_question = st.lists(
    st.builds(lambda text: Sample(text=text), texts), min_size=1, max_size=9
)
weighted_samples = st.lists(
    st.builds(
        lambda text, logprob, reason: Sample(
            text=text, finish_reason=reason, cumulative_logprob=logprob, num_tokens=2
        ),
        texts,
        st.sampled_from([0.0, -0.1, -0.7, -1.4, -9.0]),
        st.sampled_from(["stop", "length", "error"]),
    ),
    min_size=1,
    max_size=9,
)


def full_vote(samples: Sequence[Sample], weighting: Weighting) -> Vote:
    return run(policy_of(len(samples), OFF, weighting), samples)[0]


@given(samples_of_a_question)
def test_exact_has_the_winner_of_the_full_vote(samples: list[Sample]) -> None:
    vote, _ = run(policy_of(len(samples)), samples)
    assert vote.winner == full_vote(samples, "none").winner


@given(weighted_samples)
def test_exact_has_the_winner_of_the_full_weighted_vote(samples: list[Sample]) -> None:
    vote, _ = run(policy_of(len(samples), EXACT, "logprob"), samples)
    assert vote.winner == full_vote(samples, "logprob").winner


@given(weighted_samples, st.data())
def test_the_outcome_does_not_depend_on_the_order(
    samples: list[Sample], data: st.DataObject
) -> None:
    orders = st.lists(st.floats(0, 1), min_size=len(samples), max_size=len(samples))
    weighting: Weighting = data.draw(st.sampled_from(["none", "logprob"]))
    in_turn, _ = run(policy_of(len(samples), EXACT, weighting), samples)
    shuffled, _ = run(policy_of(len(samples), EXACT, weighting), samples, data.draw(orders))
    assert shuffled == in_turn


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 5), st.lists(texts, max_size=5))
def test_exact_stops_at_the_first_length_that_no_completion_can_change(
    num_samples: int, drawn: list[str]
) -> None:
    """Brute force over all completions: not a sample too many, not one too few."""
    prefix = [Answer(value=text or None) for text in drawn[:num_samples]]
    finished = {k: Sample(text=answer.value or "") for k, answer in enumerate(prefix)}

    def winners(length: int) -> set[str | None]:
        # D stands for every answer that nobody has given yet.
        rest = product(["A", "B", "C", "D", None], repeat=num_samples - length)
        return {
            majority([*prefix[:length], *(Answer(value=value) for value in values)]).winner
            for values in rest
        }

    policy = policy_of(num_samples)
    is_decided = not policy.wanted(finished)
    can_stop = [length for length in range(len(prefix) + 1) if len(winners(length)) == 1]
    assert is_decided == bool(can_stop)
    if can_stop:
        assert policy.decide(finished).num_samples == can_stop[0]


@given(samples_of_a_question)
def test_a_wave_is_the_least_that_could_decide(samples: list[Sample]) -> None:
    policy = policy_of(len(samples))
    finished: dict[int, Sample] = {}
    while wanted := sorted(policy.wanted(finished)):
        held = majority([Answer(value=sample.text or None) for sample in finished.values()])
        support = Sample(text=held.winner or "new")
        if len(wanted) > 1:
            too_few = finished | dict.fromkeys(wanted[:-1], support)
            assert policy_of(len(samples)).wanted(too_few)
        assert not policy_of(len(samples)).wanted(finished | dict.fromkeys(wanted, support))
        finished |= {k: samples[k] for k in wanted}


@pytest.mark.parametrize(("num_samples", "first_wave"), [(1, 1), (2, 1), (3, 2), (8, 4), (9, 5)])
def test_the_first_wave_of_exact(num_samples: int, first_wave: int) -> None:
    """Half of an even number suffices: the first answer given wins a tie."""
    policy = policy_of(num_samples)
    assert policy.num_first_wave == first_wave
    assert list(policy.wanted({})) == list(range(first_wave))


def test_unanimous_samples_save_the_rest() -> None:
    vote, drawn = run(policy_of(8), [Sample(text="A")] * 8)
    assert (vote.winner, vote.num_samples, vote.margin) == ("A", 4, 1.0)
    assert drawn == {0, 1, 2, 3}


def test_off_draws_all() -> None:
    policy = policy_of(5, OFF)
    assert policy.num_first_wave == 5
    assert run(policy, [Sample(text="A")] * 5)[1] == set(range(5))


def test_what_finished_beyond_the_decision_is_ignored() -> None:
    finished = {0: Sample(text="A"), 1: Sample(text="A"), 2: Sample(text="B")}
    assert policy_of(3).decide(finished).num_samples == 2


def test_a_gap_hides_what_finished_after_it() -> None:
    policy = policy_of(3)
    assert list(policy.wanted({1: Sample(text="A")})) == [0]
    assert policy.decide({1: Sample(text="A")}).num_samples == 0


def test_failed_samples_count_as_unparsed() -> None:
    samples = [Sample(text="A", finish_reason="error"), Sample(text="B"), Sample(text="B")]
    vote, _ = run(policy_of(3), samples)
    assert (vote.winner, vote.num_unparsed) == ("B", 1)


def test_each_text_is_read_once() -> None:
    extractor = WholeText()
    policy = VotePolicy(num_samples=6, early_stop=OFF, reader=BallotReader(extractor))
    run(policy, [Sample(text="A")] * 6)
    assert extractor.num_calls == 6


@pytest.mark.parametrize(
    ("texts", "num_samples"),
    [
        ("AAAA", 4),  # 1 - 1/2**5 = 0.969, the first above 0.95; after AAA it is 0.938
        ("ABAAAAA", 7),  # Beta(7, 2): 0.965; after ABAAAA Beta(6, 2): 0.938
        ("ABABABABABAB", 11),  # never; but A, given first, wins a tie of 12
    ],
)
def test_beta_stops_above_the_threshold(texts: str, num_samples: int) -> None:
    samples = [Sample(text=text) for text in texts.ljust(40, "A")]
    vote, drawn = run(policy_of(40 if num_samples < 11 else 12, BETA), samples)
    assert vote.num_samples == num_samples
    assert len(drawn) == num_samples


def test_the_weight_is_the_mean_likelihood_of_a_token() -> None:
    samples = [
        Sample(text="A", cumulative_logprob=-2.0, num_tokens=2),
        Sample(text="B", cumulative_logprob=0.001, num_tokens=4),
    ]
    vote, _ = run(policy_of(2, OFF, "logprob"), samples)
    assert vote.winner == "B"
    assert dict(vote.counts) == pytest.approx({"B": 1.0, "A": exp(-1.0)})


def test_weights_need_log_probabilities() -> None:
    with pytest.raises(ParameterError, match="logprobs=0"):
        policy_of(2, OFF, "logprob").wanted({0: Sample(text="A")})


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("exact", EXACT),
        ("off", OFF),
        ("beta", BETA),
        ("beta:0.9", EarlyStop(mode="beta", threshold=0.9)),
    ],
)
def test_early_stop_is_read_and_written(spec: str, expected: EarlyStop) -> None:
    assert EarlyStop.parse(spec) == expected
    assert EarlyStop.parse(str(expected)) == expected


@pytest.mark.parametrize(
    "spec", ["", "on", "beta:", "beta:x", "beta:0.5", "beta:1", "exact:1", "beta:nan"]
)
def test_another_early_stop_is_refused(spec: str) -> None:
    with pytest.raises(ParameterError):
        EarlyStop.parse(spec)


def test_contradictory_policies_are_refused() -> None:
    for num_samples in (0, 1025):
        with pytest.raises(ParameterError, match="1 to 1,024 samples"):
            policy_of(num_samples)
    with pytest.raises(ParameterError, match="beta counts whole votes"):
        policy_of(3, BETA, "logprob")
