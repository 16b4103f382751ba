"""What every family of tool calls does: parsers for replies, grammars for forced calls."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

from martlet.errors import ParameterError
from martlet.text.lark import json_rule, quoted
from martlet.text.structured import StructuredOutput
from martlet.text.tool_calls.deltas import (
    BrokenCallDelta,
    ContentDelta,
    Delta,
    ParsedReply,
    ToolCallDelta,
    join,
)
from martlet.text.tool_calls.functions import Function
from martlet.text.tool_calls.reader import Reader, Reading


class ToolCallFormat(ABC):
    """How a family of models writes tool calls.

    Args:
        special_tokens: The tokenizer's special tokens and their ids: a mark that is one of them
            is drawn as that token alone.
    """

    name: ClassVar[str]
    marks: ClassVar[tuple[str, ...]] = ()
    """What announces calls amid words; these stay in the text, special tokens or not."""
    has_parallel_calls: ClassVar[bool]
    """Whether a reply may hold several calls."""

    def __init__(self, special_tokens: Mapping[str, int]) -> None:
        self._special_tokens = special_tokens

    @property
    def mark_ids(self) -> frozenset[int]:
        """Special tokens that must not be left out of a reply's text."""
        return frozenset(self._special_tokens[m] for m in self.marks if m in self._special_tokens)

    def parse(self, text: str, functions: Sequence[Function]) -> ParsedReply:
        """Reads a whole reply; what is no well-formed call of these functions is words."""
        reading = _Reading(self, functions)
        return join([*reading.push(text), *reading.flush()])

    def new_parser(self, functions: Sequence[Function]) -> ToolCallParser:
        """Starts to read a reply piece by piece."""
        return ToolCallParser(_Reading(self, functions))

    def structured_output(
        self, functions: Sequence[Function], *, is_required: bool, is_parallel: bool = True
    ) -> StructuredOutput | None:
        """The form of a reply that calls functions rightly.

        Args:
            functions: Those that may be called: all, or the one that `tool_choice` names.
            is_required: Whether the reply must call a function (`required` or a named one), and
                follows the schemas of all; else it may (`auto`), and follows those that are strict.
            is_parallel: Whether it may call several.

        Returns:
            None if the reply is free.

        Raises:
            ParameterError: If a strict function cannot be held to its schema amid free words.
        """
        is_parallel = is_parallel or not self.has_parallel_calls
        is_strict = any(function.is_strict for function in functions)
        if not is_required and is_parallel and not is_strict:
            return None
        start = self.start_rules(is_required=is_required, is_parallel=is_parallel)
        if start is None:
            raise ParameterError(
                f"strict functions are not available with tool_choice auto for the {self.name} "
                "format of this model; leave strict out, or use tool_choice required"
            )
        rules = [start, f"call: {' | '.join(f'call_{i}' for i in range(len(functions)))}"]
        for index, function in enumerate(functions):
            is_held = is_required or function.is_strict
            schema = function.parameters if is_held else {"type": "object"}
            rules.append(f"call_{index}: {self.call_rule(function.name, f'arguments_{index}')}")
            rules.append(f"arguments_{index}: {json_rule(schema)}")
        return StructuredOutput(grammar="\n".join(rules))

    @abstractmethod
    def read(self, reader: Reader) -> Reading[None]:
        """Reads a reply to its end."""

    @abstractmethod
    def start_rules(self, *, is_required: bool, is_parallel: bool) -> str | None:
        """The grammar's rule `start` over `call`; None if the family has none for this."""

    @abstractmethod
    def call_rule(self, name: str, arguments: str) -> str:
        """The grammar's rule for one function's call; `arguments` is a rule's name."""

    def mark_rule(self, mark: str) -> str:
        """A mark as a grammar writes it."""
        return f"<[{self._special_tokens[mark]}]>" if mark in self._special_tokens else quoted(mark)

    def lead_rules(self, mark: str) -> str:
        """The grammar's rules `lead`, words up to a mark, and `WORDS`, words without one."""
        words = "WORDS: /(.|\\n)*/"
        if mark in self._special_tokens:
            return f"lead: WORDS {self.mark_rule(mark)}\n{words}"
        return f"lead[lazy]: /(.|\\n)*/ {quoted(mark)}\n{words}"


class ToolCallParser:
    """Reads one reply while it comes. Never returned early: what may be the beginning of a call.

    All pieces joined are what `ToolCallFormat.parse` returns, except for a call that turns out to
    be malformed when its first pieces are out: it stays as it is, unfinished.
    """

    def __init__(self, reading: _Reading) -> None:
        self._reading = reading

    def push(self, text: str) -> list[ContentDelta | ToolCallDelta]:
        """Takes the next text of the reply and returns what is now certain, often nothing."""
        return _without_broken(self._reading.push(text))

    def flush(self) -> list[ContentDelta | ToolCallDelta]:
        """Ends the reply and returns what was held back."""
        return _without_broken(self._reading.flush())


class _Reading:
    """A family's syntax at work on one reply."""

    def __init__(self, family: ToolCallFormat, functions: Sequence[Function]) -> None:
        self._reader = Reader([function.name for function in functions])
        self._syntax = family.read(self._reader)

    def push(self, text: str) -> list[Delta]:
        self._reader.add(text)
        next(self._syntax, None)
        return self._reader.take_deltas()

    def flush(self) -> list[Delta]:
        self._reader.close()
        next(self._syntax, None)
        return self._reader.take_deltas()


def _without_broken(deltas: Sequence[Delta]) -> list[ContentDelta | ToolCallDelta]:
    return [delta for delta in deltas if not isinstance(delta, BrokenCallDelta)]
