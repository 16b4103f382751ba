"""Mistral: `[TOOL_CALLS] [{"name": …, "arguments": {…}}, …]`, behind words if there are any."""

from typing import ClassVar

from martlet.text.lark import quoted
from martlet.text.tool_calls.format import ToolCallFormat
from martlet.text.tool_calls.reader import Reader, Reading

_MARK = "[TOOL_CALLS]"


class MistralFormat(ToolCallFormat):
    """All calls stand in one list behind a mark, mostly a special token."""

    name = "Mistral"
    marks: ClassVar[tuple[str, ...]] = (_MARK,)
    has_parallel_calls = True

    def read(self, reader: Reader) -> Reading[None]:
        """See `ToolCallFormat.read`."""
        while (yield from reader.content_until(_MARK)):
            reader.settle((yield from self._read_list(reader)))

    def _read_list(self, reader: Reader) -> Reading[bool]:
        """Reads the calls behind a mark; false where something else stands in the list."""
        yield from reader.spaces()
        separator = yield from reader.take_any(["["])
        while separator in ("[", ","):
            yield from reader.spaces()
            if not (yield from reader.call_object("arguments")):
                return False
            yield from reader.spaces()
            separator = yield from reader.take_any([",", "]"])
            reader.settle(True)
        yield from reader.spaces()
        return separator is not None

    def start_rules(self, *, is_required: bool, is_parallel: bool) -> str:
        """See `ToolCallFormat.start_rules`."""
        more = ' ("," " "? call)*' if is_parallel else ""
        calls = f'" "? "[" call{more} "]"'
        if is_required:
            return f"start: {self.mark_rule(_MARK)} {calls}"
        return f"start: lead {calls} | WORDS\n{self.lead_rules(_MARK)}"

    def call_rule(self, name: str, arguments: str) -> str:
        """See `ToolCallFormat.call_rule`."""
        opening = f'{{"name": "{name}", "arguments": '
        return f'{quoted(opening)} {arguments} "}}"'
