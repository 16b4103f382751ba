"""The shapes that a row may have: its columns in, a prompt out.

Knows no file and no model. What is wrong with the columns is an `InputError` that says what would
be right; whose row it is, the caller knows.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase

from martlet.backends.base import Prompt
from martlet.batch.openai_lines import body_text, check_envelope
from martlet.batch.prompts import MAX_NUM_OPTIONS, PromptTemplate, multiple_choice_prompt
from martlet.errors import InputError
from martlet.text.messages import Message

Columns = Mapping[str, object]


@dataclass(frozen=True, kw_only=True)
class Wording:
    """How rows are worded as prompts, for a whole run."""

    template: PromptTemplate | None = None
    """A Jinja file that words the prompt, in place of the known shapes."""
    system: str | None = None
    """The system message of rows that have none."""
    is_raw: bool = False
    """Prompts are text as it stands, without the chat template."""
    allow_repeated_options: bool = False
    """Options that say the same are kept, each under its letter."""


class RepeatedOptionsError(InputError):
    """Two options of a question say the same, so that a letter does not name one answer."""


_Shape = Callable[[Columns, Sequence[str] | None, Wording], Prompt]


def prompt_of(columns: Columns, options: Sequence[str] | None, wording: Wording) -> Prompt:
    """The prompt of a row, or of one question of a nested row together with its row's columns.

    A prompt template words any row; else exactly one column marks which shape the row has.

    Raises:
        InputError: If the columns fit no shape, or more than one, or a part is not as it must be.
    """
    if wording.template is not None:
        return _worded(wording.template.render(columns), {}, wording)
    marks = [name for name in _MARK_TO_SHAPE if is_filled(columns.get(name))]
    if len(marks) != 1:
        fault = f"asks twice, in {' and '.join(marks)}" if marks else "asks nothing"
        raise InputError(
            f"the row {fault}; a row holds one of: {_KNOWN_SHAPES}; "
            "--prompt-template words any other"
        )
    return _MARK_TO_SHAPE[marks[0]](columns, options, wording)


def _multiple_choice(columns: Columns, options: Sequence[str] | None, wording: Wording) -> Prompt:
    question = _text(columns, "question")
    problem = _text_or_empty(columns, "problem") or _text_or_empty(columns, "context")
    if options is not None:
        return _worded(multiple_choice_prompt(problem, question, options), columns, wording)
    parts = [part.strip() for part in (problem, question) if part.strip()]
    return _worded("\n\n".join(parts), columns, wording)


def _plain(columns: Columns, _options: Sequence[str] | None, wording: Wording) -> Prompt:
    return _worded(_text(columns, "prompt"), columns, wording)


def _query(columns: Columns, _options: Sequence[str] | None, wording: Wording) -> Prompt:
    return _worded(_text(columns, "query"), columns, wording)


def _instruction(columns: Columns, _options: Sequence[str] | None, wording: Wording) -> Prompt:
    parts = [_text(columns, "instruction"), _text_or_empty(columns, "input")]
    return _worded("\n".join(part for part in parts if part.strip()), columns, wording)


def _conversation(columns: Columns, _options: Sequence[str] | None, wording: Wording) -> Prompt:
    if wording.is_raw:
        raise InputError("'messages' need the chat template, which raw prompts go without")
    if is_filled(columns.get("history")):
        raise InputError("'messages' hold the whole conversation; there is no 'history' besides")
    messages = _messages(columns["messages"], "messages")
    if messages[0]["role"] == "system":
        return Prompt(messages=messages)
    return Prompt(messages=[*_system_message(columns, wording), *messages])


def _openai_line(columns: Columns, options: Sequence[str] | None, wording: Wording) -> Prompt:
    check_envelope(columns)
    body = columns["body"]
    if not isinstance(body, dict):
        raise InputError(f"'body' must be a JSON object, not {type(body).__name__}")
    if not is_filled(body.get("messages")):
        return body_text(body)
    return _conversation({"messages": body["messages"]}, options, wording)


_MARK_TO_SHAPE: Mapping[str, _Shape] = {
    "prompt": _plain,
    "messages": _conversation,
    "query": _query,
    "instruction": _instruction,
    "question": _multiple_choice,
    "body": _openai_line,
}
_KNOWN_SHAPES = (
    "prompt · messages · query (+ history, system) · instruction (+ input) · "
    "question (+ options, problem or context) · questions (+ problem) · "
    "custom_id + body (OpenAI batch line)"
)


def _worded(text: str, columns: Columns, wording: Wording) -> Prompt:
    history = _history(columns.get("history"))
    system = _system_message(columns, wording)
    if not wording.is_raw:
        return Prompt(messages=[*system, *history, {"role": "user", "content": text}])
    if history or system:
        raise InputError(
            "'history' and 'system' need the chat template, which raw prompts go without"
        )
    return Prompt(text=text)


def _system_message(columns: Columns, wording: Wording) -> list[Message]:
    system = _text_or_empty(columns, "system") or wording.system
    return [{"role": "system", "content": system}] if system else []


def _history(value: object) -> list[Message]:
    if not is_filled(value):
        return []
    if not isinstance(value, list):
        raise InputError("'history' must be a list of [question, answer] pairs or of messages")
    if all(isinstance(turn, dict) for turn in value):
        return _messages(value, "history")
    messages: list[Message] = []
    for turn in value:
        if not (isinstance(turn, list) and len(turn) == 2 and all(map(_is_text, turn))):
            raise InputError(f"a turn of 'history' is a [question, answer] pair, not {turn!r}")
        messages.append({"role": "user", "content": turn[0]})
        messages.append({"role": "assistant", "content": turn[1]})
    return messages


def _messages(value: object, column: str) -> list[Message]:
    if not isinstance(value, list):
        raise InputError(f"'{column}' must be a list of messages")
    for message in value:
        if not isinstance(message, dict) or not _is_text(message.get("role")):
            raise InputError(f"a message of '{column}' has a role and a content, not {message!r}")
    return value


def checked_options(value: object, wording: Wording) -> tuple[str, ...] | None:
    """The options of a question as text; None if it has none.

    Raises:
        RepeatedOptionsError: If two say the same and the wording does not allow it.
        InputError: If they are no list of 2 to 26 filled texts. Where a template words the row,
            a column of that name may hold anything, and only a list counts as options.
    """
    is_other_column = wording.template is not None and not isinstance(value, list)
    if value is None or value == "" or is_other_column:
        return None
    if not isinstance(value, list) or not 2 <= len(value) <= MAX_NUM_OPTIONS:
        raise InputError(f"'options' must be a list of 2 to {MAX_NUM_OPTIONS} texts")
    options = tuple(scalar_text(option) or "" for option in value)
    _check_options_differ(options, wording)
    return options


def _check_options_differ(options: Sequence[str], wording: Wording) -> None:
    text_to_letter: dict[str, str] = {}
    for letter, option in zip(ascii_uppercase, options, strict=False):
        text = option.strip()
        if not text:
            raise InputError(f"option {letter} is empty")
        if text in text_to_letter and not wording.allow_repeated_options:
            pair = f"{text_to_letter[text]} and {letter}"
            raise RepeatedOptionsError(f"options repeat: {pair} are both {text!r}")
        text_to_letter[text] = letter


def _text(columns: Columns, name: str) -> str:
    text = _text_or_empty(columns, name)
    if not text.strip():
        raise InputError(f"no {name!r}, or an empty one")
    return text


def _text_or_empty(columns: Columns, name: str) -> str:
    value = columns.get(name)
    if value is not None and not isinstance(value, str):
        raise InputError(f"{name!r} must be a text, not {type(value).__name__}")
    return value or ""


def scalar_text(value: object) -> str | None:
    """A text as it is, a number or boolean as JSON spells it; None for anything else."""
    if isinstance(value, str):
        return value
    return json.dumps(value) if isinstance(value, (bool, int, float)) else None


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def is_filled(value: object) -> bool:
    """Whether a row has a column: where it lacks one that others have, parquet holds null and
    csv an empty cell."""
    return value is not None and value not in ("", [], {})
