"""A row to what is learned from it, whatever its format."""

from martlet.batch.rows import Row
from martlet.batch.shapes import Wording, is_filled
from martlet.errors import InputError
from martlet.train.example import Completion, Conversation, Example, Origin
from martlet.train.formats.asked import examples_of
from martlet.train.formats.conversations import check_order, conversation_of, tools_of, turn_of
from martlet.train.formats.preferences import from_openai, preference_of

KNOWN = (
    "messages · conversations (from, value) · instruction (+ input, history), output · query "
    "(+ history), response · prompt, completion · question (+ options), answer · problem, "
    "questions · chosen, rejected · input, preferred_output, non_preferred_output"
)

_ASKING = {"prompt", "query", "instruction", "question", "questions"}


def read_row(row: Row, origin: Origin, wording: Wording) -> list[Example]:
    """Reads a row by its columns.

    Raises:
        InputError: If its format is not known, or a part of it not as it must be.
    """
    filled = {name for name, value in row.data.items() if is_filled(value)}
    if {"chosen", "rejected"} <= filled:
        return [preference_of(row.data, origin, wording)]
    if {"preferred_output", "non_preferred_output"} <= filled:
        return [preference_of(from_openai(row.data), origin, wording)]
    if wording.template is None and filled & {"messages", "conversations"}:
        return [conversation_of(row.data, origin)]
    if wording.template is None and {"prompt", "completion"} <= filled:
        return [_completion(row, origin)]
    if wording.template is None and not filled & _ASKING:
        raise InputError(
            f"no known format; its columns are: {', '.join(row.data) or 'none'}; a training row "
            f"holds one of: {KNOWN}; --map and --prompt-template read any other"
        )
    return examples_of(row, origin, wording)


def _completion(row: Row, origin: Origin) -> Example:
    """TRL's prompt and completion: raw text, or turns."""
    prompt, completion = row.data["prompt"], row.data["completion"]
    if isinstance(prompt, str) and isinstance(completion, str):
        return Completion(origin=origin, prompt=prompt, completion=completion)
    if not isinstance(prompt, list) or not isinstance(completion, list):
        raise InputError("prompt and completion must both be texts, or both be lists of turns")
    messages = tuple(turn_of(each, f"turn {i}") for i, each in enumerate([*prompt, *completion]))
    check_order(messages)
    return Conversation(
        origin=origin,
        messages=messages,
        tools=tools_of(row.data),
        untrained=frozenset(range(len(prompt))),
    )
