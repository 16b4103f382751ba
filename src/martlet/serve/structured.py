"""Replies of a wanted shape: JSON, a schema, calls of tools."""

from martlet.errors import ParameterError
from martlet.serve.schema.chat import ChatRequest


def refuse_structure(body: ChatRequest) -> None:
    """Refuses what asks for a shape of the reply, by name.

    Raises:
        ParameterError: If tools may be called, or the format of the reply is not plain text.
    """
    if body.response_format is not None and body.response_format != {"type": "text"}:
        raise ParameterError(
            "response_format is not supported yet, but for {'type': 'text'}; ask for the format "
            "in the system message",
            param="response_format",
        )
    if body.tools and body.tool_choice != "none":
        raise ParameterError(
            "tools are not supported yet; leave them out, or give tool_choice='none'",
            param="tools",
        )
    if body.tool_choice not in (None, "none", "auto"):
        raise ParameterError(
            "tool_choice names a tool, and no tools are given", param="tool_choice"
        )
