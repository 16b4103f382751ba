"""From a sample's request to what a server is sent.

Every parameter that the server knows is sent, also where it has our default: a server takes what
is left out from its model's folder.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from martlet.backends.base import SampleRequest
from martlet.backends.openai.capabilities import kind_of
from martlet.backends.openai.server import Server
from martlet.errors import InputError, ParameterError
from martlet.text.structured import StructuredOutput

_PLAIN = ("temperature", "top_p", "presence_penalty", "frequency_penalty")


@dataclass(frozen=True, kw_only=True)
class HttpAsk:
    """One request over HTTP."""

    url: str
    body: Mapping[str, object]
    is_chat: bool


def ask_of(request: SampleRequest, server: Server, *, renders_here: bool) -> HttpAsk:
    """What to send for a sample.

    Args:
        request: The sample.
        server: Who is asked.
        renders_here: Whether the prompt's ids come from a chat template of ours, so that they and
            not the messages are sent.

    Raises:
        InputError: If the prompt cannot be sent to this server, or its room is unknown.
        ParameterError: If the parameters ask for more than the server can do.
    """
    params = request.params
    server.can.check(params, server=server.described)
    messages = None if request.prompt is None else request.prompt.messages
    if messages is not None and not renders_here:
        own: dict[str, object] = {"messages": list(messages)}
        is_chat = True
    else:
        own = {"prompt": _raw_prompt(request, server)}
        is_chat = False
    body = {
        "model": server.model if request.adapter is None else request.adapter,
        **own,
        **_length(request, server, is_chat=is_chat),
        **{name: getattr(params, name) for name in _PLAIN},
        **{name: getattr(params, name) for name in sorted(server.can.extras)},
        "seed": server.can.fold_seed(request.seed),
        **_scores(request, server, is_chat=is_chat),
        **_form(params.structured, server, is_chat=is_chat),
        **({"stop": list(params.stop)} if params.stop else {}),
        **_bias(params.logit_bias),
        **({"stream": True, "stream_options": {"include_usage": True}} if request.streams else {}),
    }
    path = "chat/completions" if is_chat else "completions"
    return HttpAsk(url=f"{server.address.base_url}/{path}", body=body, is_chat=is_chat)


def _raw_prompt(request: SampleRequest, server: Server) -> object:
    if request.prompt_ids and server.can.takes_token_ids:
        return list(request.prompt_ids)
    if request.prompt is not None and request.prompt.text is not None:
        return request.prompt.text
    raise InputError(
        f"{server.described} takes no token ids as a prompt; give messages or text, without "
        "--tokenizer"
    )


def _length(request: SampleRequest, server: Server, *, is_chat: bool) -> dict[str, object]:
    asked, context = request.params.max_tokens, server.max_context_tokens
    room = context - len(request.prompt_ids) if context and request.prompt_ids else None
    limits = [limit for limit in (asked, room) if limit is not None]
    if limits:
        return {server.can.max_tokens_name if is_chat else "max_tokens": min(limits)}
    if is_chat:
        return {}  # left out, it is what fits
    raise ParameterError(
        f"how long a reply may be is not known here, and {server.described} would cut a completion "
        "after 16 tokens; give --max-tokens",
        param="max_tokens",
    )


def _scores(request: SampleRequest, server: Server, *, is_chat: bool) -> dict[str, object]:
    params, fields = request.params, dict[str, object]()
    if params.logprobs is not None:
        fields["logprobs"] = True if is_chat else params.logprobs
        if is_chat:
            fields["top_logprobs"] = params.logprobs
        if server.can.tells_token_ids:
            fields["return_tokens_as_token_ids"] = True
    if params.prompt_logprobs is not None:
        fields["prompt_logprobs"] = params.prompt_logprobs
    if server.can.tells_token_ids:
        fields["return_token_ids"] = True
    return fields


def _form(
    structured: StructuredOutput | None, server: Server, *, is_chat: bool
) -> dict[str, object]:
    if structured is None:
        return {}
    if server.can.is_structured_in_chats_only and not is_chat:
        raise ParameterError(
            f"{server.described} gives a form to replies of chats alone; send messages, without "
            "--tokenizer and --raw",
            param="structured",
        )
    kind = kind_of(structured)
    if kind == "json_object":
        return {"response_format": {"type": "json_object"}}
    if kind == "json_schema":
        schema = {"name": "reply", "schema": structured.json_schema, "strict": True}
        return {"response_format": {"type": "json_schema", "json_schema": schema}}
    value = list(structured.choice) if kind == "choice" else structured.regex
    return {"structured_outputs": {kind: value}}


def _bias(logit_bias: Mapping[int, float] | None) -> dict[str, object]:
    if logit_bias is None:
        return {}
    return {"logit_bias": {str(token_id): bias for token_id, bias in logit_bias.items()}}
