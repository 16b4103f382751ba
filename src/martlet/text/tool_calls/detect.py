"""Which family of tool calls a model was trained on, by what its chat template writes."""

from collections.abc import Mapping

from martlet.text.tool_calls.chatglm import ChatGLMFormat
from martlet.text.tool_calls.format import ToolCallFormat
from martlet.text.tool_calls.hermes import HermesFormat
from martlet.text.tool_calls.llama3 import Llama3Format
from martlet.text.tool_calls.mistral import MistralFormat

_OTHER_SYNTAX = ("<arg_key>", "<function=", "[ARGS]")
"""Later models of some families write the same marks around something that is not JSON."""


def detect(template: str, special_tokens: Mapping[str, int]) -> ToolCallFormat | None:
    """Finds the family of a model.

    Args:
        template: The Jinja source of the chat template.
        special_tokens: The tokenizer's special tokens and their ids.

    Returns:
        None if the template is of no known family, such as one that knows no tools.
    """
    if any(mark in template for mark in _OTHER_SYNTAX):
        return None
    if "<tool_call>" in template:
        return HermesFormat(special_tokens)
    if "[TOOL_CALLS]" in template:
        return MistralFormat(special_tokens)
    if "<|start_header_id|>" in template and '"parameters": ' in template:
        return Llama3Format(special_tokens)
    if "[gMASK]" in template:
        return ChatGLMFormat(special_tokens)
    return None
