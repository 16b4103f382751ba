"""Two runs compared: the questions that flipped, how sure it is, the settings that differ."""

from collections.abc import Sequence
from dataclasses import dataclass

from martlet.diff.chance import redraw_test
from martlet.diff.reading import Reading
from martlet.diff.run import FinishedRun
from martlet.diff.settings import ChangedSetting, changed_settings
from martlet.errors import InputError
from martlet.score.comparison import sign_test

SIGNIFICANT = 0.05
"""A p-value below it is called more than chance."""


@dataclass(frozen=True, kw_only=True)
class Flip:
    """A question that the second run answers otherwise than the first."""

    place: str
    """In the first result."""
    first: Reading
    second: Reading

    @property
    def gain(self) -> int:
        """1 if it became right, -1 if wrong, 0 if neither is known or both are wrong."""
        return bool(self.second.is_right) - bool(self.first.is_right)


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """How often each run is right, where that is known."""

    num_questions: int
    num_right_first: int
    num_right_second: int
    num_better: int
    num_worse: int
    p_value: float
    """Exact sign test over the questions that got better or worse, which is McNemar's."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What came of comparing two runs."""

    num_compared: int
    """Questions that both results hold and both runs answered."""
    num_only_first: int
    num_only_second: int
    num_failed: int
    """Questions of both that a run failed at."""
    flips: tuple[Flip, ...]
    """Those that became wrong first, then those that became right, then the others."""
    judgement: Judgement | None
    """None where no right answer is known."""
    redraw_p_value: float | None
    """See `redraw_test`; None unless several samples voted on each question."""
    settings: tuple[ChangedSetting, ...]

    @property
    def is_beyond_chance(self) -> bool | None:
        """Whether the flips are more than chance; None where nothing tells."""
        p_values = [
            *([] if self.judgement is None else [self.judgement.p_value]),
            *([] if self.redraw_p_value is None else [self.redraw_p_value]),
        ]
        return min(p_values) < SIGNIFICANT / len(p_values) if p_values else None


def compare_runs(first: FinishedRun, second: FinishedRun) -> Difference:
    """Compares two runs on the questions that both answered.

    Raises:
        InputError: If there are none.
    """
    shared = [key for key in first.questions if key in second.questions]
    pairs = [
        Flip(place=question.place, first=question.reading, second=other.reading)
        for question, other in ((first.questions[key], second.questions[key]) for key in shared)
        if question.reading is not None and other.reading is not None
    ]
    if not pairs:
        raise InputError(
            f"{first.path} and {second.path} have no question in common that both answered; give "
            "two results over the same rows"
        )
    flips = [each for each in pairs if each.first.answer != each.second.answer]
    return Difference(
        num_compared=len(pairs),
        num_only_first=len(first.questions) - len(shared),
        num_only_second=len(second.questions) - len(shared),
        num_failed=len(shared) - len(pairs),
        flips=tuple(sorted(flips, key=lambda flip: (flip.gain == 0, flip.gain))),
        judgement=_judge(pairs),
        redraw_p_value=_redraw(pairs, num_flips=len(flips)),
        settings=changed_settings(first.card, second.card),
    )


def _judge(pairs: Sequence[Flip]) -> Judgement | None:
    known = [pair for pair in pairs if None not in (pair.first.is_right, pair.second.is_right)]
    if not known:
        return None
    num_better = sum(pair.gain > 0 for pair in known)
    num_worse = sum(pair.gain < 0 for pair in known)
    return Judgement(
        num_questions=len(known),
        num_right_first=sum(bool(pair.first.is_right) for pair in known),
        num_right_second=sum(bool(pair.second.is_right) for pair in known),
        num_better=num_better,
        num_worse=num_worse,
        p_value=sign_test(num_better, num_worse),
    )


def _redraw(pairs: Sequence[Flip], *, num_flips: int) -> float | None:
    ballots = [
        (pair.first.ballots, pair.second.ballots)
        for pair in pairs
        if pair.first.ballots is not None and pair.second.ballots is not None
    ]
    several = all(len(each) > 1 for pair in ballots for each in pair)
    if len(ballots) < len(pairs) or not several:
        return None
    return redraw_test(ballots, num_flips=num_flips)
