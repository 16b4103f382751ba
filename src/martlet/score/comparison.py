"""Contestants side by side on the same rows: figures, differences, and how sure they are."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import comb

import numpy as np

from martlet.answers.interval import CONFIDENCE, Interval, wilson_interval
from martlet.score.exercise import Exercise
from martlet.score.metric import Floats, Metric

NUM_RESAMPLES = 2000
_CHUNK = 100
_SEED = 0
_TOLERANCE = 1e-9
"""Of two equal figures that were added up in another order."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A figure from 0 to 1, or a difference of two, with its 95% interval."""

    value: float
    interval: Interval


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A contestant's figure beside the first contestant's."""

    estimate: Estimate
    num_better: int
    """Rows on which it is above the first."""
    num_worse: int
    p_value: float
    """How often chance alone would make so uneven a count of better and worse rows."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One figure of one contestant."""

    contestant: str
    figure: str
    estimate: Estimate
    difference: Difference | None
    """None for the first contestant."""


@dataclass(frozen=True, kw_only=True)
class Flip:
    """A row on which a contestant does better or worse than the first."""

    contestant: str
    figure: str
    exercise: Exercise
    before: float
    after: float
    first_replies: Sequence[str]
    replies: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What one metric finds."""

    metric: Metric
    standings: tuple[Standing, ...]
    flips: tuple[Flip, ...]
    """By the metric's leading figure, the largest losses first, then the largest gains."""


def compare(
    metric: Metric,
    exercises: Sequence[Exercise],
    replies: Mapping[str, Sequence[Sequence[str]]],
) -> Comparison:
    """Compares contestants by one metric.

    Differences are paired: both contestants are resampled on the same rows. Intervals are
    percentiles of a bootstrap over rows (Efron 1979; for BLEU: Koehn 2004, "Statistical
    Significance Tests for Machine Translation Evaluation"), those of a plain share Wilson's. The
    p-value is the exact sign test's over rows that differ, which is McNemar's for right and wrong.

    Args:
        exercises: What was asked; at least one.
        replies: By contestant, the first being what others are compared with: the samples of
            each exercise.
    """
    statistics = {
        name: np.array(
            [metric.statistics(*pair) for pair in zip(exercises, given, strict=True)], dtype=float
        )
        for name, given in replies.items()
    }
    row_values = {name: metric.total(each, 1) for name, each in statistics.items()}
    resampled = _resampled(metric, statistics)
    first = next(iter(replies))
    standings = tuple(
        Standing(
            contestant=name,
            figure=figure,
            estimate=_estimate(metric, statistics[name], row_values[name], resampled[name], place),
            difference=None
            if name == first
            else _difference(metric, (first, name), statistics, row_values, resampled, place),
        )
        for place, figure in enumerate(metric.figures)
        for name in replies
    )
    flips = tuple(_flips(metric, exercises, replies, row_values))
    return Comparison(metric=metric, standings=standings, flips=flips)


def _resampled(metric: Metric, statistics: Mapping[str, Floats]) -> dict[str, Floats]:
    """The figures of each contestant on resampled rows, shape [NUM_RESAMPLES, num_figures]."""
    generator = np.random.default_rng(_SEED)
    num_rows = len(next(iter(statistics.values())))
    parts: dict[str, list[Floats]] = {name: [] for name in statistics}
    for _ in range(NUM_RESAMPLES // _CHUNK):
        counts = generator.multinomial(num_rows, np.full(num_rows, 1 / num_rows), size=_CHUNK)
        for name, rows in statistics.items():
            parts[name].append(metric.total(counts @ rows, num_rows))
    return {name: np.concatenate(each) for name, each in parts.items()}


def _estimate(
    metric: Metric, rows: Floats, row_values: Floats, resampled: Floats, place: int
) -> Estimate:
    value = float(metric.total(rows.sum(axis=0), len(rows))[place])
    if metric.is_mean and np.isin(row_values[:, place], (0.0, 1.0)).all():
        return Estimate(value=value, interval=wilson_interval(value, len(rows)))
    return Estimate(value=value, interval=_percentiles(resampled[:, place]))


def _difference(
    metric: Metric,
    names: tuple[str, str],
    statistics: Mapping[str, Floats],
    row_values: Mapping[str, Floats],
    resampled: Mapping[str, Floats],
    place: int,
) -> Difference:
    first, other = (
        float(metric.total(statistics[name].sum(axis=0), len(statistics[name]))[place])
        for name in names
    )
    moved = row_values[names[1]][:, place] - row_values[names[0]][:, place]
    num_better, num_worse = int((moved > _TOLERANCE).sum()), int((moved < -_TOLERANCE).sum())
    interval = _percentiles(resampled[names[1]][:, place] - resampled[names[0]][:, place])
    return Difference(
        estimate=Estimate(value=other - first, interval=interval),
        num_better=num_better,
        num_worse=num_worse,
        p_value=sign_test(num_better, num_worse),
    )


def _percentiles(values: Floats) -> Interval:
    low, high = np.quantile(values, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    return Interval(low=float(low), high=float(high))


def sign_test(num_better: int, num_worse: int) -> float:
    """The two-sided p-value of the exact sign test; 1 if no row differs."""
    num_rows = num_better + num_worse
    tail = sum(comb(num_rows, k) for k in range(min(num_better, num_worse) + 1))
    return min(1.0, 2 * tail / (1 << num_rows))


def _flips(
    metric: Metric,
    exercises: Sequence[Exercise],
    replies: Mapping[str, Sequence[Sequence[str]]],
    row_values: Mapping[str, Floats],
) -> Iterator[Flip]:
    first, *others = replies
    for name in others:
        moved = row_values[name][:, -1] - row_values[first][:, -1]
        order = [int(place) for place in np.argsort(moved, kind="stable")]
        losses = [place for place in order if moved[place] < -_TOLERANCE]
        gains = [place for place in reversed(order) if moved[place] > _TOLERANCE]
        for place in [*losses, *gains]:
            yield Flip(
                contestant=name,
                figure=metric.figures[-1],
                exercise=exercises[place],
                before=float(row_values[first][place, -1]),
                after=float(row_values[name][place, -1]),
                first_replies=replies[first][place],
                replies=replies[name][place],
            )
