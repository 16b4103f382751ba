"""BLEU: the share of a reply's phrases of one to four words that the reference holds."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from martlet.errors import MissingExtraError
from martlet.score.exercise import Exercise

_ORDER = 4
_IDEOGRAPH = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")


class Bleu:
    """BLEU over all rows together, by `sacrebleu`, from 0 to 1.

    Source: Papineni et al. 2002; Post 2018, "A Call for Clarity in Reporting BLEU Scores".

    Args:
        references: All that replies will be compared with; if most hold Chinese characters,
            sacrebleu's `zh` tokenizer cuts words, else its `13a`.

    Raises:
        MissingExtraError: If `sacrebleu` is not installed.
    """

    figures = ("BLEU",)
    is_mean = False

    def __init__(self, references: Sequence[str]) -> None:
        try:
            from sacrebleu.metrics.bleu import BLEU
        except ModuleNotFoundError as error:
            raise MissingExtraError("BLEU", extra="score") from error
        num_chinese = sum(_IDEOGRAPH.search(each) is not None for each in references)
        tokenizer = "zh" if 2 * num_chinese > len(references) else "13a"
        self.how = f"sacrebleu, tokenizer {tokenizer}, exponential smoothing, one reference"
        self._bleu: Any = BLEU(tokenize=tokenizer, effective_order=True)

    def statistics(self, exercise: Exercise, replies: Sequence[str]) -> Sequence[float]:
        """Phrases found and phrases said, of each length, and the two lengths in words."""
        scored = [self._bleu.sentence_score(reply, [exercise.reference]) for reply in replies]
        rows = [[*each.counts, *each.totals, each.sys_len, each.ref_len] for each in scored]
        return tuple(map(float, np.sum(rows, axis=0)))

    def total(self, sums: NDArray[np.float64], num_rows: int) -> NDArray[np.float64]:
        """BLEU of the sums, whatever the number of rows."""
        del num_rows
        return np.apply_along_axis(self._of, -1, sums)

    def _of(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        counts = [round(each) for each in sums]
        done = self._bleu.compute_bleu(
            correct=counts[:_ORDER],
            total=counts[_ORDER : 2 * _ORDER],
            sys_len=counts[-2],
            ref_len=counts[-1],
            smooth_method="exp",
            effective_order=True,
        )
        return np.array([done.score / 100])
