"""Reads a reply while it is being written: a parser in straight lines that waits for its text.

Every reading method is a generator that yields when it needs more text; a family's syntax is
written with `yield from`, as if the whole reply were there. What was read since the last
`settle` or `drop` can still be given back as words.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Generator
from secrets import choice
from string import ascii_letters, digits
from typing import TypeVar

from martlet.text.tool_calls.deltas import (
    BrokenCallDelta,
    ContentDelta,
    Delta,
    ToolCallDelta,
)
from martlet.text.tool_calls.json_scanner import JsonScanner

_Result = TypeVar("_Result")
Reading = Generator[None, None, _Result]
"""Yields when it needs more text; its value is what was read."""

_ID_LENGTH = 9
"""Mistral's templates refuse ids of another length when a client sends them back."""


class Reader:
    """The text of one reply, and the deltas that are certain so far.

    Args:
        names: The functions that may be called; a call of another one is words.
    """

    def __init__(self, names: Collection[str]) -> None:
        self.names = names
        self._deltas: list[Delta] = []
        self._text = ""
        self._start = 0  # of what can still be given back
        self._position = 0
        self._is_closed = False
        self._num_calls = 0
        self._has_open_call = False

    def add(self, text: str) -> None:
        """Adds the next text of the reply."""
        self._text = self._text[self._start :] + text
        self._position -= self._start
        self._start = 0

    def close(self) -> None:
        """Says that no more text comes."""
        self._is_closed = True

    def take_deltas(self) -> list[Delta]:
        """What became certain since the last call."""
        deltas, self._deltas = self._deltas, []
        return deltas

    def content_until(self, mark: str) -> Reading[bool]:
        """Reads words up to a mark and the mark itself; false if the reply ends without it.

        Spaces before the mark belong to it.
        """
        while True:
            found = self._text.find(mark, self._position)
            end = found if found >= 0 else self._num_certain(mark)
            if found >= 0 or not self._is_closed:
                end = self._position + len(self._text[self._position : end].rstrip())
            self._emit_content(end)
            if found >= 0:
                self._position = found + len(mark)
                return True
            if self._is_closed:
                return False
            yield

    def rest(self) -> Reading[None]:
        """Reads the rest of the reply as words."""
        while True:
            self._emit_content(len(self._text))
            if self._is_closed:
                return
            yield

    def spaces(self) -> Reading[None]:
        """Reads spaces and line breaks."""
        while True:
            rest = self._text[self._position :]
            self._position = len(self._text) - len(rest.lstrip())
            if self._position < len(self._text) or self._is_closed:
                return
            yield

    def peek(self, literal: str) -> Reading[bool]:
        """Whether a literal is what comes next."""
        position = self._position
        is_next = yield from self.take(literal)
        self._position = position
        return is_next

    def take(self, literal: str) -> Reading[bool]:
        """Reads a literal if it is there."""
        return (yield from self.take_any([literal])) is not None

    def take_any(self, literals: Collection[str]) -> Reading[str | None]:
        """Reads the first of some literals that is there; None of them may begin another."""
        while True:
            rest = self._text[self._position :]
            for literal in literals:
                if rest.startswith(literal):
                    self._position += len(literal)
                    return literal
            if self._is_closed or not any(literal.startswith(rest) for literal in literals):
                return None
            yield

    def call_object(self, *argument_keys: str) -> Reading[bool]:
        """Reads `{"name": …, "arguments": {…}}`, members in any order, and whether it was a call.

        The call is told as soon as its name is known and its arguments begin.
        """
        members: dict[str, str] = {}
        if not (yield from self.take("{")):
            return False
        while True:
            key = yield from self._member_key()
            if key is None:
                return False
            name = None if self._has_open_call else self._name(members)
            if name and key in argument_keys and self._text[self._position] == "{":
                value = yield from self.call_arguments(name)
            else:
                value = yield from self._json_value()
            if value is None:
                return False
            members[key] = value
            yield from self.spaces()
            separator = yield from self.take_any([",", "}"])
            if separator != ",":
                break
        if separator is None:
            return False
        return self._has_open_call or self._tell_whole_call(members, argument_keys)

    def call_arguments(self, name: str) -> Reading[str | None]:
        """Begins a call and reads its arguments; None if they are no JSON object."""
        self._begin_call(name)
        value = yield from self._json_value(is_argument=True)
        return value if value is not None and _is_object(value) else None

    def settle(self, is_call: bool) -> None:
        """Ends a call, or gives back as words what was read instead of one."""
        text = self._text[self._start : self._position]
        if self._has_open_call and not is_call:
            broken = BrokenCallDelta(index=self._num_calls - 1, text=text)
            self._deltas.append(broken)
        elif not is_call and text:
            self._deltas.append(ContentDelta(text=text))
        self._has_open_call = False
        self.drop()

    def drop(self) -> None:
        """Forgets what was read: it is no words."""
        self._start = self._position

    def _num_certain(self, mark: str) -> int:
        """Where the longest end of the text begins that may begin the mark."""
        length = len(self._text)
        if self._is_closed:
            return length
        longest = min(len(mark) - 1, length - self._position)
        ends = (n for n in range(longest, 0, -1) if self._text.endswith(mark[:n]))
        return length - next(ends, 0)

    def _emit_content(self, end: int) -> None:
        if end > self._start:
            self._deltas.append(ContentDelta(text=self._text[self._start : end]))
        self._start = self._position = max(end, self._start)

    def _begin_call(self, name: str) -> None:
        call_id = "".join(choice(ascii_letters + digits) for _ in range(_ID_LENGTH))
        self._deltas.append(ToolCallDelta(index=self._num_calls, id=call_id, name=name))
        self._num_calls += 1
        self._has_open_call = True

    def _tell_whole_call(self, members: dict[str, str], argument_keys: Collection[str]) -> bool:
        """Tells a call whose arguments came before its name, or as a text."""
        name = self._name(members)
        value = next((members[key] for key in argument_keys if key in members), "")
        if value.startswith('"') and isinstance(inner := _parse(value), str):
            value = inner.strip()
        if name is None or not _is_object(value):
            return False
        self._begin_call(name)
        self._deltas.append(ToolCallDelta(index=self._num_calls - 1, arguments=value))
        return True

    def _name(self, members: dict[str, str]) -> str | None:
        name = _parse(members.get("name", ""))
        return name if isinstance(name, str) and name in self.names else None

    def _member_key(self) -> Reading[str | None]:
        """Reads `"key":` and the spaces around; None if something else is there."""
        yield from self.spaces()
        key = yield from self._json_value()
        name = _parse(key or "")
        yield from self.spaces()
        if not isinstance(name, str) or not (yield from self.take(":")):
            return None
        yield from self.spaces()
        return name if self._position < len(self._text) else None

    def _json_value(self, *, is_argument: bool = False) -> Reading[str | None]:
        """Reads a JSON value; None if the reply ends in it."""
        scanner = JsonScanner()
        pieces = []
        while True:
            num_chars = scanner.push(self._text[self._position :])
            piece = self._text[self._position : self._position + num_chars]
            self._position += num_chars
            pieces.append(piece)
            if piece and is_argument:
                delta = ToolCallDelta(index=self._num_calls - 1, arguments=piece)
                self._deltas.append(delta)
            if scanner.is_done:
                return "".join(pieces)
            if self._is_closed:
                return None
            yield


def _parse(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _is_object(text: str) -> bool:
    return isinstance(_parse(text), dict)
