"""How often answers are right: for one sample, for the vote, by kind, and where they are not."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from martlet.answers.interval import Interval, clustered_interval, wilson_interval
from martlet.answers.vote import Vote


@dataclass(frozen=True, kw_only=True)
class JudgedQuestion:
    """One decided question whose right answer is known."""

    name: str
    """The row's id, and the question's place in it if the row holds several."""
    question: str
    """The question's own words, for the list of wrong rows."""
    right: str
    """The right answer, in the form that the extractor gives."""
    vote: Vote
    sample_answers: Sequence[str | None]
    """What the samples of the first wave state: those drawn whatever came out, since samples
    that are drawn only after disagreement would bias the estimate for one sample."""
    kind: str | None = None
    """The row's kind, if it names one."""

    @property
    def is_right(self) -> bool:
        """Whether the vote's winner is the right answer."""
        return is_same_answer(self.vote.winner, self.right)

    @property
    def share_right(self) -> float:
        """The share of the first wave that states the right answer."""
        return fmean(is_same_answer(answer, self.right) for answer in self.sample_answers)


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """A share of right answers, with its 95% interval."""

    value: float
    interval: Interval

    def __str__(self) -> str:
        return f"{self.value:.1%} ({self.interval.low:.1%} to {self.interval.high:.1%})"


@dataclass(frozen=True, kw_only=True)
class Score:
    """The accuracy over some questions."""

    num_questions: int
    single: Accuracy
    """Of one sample: the mean over questions of the share of samples that are right. Its interval
    respects that the samples of one question resemble each other."""
    vote: Accuracy
    """Of the vote, with Wilson's interval. A question without an answer counts as wrong."""


@dataclass(frozen=True, kw_only=True)
class ScoreCard:
    """All that is known about how right a run was."""

    total: Score
    by_kind: tuple[tuple[str, Score], ...]
    """The score of each kind, in alphabetical order; empty if no question names its kind."""
    wrong: tuple[JudgedQuestion, ...]
    """The questions that the vote got wrong, in the order of the file."""


def score(questions: Sequence[JudgedQuestion]) -> ScoreCard | None:
    """Scores decided questions.

    Args:
        questions: In the order of the file; each with at least one sample's answer.

    Returns:
        The score card; None if there is no question.
    """
    if not questions:
        return None
    kinds = sorted({each.kind for each in questions if each.kind is not None})
    return ScoreCard(
        total=_score(questions),
        by_kind=tuple((kind, _score([q for q in questions if q.kind == kind])) for kind in kinds),
        wrong=tuple(each for each in questions if not each.is_right),
    )


def _score(questions: Sequence[JudgedQuestion]) -> Score:
    voted = fmean(each.is_right for each in questions)
    shares = [each.share_right for each in questions]
    num_samples = sum(len(each.sample_answers) for each in questions)
    return Score(
        num_questions=len(questions),
        single=Accuracy(value=fmean(shares), interval=clustered_interval(shares, num_samples)),
        vote=Accuracy(value=voted, interval=wilson_interval(voted, len(questions))),
    )


def is_same_answer(answer: str | None, right: str) -> bool:
    """Whether an answer is the right one; case does not matter, and no answer is never right."""
    return answer is not None and answer.casefold() == right.casefold()
