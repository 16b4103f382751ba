"""A question's outcome is a function of its samples, never of the order in which they came."""

from hypothesis import given
from hypothesis import strategies as st

from batch.policies import UntilTwoAgree
from martlet.batch.draw import Draw
from martlet.batch.policy import DrawAll
from martlet.batch.sample import StoredSample


def sample(k: int, text: str = "x") -> StoredSample:
    return StoredSample(
        index=k,
        text=text,
        num_tokens=1,
        finish_reason="stop",
        cumulative_logprob=None,
        num_prompt_tokens=1,
        num_cached_tokens=0,
    )


def draw_of(policy, known=()) -> Draw:
    return Draw(None, policy, {s.index: s for s in known})


@given(data=st.data(), texts=st.lists(st.sampled_from("abcdef"), min_size=6, max_size=6))
def test_the_outcome_does_not_depend_on_order_steps_or_restarts(data, texts) -> None:
    samples = [sample(k, text) for k, text in enumerate(texts)]
    num_needed = next(m for m in range(7) if m == 6 or len(set(texts[:m])) < m)

    order = data.draw(st.permutations(range(6)))
    num_known = data.draw(st.integers(0, 6))
    draw = draw_of(UntilTwoAgree(6), [samples[k] for k in order[:num_known]])
    waiting = [samples[k] for k in order[num_known:]]
    while draw.missing:
        size = data.draw(st.integers(1, 6))
        step, waiting = waiting[:size], waiting[size:]
        draw.take(step)

    assert draw.outcome().samples == tuple(samples[:num_needed])
    assert draw.outcome().error is None


def test_samples_beyond_the_decision_are_no_part_of_it() -> None:
    draw = draw_of(UntilTwoAgree(5), [sample(0), sample(1), sample(2), sample(4)])
    assert draw.missing == set()
    assert [s.index for s in draw.outcome().samples] == [0, 1]
    assert (draw.outcome().num_reused, draw.num_finished) == (2, 4)


def test_a_failed_sample_fails_the_question_that_needs_it() -> None:
    draw = draw_of(DrawAll(3))
    draw.take([StoredSample.failed(1, "why"), sample(2)])
    assert draw.missing == {0}
    draw.take([sample(0)])
    assert draw.missing == set()
    assert draw.outcome().error == "sample 1 failed: why"


def test_a_failed_sample_that_is_not_needed_does_no_harm() -> None:
    draw = draw_of(UntilTwoAgree(3))
    draw.take([StoredSample.failed(2, "why"), sample(0), sample(1)])
    assert draw.missing == set()
    assert draw.outcome().error is None
