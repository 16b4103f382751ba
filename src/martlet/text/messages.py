"""The turns of a conversation: checked, and brought to the form that chat templates expect."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from martlet.errors import TemplateError

Message = Mapping[str, object]
"""One turn of a conversation: `role`, `content`, and what the chat template knows besides."""


def checked_turn(message: object, index: int) -> dict[str, Any]:
    """One turn as templates expect it.

    Text parts become one text, and the arguments of tool calls, which OpenAI's clients send as
    JSON, objects.

    Args:
        message: What the user gave.
        index: Its place in the conversation, for messages.

    Raises:
        TemplateError: If it is malformed.
    """
    place = f"messages[{index}]"
    if not isinstance(message, Mapping):
        raise TemplateError(
            f"{place} must be a mapping with role and content, not {type(message).__name__}"
        )
    # Absent and null mean the same; templates print a null as "None".
    turn = {str(key): value for key, value in message.items() if value is not None}
    role = turn.get("role")
    if not isinstance(role, str) or not role:
        raise TemplateError(f"{place} needs a role, such as 'user'; its role is {role!r}")
    if "tool_calls" in turn:
        turn["tool_calls"] = _checked_calls(turn["tool_calls"], f"tool_calls of {place}")
        # Qwen 3's template, for one, adds to the content of such a turn, whether there is one.
        turn.setdefault("content", "")
    if "content" not in turn:
        raise TemplateError(f"{place} needs a content; give its text, even if it is empty")
    turn["content"] = _checked_content(turn["content"], f"the content of {place}")
    return turn


def _checked_content(content: object, place: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise TemplateError(f"{place} must be one text, not {type(content).__name__}")
    return "".join(
        _text_of(part, f"{place}, part {number},") for number, part in enumerate(content)
    )


def _text_of(part: object, place: str) -> str:
    match part:
        case {"type": "text", "text": str(text)}:
            return text
        case {"type": kind} if kind != "text":
            raise TemplateError(f"{place} is {kind!r}; this model takes text alone")
    raise TemplateError(f'{place} must be {{"type": "text", "text": …}}, not {part!r}')


def _checked_calls(calls: object, place: str) -> list[dict[object, object]]:
    if not isinstance(calls, Sequence) or isinstance(calls, str):
        raise TemplateError(f"{place} must be a list of calls, not {type(calls).__name__}")
    return [_checked_call(call, place) for call in calls]


def _checked_call(call: object, place: str) -> dict[object, object]:
    match call:
        case {"function": {"name": str(name), "arguments": arguments, **other}, **rest}:
            function = {**other, "name": name, "arguments": _read_arguments(arguments, place)}
            return {**rest, "function": function}
    raise TemplateError(
        f'{place} must be {{"id": …, "type": "function", "function": {{"name": …, '
        f'"arguments": …}}}}, not {call!r}'
    )


def _read_arguments(arguments: object, place: str) -> Mapping[str, object]:
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError) as error:
            raise TemplateError(f"the arguments in {place} are not JSON: {error}") from None
    if not isinstance(arguments, Mapping):
        raise TemplateError(f"the arguments in {place} must be a JSON object, not {arguments!r}")
    return arguments
