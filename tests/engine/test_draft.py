"""Guesses from what was said before: what they are, how they are learnt, what they are worth."""

import random

import pytest

from martlet.engine.draft import DRAFT_ROWS, MAX_DRAFT_TOKENS, WEIGHT_ROWS, Drafter
from martlet.engine.draft import worthwhile_length as length_of
from martlet.engine.ngrams import SIZES, NgramIndex


def search(token_ids: list[int]) -> tuple[int, int] | None:
    """The plain way: every earlier place, the longest agreement first, then the latest."""
    for size in SIZES:
        for position in range(len(token_ids) - 1, size - 1, -1):
            if token_ids[position - size : position] == token_ids[-size:]:
                return position, size
    return None


def test_the_index_finds_what_a_search_finds() -> None:
    chance = random.Random(0)
    num_found = 0
    for num_distinct in (2, 3, 10):
        token_ids: list[int] = []
        index = NgramIndex()
        for _ in range(150):
            token_ids += chance.choices(range(num_distinct), k=chance.randint(1, 3))
            index.catch_up(token_ids)
            match = index.find(token_ids)
            assert (match and (match.position, match.size)) == search(token_ids)
            num_found += match is not None
    assert num_found > 300


def test_a_draft_is_what_followed_and_goes_round_at_the_end() -> None:
    text = [1, 2, 3, 4, 5, 6, 7, 8, 9, 50, 51, 52]
    drafter = Drafter()
    assert drafter.draft([*text, *text[:8]], num_requests=1, max_tokens=4) == (9, 50, 51, 52)
    assert Drafter().draft([1, 2] * 5, num_requests=1, max_tokens=5) == (1, 2, 1, 2, 1)
    assert Drafter().draft([1, 2, 3, 4], num_requests=1, max_tokens=3) == ()
    assert Drafter().draft([7], num_requests=1, max_tokens=3) == ()


def test_wrong_guesses_end_drafting_and_right_ones_that_nobody_computed_begin_it_again() -> None:
    drafter = Drafter()
    chance = random.Random(0)
    token_ids = [1, 2]
    for _ in range(60):  # What follows 1, 2 never follows again.
        token_ids += [chance.randint(10, 10**6), 1, 2]
        draft = drafter.draft(token_ids, num_requests=4, max_tokens=9)
    assert draft == ()
    lengths = []
    for _ in range(20):
        token_ids += [77, 1, 2]
        lengths.append(len(drafter.draft(token_ids, num_requests=4, max_tokens=9)))
    assert lengths[0] == 0
    assert lengths[-1] == 9


@pytest.mark.parametrize("num_requests", [1, 3, 8, 16])
def test_the_worthwhile_length_draws_most_for_the_time(num_requests: int) -> None:
    """Beside a count of the draws and seconds of many steps, each token right by chance."""
    chance = random.Random(num_requests)
    for acceptance in (0.05, 0.5, 0.8, 0.95):
        runs = [0] * 4000  # right guesses in a row
        for step in range(len(runs)):
            while runs[step] < MAX_DRAFT_TOKENS and chance.random() < acceptance:
                runs[step] += 1
        rates = []
        for length in range(MAX_DRAFT_TOKENS + 1):
            drawn = sum(1 + min(run, length) for run in runs) / len(runs)
            rows = WEIGHT_ROWS / num_requests + 1 + length + DRAFT_ROWS * (length > 0)
            rates.append(drawn / rows)
        chosen = length_of(acceptance, num_requests=num_requests)
        assert rates[chosen] > 0.98 * max(rates), (acceptance, chosen, rates)
    assert length_of(0.05, num_requests=num_requests) == 0
    assert length_of(0.95, num_requests=1) > length_of(0.95, num_requests=num_requests + 4)
