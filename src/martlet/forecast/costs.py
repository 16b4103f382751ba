"""What a step costs, by what it computes: fitted to the steps of a probe.

A probe begins with prompts, and a run consists mostly of replies; so their rates must be told
apart. A step's time is taken for a sum of shares, none below zero:

    seconds = base + a x tokens + b x drawn tokens + c x tokens that are attended to
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Load:
    """What a step computes, or all steps of a run together."""

    steps: float
    tokens: float = 0.0
    """Through the model."""
    drawn: float = 0.0
    """Tokens of replies."""
    attended: float = 0.0
    """Tokens whose keys and values were read, summed over the requests of each step."""

    @property
    def parts(self) -> tuple[float, ...]:
        return (self.steps, self.tokens, self.drawn, self.attended)


@dataclass(frozen=True, kw_only=True)
class StepCosts:
    """Seconds for each part of a load."""

    seconds_per: tuple[float, ...]

    @classmethod
    def fit(cls, loads: Sequence[Load], seconds: Sequence[float]) -> "StepCosts":
        """The shares, none negative, that leave the least squares of errors.

        With four columns every choice of those above zero can be tried.

        Args:
            loads: Of single steps, at least one.
            seconds: What each took.
        """
        parts = np.array([load.parts for load in loads])
        wanted = np.array(seconds)
        scale = np.maximum(np.abs(parts).max(axis=0), 1e-12)
        best, least = np.zeros(parts.shape[1]), np.inf
        for count in range(1, parts.shape[1] + 1):
            for columns in map(list, combinations(range(parts.shape[1]), count)):
                shares = np.linalg.lstsq(parts[:, columns] / scale[columns], wanted, rcond=None)[0]
                error = float(np.square(parts[:, columns] / scale[columns] @ shares - wanted).sum())
                if shares.min() >= 0 and error < least:
                    best, least = np.zeros_like(best), error
                    best[columns] = shares / scale[columns]
        return cls(seconds_per=tuple(best.tolist()))

    def seconds(self, load: Load) -> float:
        """What a load takes."""
        return sum(each * part for each, part in zip(self.seconds_per, load.parts, strict=True))
