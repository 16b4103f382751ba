"""A prompt that does not fit is refused or shortened, and both are said."""

import pytest

from martlet.errors import PromptTooLongError
from martlet.text.context import FittedPrompt, fit_prompt

PROMPT = (1, 10, 11, 12, 13, 14)


def test_a_prompt_that_fits_stays_whole():
    for max_tokens, max_context_tokens in ((4, 10), (None, 7)):
        fitted = fit_prompt(
            list(PROMPT),
            max_context_tokens=max_context_tokens,
            max_tokens=max_tokens,
            policy="error",
        )
        assert fitted == FittedPrompt(token_ids=PROMPT, num_dropped=0)


@pytest.mark.parametrize("policy", ["error", "skip"])
@pytest.mark.parametrize(("max_tokens", "max_context_tokens"), [(5, 10), (None, 6)])
def test_a_prompt_that_does_not_fit_is_refused_with_the_ways_out(
    policy, max_tokens, max_context_tokens
):
    with pytest.raises(PromptTooLongError) as caught:
        fit_prompt(
            PROMPT, max_context_tokens=max_context_tokens, max_tokens=max_tokens, policy=policy
        )
    message = str(caught.value)
    reserved = max_tokens or 1
    for part in (
        "prompt has 6 tokens",
        f"{reserved} are kept",
        f"holds {max_context_tokens}",
        "shorten the prompt by 1 tokens",
        "--max-tokens",
        "--too-long skip",
        "truncate-left",
    ):
        assert part in message


def test_the_oldest_tokens_are_dropped():
    fitted = fit_prompt(PROMPT, max_context_tokens=8, max_tokens=5, policy="truncate-left")
    assert fitted == FittedPrompt(token_ids=(12, 13, 14), num_dropped=3)


def test_a_leading_bos_stays():
    fitted = fit_prompt(
        PROMPT, max_context_tokens=8, max_tokens=5, policy="truncate-left", bos_id=1
    )
    assert fitted == FittedPrompt(token_ids=(1, 13, 14), num_dropped=3)


def test_a_bos_that_the_prompt_does_not_begin_with_is_not_added():
    fitted = fit_prompt(
        PROMPT, max_context_tokens=8, max_tokens=5, policy="truncate-left", bos_id=2
    )
    assert fitted.token_ids == (12, 13, 14)


@pytest.mark.parametrize("max_tokens", [7, 8, 9])
def test_no_room_for_a_prompt_is_an_error_whatever_the_policy(max_tokens):
    with pytest.raises(PromptTooLongError, match="no room for a prompt"):
        fit_prompt(
            PROMPT, max_context_tokens=8, max_tokens=max_tokens, policy="truncate-left", bos_id=1
        )
