"""Rows that ask in the ways that `martlet generate` and `vote` read, with the reply beside it.

Alpaca's instruction, input and output; query, response and history; a prompt and its reply; a
question and its answer, also multiple choice and several to a problem. What is learned is then
exactly what will be asked.
"""

from collections.abc import Mapping

from martlet.answers.stated import state_choice
from martlet.batch.questions import Question, UnusableQuestion, questions_of
from martlet.batch.rows import Row
from martlet.batch.shapes import Wording, is_filled
from martlet.errors import InputError
from martlet.train.example import Completion, Conversation, Example, Origin

REPLIES = ("reply", "response", "output", "answer", "completion")
"""Columns that hold what is to be said."""
_REASONS = ("reasoning", "rationale", "explanation", "analysis")


def examples_of(row: Row, origin: Origin, wording: Wording) -> list[Example]:
    """Reads a row that asks once, or several times about one problem.

    Raises:
        InputError: If it asks nothing or says no reply; the message names the question.
    """
    examples: list[Example] = []
    for question in questions_of(row, wording):
        if isinstance(question, UnusableQuestion):
            raise InputError(_placed(question.index, question.reason))
        columns = _columns(row, question)
        examples.append(_example(question, columns, origin))
    return examples


def _columns(row: Row, question: Question) -> Mapping[str, object]:
    if question.index is None:
        return row.data
    nested = row.data["questions"]
    assert isinstance(nested, list)
    columns: Mapping[str, object] = nested[question.index]
    return columns


def _example(question: Question, columns: Mapping[str, object], origin: Origin) -> Example:
    reply = _reply(question, columns)
    prompt = question.prompt
    if prompt.messages is None:
        text = prompt.text or ""
        return Completion(origin=origin, prompt=text, completion=reply, options=question.options)
    messages = (*prompt.messages, {"role": "assistant", "content": reply})
    return Conversation(
        origin=origin, messages=messages, tools=tuple(prompt.tools), options=question.options
    )


def _reply(question: Question, columns: Mapping[str, object]) -> str:
    if question.options is not None and question.answer is not None:
        reasons = (columns.get(name) for name in _REASONS)
        reason = next((each for each in reasons if isinstance(each, str) and each), "")
        asked = str((question.prompt.messages or [{}])[-1].get("content"))
        return state_choice(question.answer, question.options, asked=asked, reason=reason)
    for name in REPLIES:
        value = columns.get(name)
        if isinstance(value, str) and is_filled(value):
            return value
    raise InputError(
        _placed(
            question.index,
            f"no reply: a row says it in one of {', '.join(REPLIES)}; --map reply=COLUMN "
            "names another",
        )
    )


def _placed(index: int | None, reason: str) -> str:
    return reason if index is None else f"question {index + 1}: {reason}"
