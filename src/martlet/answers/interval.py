"""Confidence intervals for a share: of independent rows, and of rows with several samples each."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist, fmean, variance

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A range that holds the true share with 95% confidence."""

    low: float
    high: float


def wilson_interval(share: float, num_trials: float) -> Interval:
    """The interval of a share that was seen in independent trials.

    Source: Wilson 1927; recommended for small numbers by Brown, Cai and DasGupta 2001, "Interval
    Estimation for a Binomial Proportion".

    Args:
        share: The share of successes, from 0 to 1.
        num_trials: How many trials; above 0. It may be an effective number, thus no integer.
    """
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    scale = 1 + z * z / num_trials
    centre = (share + z * z / (2 * num_trials)) / scale
    spread = z / scale * sqrt(share * (1 - share) / num_trials + (z / (2 * num_trials)) ** 2)
    # At 0 and 1 the bound is the share itself; rounding must not move it inwards.
    low = 0.0 if share == 0 else max(0.0, centre - spread)
    high = 1.0 if share == 1 else min(1.0, centre + spread)
    return Interval(low=low, high=high)


def clustered_interval(shares: Sequence[float], num_trials: int) -> Interval:
    """The interval of a mean share over rows, where the trials of one row resemble each other.

    The variance between rows gives an effective number of trials, for which Wilson's interval is
    taken: it stays inside 0 to 1. Source: Dean and Pagano 2015, "Evaluating Confidence Interval
    Methods for Binomial Proportions in Clustered Surveys"; on why samples of one question must
    not count as independent: Miller 2024, "Adding Error Bars to Evals" (arXiv:2411.00640).

    Args:
        shares: The share of successes in each row; at least one row.
        num_trials: Trials of all rows together, the most that the effective number can be.
    """
    mean = fmean(shares)
    mean_variance = variance(shares) / len(shares) if len(shares) > 1 else 0.0
    if mean in (0, 1) or len(shares) == 1:
        # All rows alike: nothing is known of how alike samples are, so a row is one trial.
        return wilson_interval(mean, len(shares))
    if mean_variance == 0:
        return wilson_interval(mean, num_trials)
    return wilson_interval(mean, min(mean * (1 - mean) / mean_variance, num_trials))
