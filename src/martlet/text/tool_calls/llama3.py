"""Llama 3: the whole reply is `{"name": …, "parameters": {…}}`, `<|python_tag|>` before it or not.

Its template allows one call a reply.
"""

from typing import ClassVar

from martlet.text.lark import quoted
from martlet.text.tool_calls.format import ToolCallFormat
from martlet.text.tool_calls.reader import Reader, Reading

_MARK = "<|python_tag|>"


class Llama3Format(ToolCallFormat):
    """A reply that begins as a JSON object of a known function is a call."""

    name = "Llama 3"
    marks: ClassVar[tuple[str, ...]] = (_MARK,)
    has_parallel_calls = False

    def read(self, reader: Reader) -> Reading[None]:
        """See `ToolCallFormat.read`."""
        yield from reader.spaces()
        yield from reader.take(_MARK)
        yield from reader.spaces()
        is_call = yield from reader.call_object("parameters", "arguments")
        if is_call:
            yield from reader.spaces()
        reader.settle(is_call)
        yield from reader.rest()

    def start_rules(self, *, is_required: bool, is_parallel: bool) -> str | None:  # noqa: ARG002
        """See `ToolCallFormat.start_rules`."""
        return "start: call" if is_required else None

    def call_rule(self, name: str, arguments: str) -> str:
        """See `ToolCallFormat.call_rule`."""
        opening = f'{{"name": "{name}", "parameters": '
        return f'{quoted(opening)} {arguments} "}}"'
