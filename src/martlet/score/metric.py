"""What a metric is, and how one is named on the command line."""

from collections.abc import Sequence
from typing import Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from martlet.errors import ParameterError
from martlet.score.accuracy import Accuracy
from martlet.score.bleu import Bleu
from martlet.score.exact_match import ExactMatch
from martlet.score.exercise import Exercise
from martlet.score.rouge import Rouge

Floats = NDArray[np.float64]
MetricName = Literal["accuracy", "exact-match", "rouge", "bleu"]


class Metric(Protocol):
    """Compares replies with references.

    What a row contributes is a vector of statistics that add up over rows, so that a corpus
    measure such as BLEU and a plain mean are resampled alike.
    """

    @property
    def figures(self) -> Sequence[str]:
        """What it measures, the leading figure last."""
        ...

    @property
    def is_mean(self) -> bool:
        """Whether a figure of many rows is the mean of the rows' own."""
        ...

    @property
    def how(self) -> str:
        """How it compares, in a few words, for the report."""
        ...

    def statistics(self, exercise: Exercise, replies: Sequence[str]) -> Sequence[float]:
        """What one row contributes, shape [num_statistics].

        Args:
            replies: The samples of the row, in their order; at least one.
        """
        ...

    def total(self, sums: Floats, num_rows: int) -> Floats:
        """The figures, from 0 to 1, of summed statistics.

        Args:
            sums: Shape [..., num_statistics].
            num_rows: How many rows were summed.

        Returns:
            Shape [..., num_figures].
        """
        ...


def make_metrics(
    names: Sequence[str],
    exercises: Sequence[Exercise],
    *,
    extract: str | None,
    num_samples: int,
) -> list[Metric]:
    """The metrics by their names; all that can be wrong with the rows is found here.

    Args:
        names: Empty takes accuracy where all rows have options, else ROUGE and BLEU.
        extract: How accuracy reads an answer; None reads letters, and needs options.
        num_samples: Replies to each question.

    Raises:
        ParameterError: If a name is unknown, or accuracy is not told how to read an answer.
        RowError: If a reference states no answer.
        MissingExtraError: If a metric's package is not installed.
    """
    known = get_args(MetricName)
    for name in names:
        if name not in known:
            raise ParameterError(
                f"unknown metric {name!r}; metrics are {', '.join(known)}", param="metric"
            )
    if not names:
        has_options = all(each.question.options for each in exercises)
        names = ["accuracy"] if extract or has_options else ["rouge", "bleu"]
    return [_make(name, exercises, extract, num_samples) for name in dict.fromkeys(names)]


def _make(
    name: str, exercises: Sequence[Exercise], extract: str | None, num_samples: int
) -> Metric:
    match name:
        case "accuracy":
            return Accuracy(exercises, extract=extract, num_samples=num_samples)
        case "exact-match":
            return ExactMatch()
        case "rouge":
            return Rouge()
    return Bleu([each.reference for each in exercises])
