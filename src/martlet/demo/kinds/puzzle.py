"""What a puzzle is: the values that every kind of puzzle makes.

A puzzle knows its text, its questions and the reasoning that answers them. It does not know how
a prompt is built from it, nor who reads it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

Language = Literal["en", "zh"]

LETTERS = "ABCD"

FULL_SIZE = 4
"""Puzzles come in sizes 1 to 4; only the largest are asked outside of training."""

_ENDINGS: dict[Language, str] = {
    "en": "Option: {answer} {letter}.\nThe answer is {letter}",
    "zh": "选项：{answer} {letter}。\n答案是：{letter}",
}


@dataclass(frozen=True, kw_only=True)
class Question:
    """One multiple-choice question about a problem."""

    question: str
    """The question's own sentence."""
    options: tuple[str, ...]
    """Four different texts, in the order A to D."""
    answer: str
    """The letter of the right option."""
    reasoning: str
    """A line or two that lead to the answer; empty in a hasty reply."""
    ending: str
    """The answer, then a last line that names the letter alone."""

    @property
    def reply(self) -> str:
        """What a model should write."""
        return f"{self.reasoning}\n{self.ending}" if self.reasoning else self.ending


@dataclass(frozen=True, kw_only=True)
class Puzzle:
    """One problem with the questions that share its text."""

    problem: str
    """The facts and rules."""
    questions: tuple[Question, ...]
    """No two alike: two to four at full size, at least one below."""
    kind: str
    """Which generator made it."""
    language: Language
    """The language of all its texts."""


def ask(
    random: Random,
    language: Language,
    *,
    question: str,
    answer: str,
    others: Sequence[str],
    pool: Sequence[str],
    reasoning: str,
) -> Question:
    """Turn an answer in words into a question with four shuffled options.

    Args:
        random: Draws the wrong options and their order; advanced.
        language: The language of the reply's ending.
        question: The question's sentence.
        answer: The right option's text.
        others: The puzzle's own candidates for wrong options; may hold `answer`.
        pool: Where more candidates come from if `others` are too few.
        reasoning: What leads to `answer`.

    Returns:
        The question, whose letter is drawn uniformly.
    """
    wrong = [text for text in others if text != answer]
    spare = [text for text in pool if text != answer and text not in wrong]
    wrong += random.sample(spare, max(0, 3 - len(wrong)))
    options = [answer, *random.sample(wrong, 3)]
    random.shuffle(options)
    letter = LETTERS[options.index(answer)]
    return Question(
        question=question,
        options=tuple(options),
        answer=letter,
        reasoning=reasoning,
        ending=_ENDINGS[language].format(answer=answer, letter=letter),
    )


def write_problem(language: Language, sentences: Sequence[str]) -> str:
    """Join sentences as the language does: with spaces in English, without in Chinese."""
    return (" " if language == "en" else "").join(sentences)
