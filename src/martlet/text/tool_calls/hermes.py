"""Hermes and Qwen: `<tool_call>\\n{"name": …, "arguments": {…}}\\n</tool_call>`, amid words."""

from typing import ClassVar

from martlet.text.lark import quoted
from martlet.text.tool_calls.format import ToolCallFormat
from martlet.text.tool_calls.reader import Reader, Reading

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"


class HermesFormat(ToolCallFormat):
    """Each call stands between tags."""

    name = "Hermes"
    marks: ClassVar[tuple[str, ...]] = (_OPEN, _CLOSE)
    has_parallel_calls = True

    def read(self, reader: Reader) -> Reading[None]:
        """See `ToolCallFormat.read`."""
        while (yield from reader.content_until(_OPEN)):
            yield from reader.spaces()
            is_call = yield from reader.call_object("arguments")
            if is_call:
                yield from reader.spaces()
                # Where a reply is cut here, or the tag forgotten, the call is whole.
                yield from reader.take(_CLOSE)
                yield from reader.spaces()
            reader.settle(is_call)

    def start_rules(self, *, is_required: bool, is_parallel: bool) -> str:
        """See `ToolCallFormat.start_rules`."""
        opening, closing = self.mark_rule(_OPEN), self.mark_rule(_CLOSE)
        if is_required:
            more = ' ("\\n" tagged)*' if is_parallel else ""
            return f'start: tagged{more}\ntagged: {opening} "\\n" call "\\n" {closing}'
        tagged = f'lead "\\n" call "\\n" {closing}'
        start = f"({tagged})* WORDS" if is_parallel else f"{tagged} | WORDS"
        return f"start: {start}\n{self.lead_rules(_OPEN)}"

    def call_rule(self, name: str, arguments: str) -> str:
        """See `ToolCallFormat.call_rule`."""
        opening = f'{{"name": "{name}", "arguments": '
        return f'{quoted(opening)} {arguments} "}}"'
