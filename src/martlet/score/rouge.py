"""ROUGE: which words, and word pairs, and in which order, a reply shares with the reference."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from martlet.errors import MissingExtraError
from martlet.score.exercise import Exercise

_IDEOGRAPH = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(f"[{_IDEOGRAPH}]|[^\\W_{_IDEOGRAPH}]+")
_KINDS = ("rouge1", "rouge2", "rougeL")


class Rouge:
    """The F-measures of ROUGE-1, ROUGE-2 and ROUGE-L, by Google's `rouge-score`.

    Source: Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries". Words are cut as
    that package cuts plain English, without stemming; each Chinese character is a word, where the
    package itself sees none.

    Raises:
        MissingExtraError: If `rouge-score` is not installed.
    """

    figures = ("ROUGE-1", "ROUGE-2", "ROUGE-L")
    is_mean = True
    how = "F-measure; no stemming; each Chinese character is a word"

    def __init__(self) -> None:
        try:
            from rouge_score.rouge_scorer import RougeScorer
        except ModuleNotFoundError as error:
            raise MissingExtraError("ROUGE", extra="score") from error
        self._scorer: Any = RougeScorer(list(_KINDS), tokenizer=Words())

    def statistics(self, exercise: Exercise, replies: Sequence[str]) -> Sequence[float]:
        """The three figures, each the mean over samples."""
        scored = [self._scorer.score(exercise.reference, reply) for reply in replies]
        return tuple(float(np.mean([each[kind].fmeasure for each in scored])) for kind in _KINDS)

    def total(self, sums: NDArray[np.float64], num_rows: int) -> NDArray[np.float64]:
        """The means."""
        return sums / num_rows


class Words:
    """Cuts a text into words, in the form that `rouge-score` asks of a tokenizer."""

    def tokenize(self, text: str) -> list[str]:
        """Lower-case words; each ideograph is one."""
        return _WORD.findall(text.lower())
