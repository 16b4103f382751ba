"""Which tokens of a reply to compute before they are drawn, guessed from what was said before.

Summaries, corrections and structured answers repeat their prompt. A request whose last tokens stood
somewhere before drafts what followed there (prompt lookup: Saxena, 2023,
https://github.com/apoorvumang/prompt-lookup-decoding; Yang et al., arXiv:2304.04487). The step
computes the draft behind the last known token, and each token of it that is then drawn saves a
step. What is drawn does not depend on the draft.

How much is drafted depends on the tokens and on the number of requests alone, never on the clock:
in bf16 the rows of a step decide its rounding, and the same run is to come out the same.
"""

from collections.abc import Sequence
from types import MappingProxyType

from martlet.engine.ngrams import NgramIndex

MAX_DRAFT_TOKENS = 7
"""With the token before them, 8 rows: up to there, products cost little more than with one."""
MAX_DRAFTING_REQUESTS = 8
"""Requests beside which a row is no longer cheap enough for guesses."""
WEIGHT_ROWS = 8.0
"""What reading the weights costs in a step, counted in rows of products."""
DRAFT_ROWS = 1.0
"""What a request that drafts costs besides the rows of its draft, counted in the same way."""
FIRST_ACCEPTANCE = MappingProxyType({8: 0.8, 4: 0.5, 2: 0.5})
"""How likely a guess is held to be right before any was seen, by the tokens that agreed."""
MEMORY = 8.0
"""Guesses after which the first of them counts a third."""


class Drafter:
    """Guesses how one request goes on, and learns how often such guesses are right.

    A guess is compared with what was drawn whether it was computed or not, so a request whose reply
    begins to repeat is noticed at no cost.
    """

    def __init__(self) -> None:
        self._index = NgramIndex()
        self._size_to_acceptance = dict(FIRST_ACCEPTANCE)
        self._has_given_up = False
        self._guess: tuple[int, ...] = ()
        self._guess_start = 0
        self._guess_size = max(FIRST_ACCEPTANCE)

    def draft(
        self, token_ids: Sequence[int], *, num_requests: int, max_tokens: int
    ) -> tuple[int, ...]:
        """The tokens that are worth computing beside the last of a sequence; often none.

        Args:
            token_ids: Prompt and reply; longer than at the last call.
            num_requests: Requests that draw a token in the step.
            max_tokens: The most that may be drafted.
        """
        if self._has_given_up:
            return ()
        self._learn(token_ids)
        self._index.catch_up(token_ids)
        match = self._index.find(token_ids)
        if match is None:
            self._guess = ()
            return ()
        acceptance = self._size_to_acceptance[match.size]
        length = min(max_tokens, worthwhile_length(acceptance, num_requests=num_requests))
        self._guess = _followers(token_ids, match.position, max(length, 1))
        self._guess_start, self._guess_size = len(token_ids), match.size
        return self._guess[:length]

    def give_up(self) -> None:
        """Drafts nothing from now on: the model has no finite logits for a guess."""
        self._has_given_up = True

    def _learn(self, token_ids: Sequence[int]) -> None:
        acceptance = self._size_to_acceptance[self._guess_size]
        for guessed, drawn in zip(self._guess, token_ids[self._guess_start :], strict=False):
            acceptance += ((guessed == drawn) - acceptance) / MEMORY
            if guessed != drawn:
                break
        self._size_to_acceptance[self._guess_size] = acceptance


def worthwhile_length(acceptance: float, *, num_requests: int) -> int:
    """The length of draft with which a step draws the most tokens for its time.

    The time is that of the weights, which all requests share, and of the request's own rows: the
    one it needs, the draft, and what it costs to attend to several at once. The i-th token of a
    draft is drawn if it and all before it are right.

    Args:
        acceptance: How likely a guess is right if those before it were.
        num_requests: Requests that draw a token in the step; each is taken to draft alike.
    """
    num_rows = WEIGHT_ROWS / num_requests + 1
    best_rate, best_length = 1 / num_rows, 0
    num_drawn = gain = 1.0
    for length in range(1, MAX_DRAFT_TOKENS + 1):
        gain *= acceptance
        num_drawn += gain
        rate = num_drawn / (num_rows + DRAFT_ROWS + length)
        if rate > best_rate:
            best_rate, best_length = rate, length
    return best_length


def _followers(token_ids: Sequence[int], position: int, count: int) -> tuple[int, ...]:
    """What stands from a position on; at the end of the sequence it goes round."""
    period = len(token_ids) - position
    return tuple(token_ids[position + i % period] for i in range(count))
