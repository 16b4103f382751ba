"""A dropped file as lines of a batch: requests as they are, or questions in any known shape."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from martlet.batch.questions import Question, UnusableQuestion, questions_of
from martlet.batch.rows import Row, read_rows
from martlet.batch.shapes import Wording
from martlet.errors import InputError

ENDPOINT = "/v1/chat/completions"
_NUM_FAULTS = 3
"""Unusable rows that a refusal names."""


def write_requests(
    source: Path, target: Path, *, model: str, parameters: Mapping[str, object]
) -> str:
    """Makes the file that a batch reads; all rows are checked before the first is written.

    Args:
        source: What was dropped.
        target: Where the lines go.
        model: Asked by questions; requests name their own.
        parameters: Of questions; requests name their own.

    Returns:
        The endpoint that answers the lines.

    Raises:
        MartletError: If the file cannot be read, or a row asks nothing.
    """
    rows = read_rows(str(source)).rows
    if all(_is_request(row) for row in rows):
        target.write_bytes(source.read_bytes())
        return str(rows[0].data["url"])
    lines = [_line(question, model, parameters) for question in _questions(rows)]
    target.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return ENDPOINT


def _is_request(row: Row) -> bool:
    return all(name in row.data for name in ("custom_id", "url", "body"))


def _questions(rows: Sequence[Row]) -> Iterator[Question]:
    read = [each for row in rows for each in questions_of(row, Wording())]
    faults = [each for each in read if isinstance(each, UnusableQuestion)]
    if faults:
        named = "; ".join(f"{fault.place}: {fault.reason}" for fault in faults[:_NUM_FAULTS])
        raise InputError(f"{len(faults)} of {len(read)} rows cannot be asked: {named}")
    return (each for each in read if isinstance(each, Question))


def _line(question: Question, model: str, parameters: Mapping[str, object]) -> str:
    prompt = question.prompt
    if prompt.messages is None:
        raise InputError(f"{question.question_id}: a text without a chat template is no chat")
    body: dict[str, object] = {"model": model, "messages": list(prompt.messages), **parameters}
    if prompt.tools:
        body["tools"] = list(prompt.tools)
    line = {"custom_id": question.question_id, "method": "POST", "url": ENDPOINT, "body": body}
    return json.dumps(line, ensure_ascii=False)
