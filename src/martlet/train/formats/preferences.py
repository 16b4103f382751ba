"""Pairs of replies of which one is better: `chosen` and `rejected` behind any kind of prompt.

OpenAI's rows call them `preferred_output` and `non_preferred_output`.
"""

from collections.abc import Mapping

from martlet.batch.shapes import Wording, is_filled, prompt_of
from martlet.errors import InputError
from martlet.text.messages import Message
from martlet.train.example import Origin, Preference
from martlet.train.formats.conversations import is_reply, tools_of, turn_of, turns_of

Columns = Mapping[str, object]
Turns = tuple[Message, ...]


def preference_of(columns: Columns, origin: Origin, wording: Wording) -> Preference:
    """Reads a row with `chosen` and `rejected`: texts, turns, or whole conversations.

    The prompt is in `messages`, `conversations` or any column that asks; where there is none, it is
    what the two conversations have in common.

    Raises:
        InputError: If there is no prompt, or the two are no different replies.
    """
    chosen, rejected = (_turns(columns[name], name) for name in ("chosen", "rejected"))
    prompt = _prompt(columns, wording)
    if not prompt:
        shared = _num_shared(chosen, rejected)
        prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
    if not prompt:
        raise InputError("chosen and rejected need a prompt before them, in a column or in both")
    if chosen == rejected:
        raise InputError("chosen and rejected are the same: there is nothing to prefer")
    for name, turns in (("chosen", chosen), ("rejected", rejected)):
        if not turns or not is_reply(turns[-1]):
            raise InputError(f"{name!r} must end with a reply of the assistant's")
    return Preference(
        origin=origin, messages=prompt, chosen=chosen, rejected=rejected, tools=tools_of(columns)
    )


def from_openai(columns: Columns) -> Columns:
    """The columns of a row that OpenAI's fine-tuning reads, by the names that they have here.

    Raises:
        InputError: If `input` is no object.
    """
    asked = columns.get("input")
    if not isinstance(asked, Mapping):
        raise InputError("input must be an object with messages, as in OpenAI's rows")
    return {
        **asked,
        "chosen": columns["preferred_output"],
        "rejected": columns["non_preferred_output"],
    }


def _turns(value: object, name: str) -> Turns:
    if isinstance(value, str):
        return ({"role": "assistant", "content": value},)
    turns = value if isinstance(value, list) else [value]
    return tuple(turn_of(each, f"{name}[{place}]") for place, each in enumerate(turns))


def _prompt(columns: Columns, wording: Wording) -> Turns:
    if any(is_filled(columns.get(name)) for name in ("messages", "conversations")):
        return tuple(turns_of(columns))
    if isinstance(columns.get("prompt"), list):
        return tuple(turns_of({**columns, "messages": columns["prompt"]}))
    if any(is_filled(columns.get(name)) for name in ("prompt", "query", "instruction", "question")):
        return tuple(prompt_of(columns, None, wording).messages or ())
    return ()


def _num_shared(first: Turns, second: Turns) -> int:
    shared = 0
    while shared < min(len(first), len(second)) - 1 and first[shared] == second[shared]:
        shared += 1
    return shared
