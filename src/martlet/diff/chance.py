"""Whether votes changed more than drawing the same samples again would change them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Ballots = Sequence[str | None]

NUM_SHUFFLES = 1000
_SEED = 0


def redraw_test(pairs: Sequence[tuple[Ballots, Ballots]], *, num_flips: int) -> float:
    """How often two runs of the same model would differ in as many votes, by chance alone.

    A permutation test (Fisher 1935): if both runs draw from the same distribution, it does not
    matter which of a question's samples belong to which run. They are dealt out anew many times;
    the p-value is the share of deals with at least as many flips, the one seen included. Ties are
    broken at random. Where runs stopped early the samples of a question are not quite
    exchangeable, and the value is approximate.

    Args:
        pairs: What the samples of each question say in both runs.
        num_flips: Questions whose vote differs.
    """
    generator = np.random.default_rng(_SEED)
    flips = np.zeros(NUM_SHUFFLES, dtype=np.int64)
    for first, second in pairs:
        flips += _dealt_flips(first, second, generator)
    return float(1 + (flips >= num_flips).sum()) / (1 + NUM_SHUFFLES)


def _dealt_flips(
    first: Ballots, second: Ballots, generator: np.random.Generator
) -> NDArray[np.int64]:
    """For each deal whether the two votes differ, shape [NUM_SHUFFLES]."""
    answers = list(dict.fromkeys([*first, *second]))
    if len(answers) == 1:
        return np.zeros(NUM_SHUFFLES, dtype=np.int64)
    pooled = np.array([[*first, *second].count(each) for each in answers])
    dealt = generator.multivariate_hypergeometric(pooled, len(first), size=NUM_SHUFFLES)
    stated = [place for place, each in enumerate(answers) if each is not None]
    winners = [_winners(counts[:, stated], generator) for counts in (dealt, pooled - dealt)]
    return np.not_equal(*winners).astype(np.int64)


def _winners(counts: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
    """The place of the answer with the most votes in each row; -1 where nobody stated one."""
    jittered = counts + generator.random(counts.shape) / 2
    return np.where(counts.sum(axis=1) > 0, jittered.argmax(axis=1), -1)
