"""ChatGLM: the whole reply is a function's name, a line break, and its arguments as JSON."""

from martlet.text.lark import quoted
from martlet.text.tool_calls.format import ToolCallFormat
from martlet.text.tool_calls.reader import Reader, Reading


class ChatGLMFormat(ToolCallFormat):
    """A reply whose first line is the name of a known function is a call."""

    name = "ChatGLM"
    has_parallel_calls = False

    def read(self, reader: Reader) -> Reading[None]:
        """See `ToolCallFormat.read`."""
        yield from reader.spaces()
        line = yield from reader.take_any([f"{name}\n" for name in reader.names])
        is_call = False
        if line is not None and (yield from reader.peek("{")):
            is_call = (yield from reader.call_arguments(line.rstrip())) is not None
        if is_call:
            yield from reader.spaces()
        reader.settle(is_call)
        yield from reader.rest()

    def start_rules(self, *, is_required: bool, is_parallel: bool) -> str | None:  # noqa: ARG002
        """See `ToolCallFormat.start_rules`."""
        return "start: call" if is_required else None

    def call_rule(self, name: str, arguments: str) -> str:
        """See `ToolCallFormat.call_rule`."""
        line = f"{name}\n"
        return f"{quoted(line)} {arguments}"
