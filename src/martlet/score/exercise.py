"""Rows that hold a reply become exercises: what is asked, and what should be said."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from martlet.backends.base import Prompt
from martlet.batch.questions import Question
from martlet.batch.rows import Row
from martlet.batch.shapes import is_filled, scalar_text
from martlet.errors import RowError
from martlet.text.messages import Message
from martlet.train.config import DataConfig
from martlet.train.example import Completion, Conversation, Example, Preference
from martlet.train.sources import Source, read_source


@dataclass(frozen=True, kw_only=True)
class Exercise:
    """A question, and the reply that its row holds."""

    question: Question
    reference: str


@dataclass(frozen=True, kw_only=True)
class ExerciseFile:
    """The exercises of a data file, in its order."""

    source: Source
    exercises: tuple[Exercise, ...]
    """At least one."""


def read_exercises(spec: str, config: DataConfig) -> ExerciseFile:
    """Reads a file of rows in any format that `martlet train` learns from.

    Args:
        spec: Its name, perhaps with how many of its rows are taken: `dev.jsonl#500`.
        config: What its columns are called, and what words the prompt.

    Raises:
        NotFoundError: If there is no such file.
        RowError: If a row cannot be read, or holds no text to compare with; it names the line.
        InputError, ParameterError: If the file, the columns' map or the template cannot be used.
    """
    source = read_source(spec, config)
    if source.faults:
        raise source.faults[0]
    number_to_examples: dict[int, list[Example]] = defaultdict(list)
    for example in source.examples:
        number_to_examples[example.origin.row].append(example)
    exercises = [
        _exercise(row, index if is_filled(row.data.get("questions")) else None, example)
        for row in {row.number: row for row in source.rows}.values()
        for index, example in enumerate(number_to_examples[row.number])
    ]
    return ExerciseFile(source=source, exercises=tuple(exercises))


def _exercise(row: Row, index: int | None, example: Example) -> Exercise:
    columns: object = row.data
    if index is not None:
        nested = row.data["questions"]
        assert isinstance(nested, list)
        columns = nested[index]
    assert isinstance(columns, dict)
    question = Question(
        row=row,
        index=index,
        prompt=_prompt(example),
        options=None if isinstance(example, Preference) else example.options,
        answer=scalar_text(columns.get("answer")),
        kind=scalar_text(columns.get("kind")) or scalar_text(columns.get("type")),
    )
    return Exercise(question=question, reference=_reference(example))


def _prompt(example: Example) -> Prompt:
    match example:
        case Completion():
            return Prompt(text=example.prompt)
        case Conversation():
            return Prompt(messages=example.messages[:-1], tools=example.tools)
        case Preference():
            return Prompt(messages=example.messages, tools=example.tools)


def _reference(example: Example) -> str:
    match example:
        case Completion():
            text = example.completion
        case Conversation():
            text = _said(example.messages)
        case Preference():
            text = _said(example.chosen)
    if not text.strip():
        origin = example.origin
        raise RowError(
            "its last reply holds no text to compare with", path=origin.path, line=origin.row
        )
    return text


def _said(messages: Sequence[Message]) -> str:
    content = messages[-1].get("content")
    return content if isinstance(content, str) else ""
