"""What names a sample, what seeds it, and how a prompt is fitted."""

import pytest

from batch.echo_backend import EchoBackend
from batch.plans import plan
from martlet.batch.plan import PlannedQuestion
from martlet.batch.questions import UnusableQuestion
from martlet.errors import ParameterError


def keys(*rows, **options):
    return [planned.key for planned in plan(*rows, **options).asked]


def test_the_prompt_is_kept_packed() -> None:
    planned = plan({"prompt": "x€\U0001f600"}).asked[0]
    assert planned.prompt_ids == tuple(map(ord, "<user>x€\U0001f600"))
    assert planned.num_prompt_tokens == 9


def test_keys_name_rows_and_hold_for_more_samples() -> None:
    assert len(set(keys())) == 2
    assert keys() == keys(n=8) == keys(seed=0)
    assert keys({"prompt": "x"}, {"prompt": "y", "note": "new"}) == keys()


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": 0.5},
        {"max_tokens": 9},
        {"stop": "."},
        {"seed": 1},
        {"backend": EchoBackend(model_hash="other")},
    ],
)
def test_whatever_changes_a_sample_changes_every_key(change) -> None:
    assert not set(keys(**change)) & set(keys())


def test_a_changed_prompt_changes_its_own_key() -> None:
    first, second = keys({"prompt": "x"}, {"prompt": "z"})
    assert (first == keys()[0], second == keys()[1]) == (True, False)


def test_seeds_depend_on_run_question_and_sample() -> None:
    first, second = plan().asked
    (reseeded, _) = plan(seed=1).asked
    seeds = [first.seed_of(0), first.seed_of(1), second.seed_of(0), reseeded.seed_of(0)]
    assert len(set(seeds)) == 4
    assert all(0 <= seed < 2**64 for seed in seeds)
    assert plan(n=8).asked[0].seed_of(1) == first.seed_of(1)


def test_a_row_overrides_parameters_for_itself() -> None:
    body = {"prompt": "x", "temperature": 0.5, "seed": 9}
    own, other = plan({"body": body}, {"prompt": "y"}, temperature=0.7).asked
    assert (own.params.temperature, own.run_seed) == (0.5, 9)
    assert (other.params.temperature, other.run_seed) == (0.7, 0)


def test_a_rows_own_bad_parameter_concerns_it_alone() -> None:
    bad, good = plan({"body": {"prompt": "x", "top_p": 7}}, {"prompt": "y"}).items
    assert isinstance(bad, UnusableQuestion)
    assert "top_p must be from 0 to 1, not 7" in bad.reason
    assert isinstance(good, PlannedQuestion)


def test_a_bad_parameter_of_the_run_ends_it() -> None:
    with pytest.raises(ParameterError, match="top_p"):
        plan(top_p=7)


LONG = {"prompt": "0123456789"}


def test_too_long_is_unusable_under_error_and_skip() -> None:
    backend = EchoBackend(max_context_tokens=10)
    for too_long, is_allowed in [("error", False), ("skip", True)]:
        good, bad = plan({"prompt": "x"}, LONG, backend=backend, too_long=too_long).items
        assert isinstance(good, PlannedQuestion)
        assert isinstance(bad, UnusableQuestion)
        assert "16 tokens" in bad.reason
        assert bad.is_allowed is is_allowed


def test_truncate_left_counts_what_it_dropped() -> None:
    backend = EchoBackend(max_context_tokens=10)
    (planned,) = plan(LONG, backend=backend, too_long="truncate-left", max_tokens=4).asked
    assert planned.prompt_ids == tuple(map(ord, "456789"))
    assert planned.num_dropped_tokens == 10
