"""The functions that a model may call, as OpenAI's `tools` declare them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from martlet.errors import ParameterError

Tool = Mapping[str, object]
"""`{"type": "function", "function": {"name": …, "description": …, "parameters": …}}`."""

NO_PARAMETERS: Mapping[str, object] = {
    "type": "object",
    "properties": {},
    "additionalProperties": False,
}
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


@dataclass(frozen=True, kw_only=True)
class Function:
    """A function that may be called."""

    name: str
    parameters: Mapping[str, object]
    """The JSON schema of its arguments."""
    is_strict: bool
    """Whether the arguments must follow the schema wherever the model calls it."""


def read_functions(tools: Sequence[Tool]) -> tuple[Function, ...]:
    """Reads OpenAI's `tools`.

    Raises:
        ParameterError: If a tool is not a well-formed function, or two have one name.
    """
    functions = tuple(_read(tool, f"tools[{index}]") for index, tool in enumerate(tools))
    names = [function.name for function in functions]
    for name in names:
        if names.count(name) > 1:
            raise ParameterError(f"tools has two functions named {name!r}; names must differ")
    return functions


def select_function(functions: Sequence[Function], name: str) -> Function:
    """The function that `tool_choice` names.

    Raises:
        ParameterError: If there is none of that name.
    """
    for function in functions:
        if function.name == name:
            return function
    known = ", ".join(function.name for function in functions)
    raise ParameterError(f"tool_choice names the function {name!r}; tools has: {known}")


def _read(tool: Tool, place: str) -> Function:
    if not isinstance(tool, Mapping) or tool.get("type") != "function":
        raise ParameterError(f'{place} must be a mapping with type "function", not {tool!r}')
    declared = tool.get("function")
    if not isinstance(declared, Mapping):
        raise ParameterError(f"{place} needs a function: a mapping with a name")
    name = declared.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ParameterError(
            f"the name of {place} must be 1 to 64 letters, digits, _ or -, not {name!r}"
        )
    parameters = declared.get("parameters")
    if parameters is None:
        parameters = NO_PARAMETERS
    if not isinstance(parameters, Mapping) or parameters.get("type") != "object":
        raise ParameterError(f'the parameters of {place} must be a JSON schema of type "object"')
    is_strict = declared.get("strict") or False
    if not isinstance(is_strict, bool):
        raise ParameterError(f"strict of {place} must be true or false, not {is_strict!r}")
    return Function(name=name, parameters=parameters, is_strict=is_strict)
