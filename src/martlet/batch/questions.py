"""The questions that a row asks, each with its prompt, its options and the expected answer.

A plain row is one question; a nested row (`problem`, `questions`) is several. Knows no model.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from martlet.backends.base import Prompt
from martlet.batch.openai_lines import body_parameters
from martlet.batch.rows import Row
from martlet.batch.shapes import (
    RepeatedOptionsError,
    Wording,
    checked_options,
    is_filled,
    prompt_of,
    scalar_text,
)
from martlet.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Question:
    """One prompt of a row, and what else the row says about it."""

    row: Row
    index: int | None
    """Its place in the row's `questions`, from 0; None if the row is the question."""
    prompt: Prompt
    options: tuple[str, ...] | None = None
    """What may be chosen; the first is A."""
    answer: str | None = None
    """The expected answer, if the row carries `answer`."""
    kind: str | None = None
    """The row's or the question's `kind` or `type`, for tables by kind."""
    overrides: Mapping[str, object] = field(default_factory=dict)
    """Sampling parameters that this row sets for itself."""

    @property
    def question_id(self) -> str:
        """Names the question within its file; it does not depend on the row's place."""
        return self.row.row_id if self.index is None else f"{self.row.row_id}/{self.index}"


@dataclass(frozen=True, kw_only=True)
class UnusableQuestion:
    """A row, or one question of a nested row, that cannot be asked."""

    row: Row
    index: int | None
    """None if the whole row is unusable."""
    reason: str
    remedy: str | None = None
    """An option of the run that would let it through."""
    is_allowed: bool = False
    """Whether the run goes on without it: it is too long, and those are to be skipped."""
    is_too_long: bool = False
    """Whether its prompt leaves no room for a reply."""

    @property
    def place(self) -> str:
        """Where it stands, for people."""
        return place_of(self.row, self.index)


def place_of(row: Row, index: int | None) -> str:
    """Where a question stands, for people: `line 3`, or `line 3, question 2`."""
    line = f"line {row.number}"
    return line if index is None else f"{line}, question {index + 1}"


def questions_of(row: Row, wording: Wording) -> list[Question | UnusableQuestion]:
    """The questions of a row in their order, the unusable ones with the reason.

    Raises nothing: what is wrong with a row concerns that row alone.
    """
    nested = row.data.get("questions")
    if not is_filled(nested):
        return [_attempt(row, None, row.data, wording)]
    if not isinstance(nested, list):
        return [UnusableQuestion(row=row, index=None, reason="'questions' must be a list")]
    return [_attempt(row, index, columns, wording) for index, columns in enumerate(nested)]


def _attempt(
    row: Row, index: int | None, own_columns: object, wording: Wording
) -> Question | UnusableQuestion:
    try:
        return _question(row, index, own_columns, wording)
    except RepeatedOptionsError as error:
        remedy = "--allow-repeated-options keeps options that repeat, each under its letter"
        return UnusableQuestion(row=row, index=index, reason=str(error), remedy=remedy)
    except InputError as error:
        return UnusableQuestion(row=row, index=index, reason=str(error))


def _question(row: Row, index: int | None, own_columns: object, wording: Wording) -> Question:
    if not isinstance(own_columns, dict):
        raise InputError(f"a question is a JSON object, not {type(own_columns).__name__}")
    columns = {**_shared_columns(row, index), **own_columns}
    options = checked_options(columns.get("options"), wording)
    body = columns.get("body") if wording.template is None else None
    return Question(
        row=row,
        index=index,
        prompt=prompt_of(columns, options, wording),
        options=options,
        # A nested row's own `answer` would be no one question's.
        answer=scalar_text(own_columns.get("answer")),
        kind=scalar_text(columns.get("kind")) or scalar_text(columns.get("type")),
        overrides=body_parameters(body) if isinstance(body, dict) else {},
    )


def _shared_columns(row: Row, index: int | None) -> Mapping[str, object]:
    """What all questions of a nested row have in common."""
    if index is None:
        return {}
    return {name: value for name, value in row.data.items() if name != "questions"}
