"""Conversations written out: OpenAI's `messages`, and ShareGPT's `conversations`."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from martlet.batch.shapes import is_filled
from martlet.errors import InputError
from martlet.text.messages import Message
from martlet.text.tool_calls.functions import Tool
from martlet.train.example import Conversation, Origin

Columns = Mapping[str, object]

ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "system": "system",
    "developer": "developer",
    "observation": "tool",
    "tool": "tool",
    "function_call": "assistant",
}
"""What other tools call the roles of a conversation."""
_WEIGHTS = ("weight", "loss", "train")
"""What a turn may say about whether it is learned."""


def conversation_of(columns: Columns, origin: Origin) -> Conversation:
    """Reads a row with `messages` or `conversations`, and perhaps `system` and `tools`.

    Raises:
        InputError: If a turn is malformed, or the roles are out of order.
    """
    turns = turns_of(columns)
    untrained = frozenset(
        place for place, turn in enumerate(turns) if _is_context(turn) and is_reply(turn)
    )
    messages = tuple(_without_weights(turn) for turn in turns)
    check_order(messages)
    return Conversation(
        origin=origin, messages=messages, tools=tools_of(columns), untrained=untrained
    )


def turns_of(columns: Columns) -> list[Message]:
    """The turns of a row, a system message in front if a column holds one."""
    name = "messages" if is_filled(columns.get("messages")) else "conversations"
    given = columns.get(name)
    if isinstance(given, str):  # csv
        given = _parsed(given, name)
    if not isinstance(given, list):
        raise InputError(f"'{name}' must be a list of turns")
    turns = [turn_of(each, f"{name}[{place}]") for place, each in enumerate(given)]
    system = columns.get("system")
    if isinstance(system, str) and system and (not turns or turns[0].get("role") != "system"):
        turns.insert(0, {"role": "system", "content": system})
    return turns


def turn_of(given: object, place: str) -> Message:
    """One turn in OpenAI's words.

    Raises:
        InputError: If it has no role that is known.
    """
    if not isinstance(given, dict):
        raise InputError(f"{place} must be an object with role and content, not {given!r}")
    named = given.get("role", given.get("from"))
    role = ROLES.get(str(named))
    if role is None:
        raise InputError(f"{place}: unknown role {named!r}; known are {', '.join(ROLES)}")
    content = given.get("content", given.get("value"))
    rest = {key: value for key, value in given.items() if key not in _NAMES}
    if named == "function_call":
        return {"role": role, "content": "", "tool_calls": [_call(content, place)], **rest}
    return {"role": role, "content": content, **rest}


_NAMES = {"role", "from", "content", "value"}


def is_reply(turn: Message) -> bool:
    """Whether a turn is the assistant's."""
    return turn.get("role") == "assistant"


def check_order(messages: Sequence[Message]) -> None:
    """Refuses roles that no conversation has in this order.

    Raises:
        InputError: The message names the turn and what may stand there.
    """
    if not any(map(is_reply, messages)):
        raise InputError("no turn of the assistant's: there is nothing to learn")
    if not is_reply(messages[-1]):
        raise InputError(
            f"the last turn is of role {messages[-1].get('role')!r}; a row ends with a reply"
        )
    before = "start"
    for place, message in enumerate(messages):
        role = str(message.get("role"))
        if role not in _FOLLOWERS[before]:
            allowed = ", ".join(sorted(_FOLLOWERS[before]))
            after = "at the start" if before == "start" else f"after {before}"
            raise InputError(f"turn {place} is of role {role}; {after} may come: {allowed}")
        before = role


_FOLLOWERS = {
    "start": {"system", "developer", "user"},
    "system": {"user", "developer"},
    "developer": {"user"},
    "user": {"assistant"},
    "assistant": {"user", "tool"},
    "tool": {"tool", "assistant"},
}


def tools_of(columns: Columns) -> tuple[Tool, ...]:
    """The functions that a row offers, as OpenAI declares them; bare ones are wrapped."""
    given = columns.get("tools")
    if not is_filled(given):
        return ()
    if isinstance(given, str):
        given = _parsed(given, "tools")
    if not isinstance(given, list):
        raise InputError("'tools' must be a list of functions, or its JSON")
    return tuple(
        each if "function" in each else {"type": "function", "function": each} for each in given
    )


def _call(content: object, place: str) -> Mapping[str, object]:
    call = _parsed(content, place) if isinstance(content, str) else content
    if not isinstance(call, dict) or not {"name", "arguments"} <= call.keys():
        raise InputError(f"{place}: a function call is a JSON object with name and arguments")
    function = {"name": call["name"], "arguments": call["arguments"]}
    return {"type": "function", "function": function}


def _parsed(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InputError(f"{place} is not JSON: {error}") from None


def _is_context(turn: Message) -> bool:
    return any(turn.get(name) in (0, False) for name in _WEIGHTS if name in turn)


def _without_weights(turn: Message) -> Message:
    return {key: value for key, value in turn.items() if key not in _WEIGHTS}
