"""The majority vote over the samples of one question.

Tie rule: of the answers with the same count, the one whose first supporter has the lowest
sample number wins. It needs no draw, so a vote counted twice is the same vote.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import fsum

TIE_RULE = "of the answers with the most votes, the one that was given first (by sample number)"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What one sample says, and how much that counts."""

    value: str | None
    """The extracted answer; None if the sample states none, or failed."""
    weight: float = 1.0
    """Its part in the vote, above 0 and at most 1."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One answer's place in the count."""

    value: str
    """The answer, as its first supporter wrote it."""
    weights: tuple[float, ...]
    """The weights of its supporters, by sample number."""
    first: int
    """The lowest sample number among its supporters."""

    @property
    def count(self) -> float:
        """The sum of the weights, rounded once, so that it does not depend on their order."""
        return fsum(self.weights)


@dataclass(frozen=True, kw_only=True)
class Vote:
    """How one question was decided."""

    winner: str | None
    """The answer; None if no sample stated any."""
    counts: Mapping[str, float] = field(default_factory=dict)
    """The (weighted) votes for each answer, the winner first."""
    margin: float
    """The winner's lead over the second, as a share of all that could have voted for it: 1 if
    every sample agrees, 0 for a tie. Samples that state no answer count in the whole."""
    num_samples: int
    """Samples that were counted, those without an answer included."""
    num_unparsed: int
    """Samples among them that state no answer, or failed."""


def standings(answers: Sequence[Answer]) -> list[Standing]:
    """Counts the answers and ranks them under the tie rule, the winner first.

    Answers that differ in case only are one answer.

    Args:
        answers: The samples' answers, by sample number from 0.
    """
    supporters: dict[str, list[int]] = {}
    for index, answer in enumerate(answers):
        if answer.value is not None:
            supporters.setdefault(answer.value.casefold(), []).append(index)
    ranked = [
        Standing(
            value=answers[indices[0]].value or "",
            weights=tuple(answers[index].weight for index in indices),
            first=indices[0],
        )
        for indices in supporters.values()
    ]
    return sorted(ranked, key=lambda standing: (-standing.count, standing.first))


def majority(answers: Sequence[Answer]) -> Vote:
    """Counts a vote.

    Args:
        answers: The samples' answers, by sample number from 0.
    """
    ranked = standings(answers)
    whole = fsum(answer.weight for answer in answers)
    lead = ranked[0].count - (ranked[1].count if len(ranked) > 1 else 0.0) if ranked else 0.0
    return Vote(
        winner=ranked[0].value if ranked else None,
        counts={standing.value: standing.count for standing in ranked},
        margin=lead / whole if ranked else 0.0,
        num_samples=len(answers),
        num_unparsed=sum(answer.value is None for answer in answers),
    )
