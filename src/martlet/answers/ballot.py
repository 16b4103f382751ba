"""What a finished sample says in a vote, and how much that weighs."""

from math import exp
from typing import Literal, Protocol

from martlet.answers.vote import Answer
from martlet.errors import ParameterError

Weighting = Literal["none", "logprob"]
"""`logprob` weighs a sample by exp(mean log-probability of its tokens)."""

_LEAST_WEIGHT = 1e-300
"""A hopeless sample must not underflow to no weight at all: margins divide by the sum."""


class FinishedSample(Protocol):
    """What is read of a sample."""

    @property
    def text(self) -> str: ...

    @property
    def finish_reason(self) -> str: ...

    @property
    def cumulative_logprob(self) -> float | None: ...

    @property
    def num_tokens(self) -> int: ...


class _Extractor(Protocol):
    def extract(self, text: str) -> str | None: ...


class BallotReader:
    """Reads the samples of one question.

    Args:
        extractor: Finds the answer in a text.
        weighting: Whether a sample's log-probability is its weight; if not, all weigh 1.
    """

    def __init__(self, extractor: _Extractor, *, weighting: Weighting = "none") -> None:
        self.weighting = weighting
        self._extractor = extractor

    def read(self, sample: FinishedSample) -> Answer:
        """The answer of a sample; one whose reason is "error" states none.

        Raises:
            ParameterError: If weights are to be used and the sample has no log-probability.
        """
        if sample.finish_reason == "error":
            return Answer(value=None)
        weight = 1.0 if self.weighting == "none" else _likelihood(sample)
        return Answer(value=self._extractor.extract(sample.text), weight=weight)


def _likelihood(sample: FinishedSample) -> float:
    """exp of the mean log-probability of a sample's tokens, in (0, 1]."""
    if sample.cumulative_logprob is None:
        raise ParameterError("weights by log-probability need samples drawn with logprobs=0")
    mean = sample.cumulative_logprob / max(1, sample.num_tokens)
    # Rounding can lift the log-probability of a certain token above 0.
    return max(exp(min(0.0, mean)), _LEAST_WEIGHT)
