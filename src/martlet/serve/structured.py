"""Replies of a wanted form: JSON, a schema, an expression, a choice, calls of functions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from martlet.errors import ParameterError
from martlet.serve.schema.chat import ChatRequest
from martlet.text.structured import StructuredOutput
from martlet.text.tokenizer import Tokenizer
from martlet.text.tool_calls.format import ToolCallFormat
from martlet.text.tool_calls.functions import (
    Function,
    Tool,
    read_functions,
    select_function,
)


@dataclass(frozen=True, kw_only=True)
class CallReading:
    """How the calls in a reply are found."""

    format: ToolCallFormat
    functions: Sequence[Function]
    """Those that may be called."""


@dataclass(frozen=True, kw_only=True)
class ReplyForm:
    """What a request wants its replies to look like."""

    structured: StructuredOutput | None = None
    """What is drawn is held to this; None leaves it free."""
    tools: Sequence[Tool] = ()
    """Shown to the model."""
    reading: CallReading | None = None
    """None if no function may be called."""


def reply_form(body: ChatRequest, tokenizer: Tokenizer) -> ReplyForm:
    """The form that a request asks for.

    Raises:
        ParameterError: If it is malformed, contradicts itself, or is not available for the model.
    """
    wanted = _wanted_text(body)
    if not body.tools or body.tool_choice == "none":
        if body.tool_choice not in (None, "none", "auto"):
            raise ParameterError(
                "tool_choice asks for a call, and no tools are given", param="tool_choice"
            )
        return ReplyForm(structured=wanted)
    if wanted is not None:
        raise ParameterError(
            "response_format and tools cannot be had together: a call has a form of its own; "
            "leave one of them out, or give tool_choice='none'",
            param="response_format",
        )
    family = tokenizer.tool_calls
    if family is None:
        raise ParameterError(
            "this model's chat template writes no tool calls; leave tools out", param="tools"
        )
    functions = read_functions(body.tools)
    is_required, callable_now = _choose(body.tool_choice, functions)
    structured = family.structured_output(
        callable_now, is_required=is_required, is_parallel=body.parallel_tool_calls is not False
    )
    return ReplyForm(
        structured=structured,
        tools=body.tools,
        reading=CallReading(format=family, functions=callable_now),
    )


def _wanted_text(body: ChatRequest) -> StructuredOutput | None:
    formats = {
        "response_format": None
        if body.response_format is None
        else StructuredOutput.from_response_format(body.response_format),
        "structured_outputs": None
        if body.structured_outputs is None
        else body.structured_outputs.as_structured(),
    }
    given = [wanted for wanted in formats.values() if wanted is not None]
    if len(given) > 1:
        raise ParameterError(
            f"give one of {' and '.join(formats)}, not both", param="structured_outputs"
        )
    return given[0] if given else None


def _choose(tool_choice: object, functions: Sequence[Function]) -> tuple[bool, Sequence[Function]]:
    """Whether a call is required, and of which functions."""
    match tool_choice:
        case None | "auto":
            return False, functions
        case "required":
            return True, functions
        case {"type": "function", "function": {"name": str(name)}}:
            return True, [select_function(functions, name)]
    given = dict(tool_choice) if isinstance(tool_choice, Mapping) else tool_choice
    raise ParameterError(
        'tool_choice must be "auto", "none", "required" or {"type": "function", "function": '
        f'{{"name": …}}}}, not {given!r}',
        param="tool_choice",
    )
