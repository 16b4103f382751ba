"""When a question is decided: which of its samples are still worth drawing.

The outcome never depends on which sample finishes first. Only the unbroken run of finished
samples 0, 1, …, m-1 is looked at, a question is decided at the smallest m that decides it, and
the vote is the vote of those m; whatever finished beyond them is ignored.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import comb, fsum
from typing import Literal

from martlet.answers.ballot import BallotReader, FinishedSample
from martlet.answers.vote import Answer, Vote, majority, standings
from martlet.errors import ParameterError

MAX_SAMPLES = 1024
"""Of one question: what more would cost, no vote is worth."""


@dataclass(frozen=True, kw_only=True)
class EarlyStop:
    """When the samples of a question that are still missing are given up.

    Raises:
        ParameterError: On construction, if the threshold is not inside (0.5, 1).
    """

    mode: Literal["exact", "beta", "off"] = "exact"
    """`exact`: once no outcome of the missing samples can change the winner. `beta`: also once
    the leader beats the second with a probability above the threshold. `off`: never."""
    threshold: float = 0.95
    """The probability for `beta`."""

    def __post_init__(self) -> None:
        if not 0.5 < self.threshold < 1:
            raise ParameterError(
                f"the threshold of early stop must lie between 0.5 and 1, not {self.threshold}"
            )

    @classmethod
    def parse(cls, spec: str) -> "EarlyStop":
        """Reads `exact`, `off`, `beta` or `beta:0.95`.

        Raises:
            ParameterError: If it is none of these.
        """
        match spec.split(":", 1):
            case ["exact"]:
                return cls(mode="exact")
            case ["off"]:
                return cls(mode="off")
            case ["beta"]:
                return cls(mode="beta")
            case ["beta", threshold]:
                return cls(mode="beta", threshold=_number(threshold, spec))
        raise ParameterError(f"unknown early stop {spec!r}; one of exact, beta:0.95 or off")

    def __str__(self) -> str:
        return f"beta:{self.threshold:g}" if self.mode == "beta" else self.mode


class VotePolicy:
    """Decides one question by a vote over at most `num_samples` samples.

    One policy sees one question to its end: from call to call the finished samples may only grow.

    Args:
        num_samples: How many samples a full vote counts.
        early_stop: When fewer suffice.
        reader: Reads what a sample says; each is read once.

    Raises:
        ParameterError: If `num_samples` is not from 1 to `MAX_SAMPLES`, or weights are to be used
            with `beta`, which knows whole votes only.
    """

    def __init__(
        self,
        *,
        num_samples: int,
        early_stop: EarlyStop,
        reader: BallotReader,
    ) -> None:
        if not 1 <= num_samples <= MAX_SAMPLES:
            raise ParameterError(f"a vote takes 1 to {MAX_SAMPLES:,} samples, not {num_samples:,}")
        if early_stop.mode == "beta" and reader.weighting != "none":
            raise ParameterError(
                "early stop by beta counts whole votes; use exact or off with weights"
            )
        self._num_samples = num_samples
        self._early_stop = early_stop
        self._reader = reader
        self._answers: dict[int, Answer] = {}
        self._num_undecided = 0
        self._deciding_length: int | None = None
        # The least length that could decide can only grow with what is known.
        self._wave_end = 1
        self._extend_wave([])
        self._num_first_wave = self._wave_end

    @property
    def num_first_wave(self) -> int:
        """How many samples are drawn whatever they say: the least that could decide.

        What is estimated about a single sample must look at these alone; the samples after them
        are drawn only where the first disagree.
        """
        return self._num_first_wave

    def wanted(self, finished: Mapping[int, FinishedSample]) -> Collection[int]:
        """The samples that should be drawn or go on being drawn; empty once decided.

        Each wave asks for the least number of samples that could still decide the question.

        Args:
            finished: The finished samples by number; failed ones have the reason "error".

        Raises:
            ParameterError: If weights are to be used and a sample has no log-probability.
        """
        answers = self._unbroken(finished)
        self._look_for_decision(answers)
        if self._deciding_length is not None:
            return ()
        self._extend_wave(answers)
        return [k for k in range(len(answers), self._wave_end) if k not in finished]

    def decide(self, finished: Mapping[int, FinishedSample]) -> Vote:
        """The vote of the samples that decide the question.

        Args:
            finished: The finished samples by number. If they do not decide it yet (a run was
                stopped), all of the unbroken run votes.

        Raises:
            ParameterError: If weights are to be used and a sample has no log-probability.
        """
        answers = self._unbroken(finished)
        self._look_for_decision(answers)
        return majority(answers[: self._deciding_length])

    def _unbroken(self, finished: Mapping[int, FinishedSample]) -> list[Answer]:
        answers: list[Answer] = []
        while len(answers) in finished and len(answers) < self._num_samples:
            answers.append(self._read(len(answers), finished[len(answers)]))
        return answers

    def _read(self, index: int, sample: FinishedSample) -> Answer:
        if index not in self._answers:
            self._answers[index] = self._reader.read(sample)
        return self._answers[index]

    def _look_for_decision(self, answers: Sequence[Answer]) -> None:
        """Finds the smallest deciding length; lengths once found too short stay too short."""
        while self._deciding_length is None and self._num_undecided < len(answers):
            length = self._num_undecided + 1
            if self._is_decided(answers[:length]):
                self._deciding_length = length
            else:
                self._num_undecided = length

    def _extend_wave(self, answers: Sequence[Answer]) -> None:
        """Moves the wave's end to where the question is decided if all that comes supports the
        leader: nothing shorter could decide it."""
        ranked = standings(answers)
        support = Answer(value=ranked[0].value if ranked else "")
        imagined = [*answers, *[support] * (self._wave_end - len(answers))]
        while not self._is_decided(imagined):
            imagined.append(support)
        self._wave_end = len(imagined)

    def _is_decided(self, answers: Sequence[Answer]) -> bool:
        num_missing = self._num_samples - len(answers)
        if num_missing == 0:
            return True
        match self._early_stop.mode:
            case "off":
                return False
            case "exact":
                return _cannot_change(answers, num_missing)
            case "beta":
                return (
                    _cannot_change(answers, num_missing)
                    or _lead_probability(answers) > self._early_stop.threshold
                )


def _number(text: str, spec: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ParameterError(f"{text!r} in early stop {spec!r} is not a number") from None


def _cannot_change(answers: Sequence[Answer], num_missing: int) -> bool:
    """Whether the leader wins even if all missing samples support one rival with full weight."""
    ranked = standings(answers)
    if not ranked:
        return False
    leader = ranked[0]
    # An answer that nobody has given yet loses every tie, so it must be beaten by count alone.
    if leader.count < num_missing:
        return False
    full_support = (1.0,) * num_missing
    return all(
        (-leader.count, leader.first) < (-fsum(rival.weights + full_support), rival.first)
        for rival in ranked[1:]
    )


def _lead_probability(answers: Sequence[Answer]) -> float:
    """The probability that the leader is truly more likely than the second.

    With a votes against b and a uniform prior the leader's share among the two is
    Beta(1 + a, 1 + b); the probability that it exceeds 1/2 is a binomial tail for whole numbers.
    Source: Aggarwal et al. 2023, "Let's Sample Step by Step" (arXiv:2305.11860), section 3.
    """
    ranked = standings(answers)
    leading, second = (len(ranked[place].weights) if place < len(ranked) else 0 for place in (0, 1))
    num_draws = leading + second + 1
    return sum(comb(num_draws, k) for k in range(leading + 1)) / (1 << num_draws)
