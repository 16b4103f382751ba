"""A finished run: its result and its card, question by question."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from martlet.answers.extractor import ExtractorMaker, parse_extractor
from martlet.batch.card import card_path
from martlet.diff.reading import ADDED, Columns, Reading, read_answer
from martlet.errors import InputError, NotFoundError, RowError


@dataclass(frozen=True, kw_only=True)
class AnsweredQuestion:
    """A question of a result."""

    key: str
    """Its own words: the same in two runs that asked the same."""
    row: int
    """From 1."""
    index: int | None
    """Its place in the row's `questions`, from 0; None if the row is the question."""
    reading: Reading | None
    """None if it failed."""

    @property
    def place(self) -> str:
        """For people."""
        nested = "" if self.index is None else f", question {self.index + 1}"
        return f"row {self.row}{nested}"


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """A result with what made it."""

    path: Path
    card: Mapping[str, object]
    questions: Mapping[str, AnsweredQuestion]
    """By their keys, in the order of the file."""


def read_run(path: Path, *, extract: str | None = None) -> FinishedRun:
    """Reads a result of `martlet vote`, `generate` or `score`, and its card.

    Args:
        path: The result.
        extract: How answers are read in replies, as `martlet score` takes it; see `read_answer`.

    Raises:
        ParameterError: If `extract` names no way to read answers.
        NotFoundError: If the result or its card is not there.
        InputError: If the card is none, or the run that wrote it was not finished.
        RowError: If a line of the result is no row of a result.
    """
    maker = None if extract is None else parse_extractor(extract)
    if not path.is_file():
        raise NotFoundError(f"no such result: {path}")
    card = _read_card(card_path(path))
    if card.get("status") != "complete":
        raise InputError(
            f"{path} is not finished, its run is {card.get('status')!r}: give its command again"
        )
    seen = Counter[str]()
    questions: dict[str, AnsweredQuestion] = {}
    for question in _read_questions(path, maker):
        seen[question.key] += 1
        # A file may ask the same twice.
        questions[f"{question.key} {seen[question.key]}"] = question
    return FinishedRun(path=path, card=card, questions=questions)


def _read_card(path: Path) -> Mapping[str, object]:
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise NotFoundError(
            f"no run card {path}: it lies beside every result; copy it along with the result"
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is no run card: {error}") from error
    if not isinstance(card, dict) or not isinstance(card.get("model"), dict):
        raise InputError(f"{path} is no run card of Martlet")
    return card


def _read_questions(path: Path, maker: ExtractorMaker | None) -> Iterator[AnsweredQuestion]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                yield from _questions_of(json.loads(line), number, maker)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise RowError(
                    f"this is no row of a result: {error!r}", path=str(path), line=number
                ) from error


def _questions_of(
    row: Columns, number: int, maker: ExtractorMaker | None
) -> Iterator[AnsweredQuestion]:
    nested = row.get("questions")
    if not isinstance(nested, list):
        yield _question(row, {}, number, None, maker)
        return
    shared = {name: value for name, value in row.items() if name != "questions"}
    for index, columns in enumerate(nested):
        yield _question(columns, shared, number, index, maker)


def _question(
    columns: Columns, shared: Columns, number: int, index: int | None, maker: ExtractorMaker | None
) -> AnsweredQuestion:
    own = {name: value for name, value in columns.items() if name not in ADDED}
    return AnsweredQuestion(
        key=json.dumps([shared, own, index], ensure_ascii=False, sort_keys=True),
        row=number,
        index=index,
        reading=None if "error" in columns else read_answer(columns, maker),
    )
