"""How often the stated answer is the right one: of one sample, and of a vote."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from martlet.answers.extractor import EXTRACTOR_FORMS, Extractor, ExtractorMaker, parse_extractor
from martlet.answers.score import is_same_answer
from martlet.answers.vote import Answer, majority
from martlet.errors import ParameterError, RowError
from martlet.score.exercise import Exercise


class Accuracy:
    """Reads an answer in each reply and compares it with the row's.

    The right answer is the row's `answer`, or what the reference states.

    Args:
        exercises: All rows that will be scored.
        extract: How answers are read; None reads letters, and needs options.
        num_samples: Replies to each question; several also vote.

    Raises:
        ParameterError: If rows have no options and nobody said how to read answers.
        RowError: If a reference states no answer.
    """

    is_mean = True

    def __init__(
        self, exercises: Sequence[Exercise], *, extract: str | None, num_samples: int
    ) -> None:
        self.how = f"answers read by {extract or 'letter'}; no answer counts as wrong"
        several = ("one sample", f"vote of {num_samples}")
        self.figures = ("accuracy",) if num_samples == 1 else several
        maker = parse_extractor(extract or "letter")
        if extract is None and not all(each.question.options for each in exercises):
            raise ParameterError(
                "accuracy needs to know how to read an answer where rows have no options: "
                f"--extract {EXTRACTOR_FORMS}",
                param="extract",
            )
        self._maker = maker
        self._right = {each.question.question_id: _right(each, maker) for each in exercises}

    def statistics(self, exercise: Exercise, replies: Sequence[str]) -> Sequence[float]:
        """The share of right samples, and whether the vote is right."""
        right = self._right[exercise.question.question_id]
        extractor = _extractor(exercise, self._maker)
        answers = [extractor.extract(reply) for reply in replies]
        single = float(np.mean([is_same_answer(answer, right) for answer in answers]))
        if len(self.figures) == 1:
            return (single,)
        winner = majority([Answer(value=answer) for answer in answers]).winner
        return single, float(is_same_answer(winner, right))

    def total(self, sums: NDArray[np.float64], num_rows: int) -> NDArray[np.float64]:
        """The means."""
        return sums / num_rows


def _extractor(exercise: Exercise, maker: ExtractorMaker) -> Extractor:
    return maker(exercise.question.options or ())


def _right(exercise: Exercise, maker: ExtractorMaker) -> str:
    extractor, row = _extractor(exercise, maker), exercise.question.row
    answer = exercise.question.answer
    if answer is not None:
        try:
            return extractor.canonical(answer)
        except ParameterError:
            pass  # A whole solution, such as GSM8K's: it is read as a reply would be.
    stated = extractor.extract(exercise.reference)
    if stated is None:
        shown = exercise.reference.strip()[-80:]
        raise RowError(
            f"its own reply states no answer that --extract reads: …{shown!r}",
            path="the data",
            line=row.number,
        )
    return stated
