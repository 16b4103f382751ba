"""From the body of a request to what is drawn for it and who words the reply.

The one way into the engine for every endpoint, whether it is asked over HTTP or by a batch's row.
"""

from dataclasses import dataclass
from typing import Generic, TypeVar

from martlet.backends.base import Backend, Prompt, RenderedPrompt
from martlet.backends.native import NativeBackend
from martlet.errors import ParameterError
from martlet.serve.generation import Ask, Stamp
from martlet.serve.parameters import effective_params
from martlet.serve.replies.chat import ChatReply
from martlet.serve.replies.common import ReplyWriter, Wording
from martlet.serve.replies.completion import CompletionReply
from martlet.serve.replies.response import ResponseReply
from martlet.serve.schema.chat import ChatRequest
from martlet.serve.schema.completion import DEFAULTS, CompletionRequest
from martlet.serve.schema.responses import ResponsesRequest
from martlet.serve.service import Service
from martlet.serve.structured import reply_form

CHAT_PATH = "/v1/chat/completions"
TEXT_PATH = "/v1/completions"
RESPONSES_PATH = "/v1/responses"

WriterT = TypeVar("WriterT", bound=Wording, covariant=True)


@dataclass(frozen=True, kw_only=True)
class Prepared(Generic[WriterT]):
    """What to draw, and who words it."""

    ask: Ask
    writer: WriterT


async def prepare_chat(
    body: ChatRequest, service: Service, *, stamp: Stamp | None = None
) -> Prepared[ReplyWriter]:
    """Renders a conversation; nothing is drawn yet.

    Args:
        body: The request.
        service: What answers.
        stamp: Given for what waits by itself for room; None for a client's request, which is
            refused before its prompt is rendered if the queue is full.

    Raises:
        MartletError: If the model is unknown, a parameter out of its range, the template refuses
            the messages, they are too long, or the queue is full.
    """
    adapter = service.catalog.resolve(body.model)
    backend = service.engine.backend
    if body.candidates is not None:
        _check_candidates(body, backend, is_live=stamp is None)
    form = reply_form(body, backend.tokenizer)
    values = body.sampling_values()
    if form.structured is not None:
        values["structured"] = form.structured
    effective = effective_params(values, backend.default_params)
    if stamp is None:
        service.engine.check_room(effective.params.n)
    await service.renderer.prepare(effective.params)
    fitted = await service.renderer.fit(
        Prompt(messages=body.turns(), tools=form.tools),
        max_tokens=effective.params.max_tokens,
        policy=body.context_policy or service.settings.context_policy,
    )
    ask = Ask(
        model=body.model,
        adapter=adapter,
        prompts=[fitted.prompt],
        effective=effective,
        timeout_s=body.timeout,
        stamp=stamp or Stamp(),
        context=fitted.use,
        num_candidates=body.candidates or 0,
    )
    writer = ChatReply(
        ask, service.catalog, backend.tokenizer, reading=form.reading, streams=body.stream
    )
    return Prepared(ask=ask, writer=writer)


async def prepare_response(
    body: ResponsesRequest, service: Service, *, stamp: Stamp | None = None
) -> Prepared[ResponseReply]:
    """As `prepare_chat`, for a conversation in items.

    Raises:
        MartletError: As there.
    """
    chat = await prepare_chat(body.as_chat(), service, stamp=stamp)
    return Prepared(ask=chat.ask, writer=ResponseReply(body, chat.ask, chat.writer))


async def prepare_completion(
    body: CompletionRequest, service: Service, *, stamp: Stamp | None = None
) -> Prepared[ReplyWriter]:
    """Tokenizes texts; as `prepare_chat` in all else."""
    backend = service.engine.backend
    adapter = service.catalog.resolve(body.model)
    effective = effective_params(
        body.sampling_values(),
        backend.default_params,
        endpoint=TEXT_PATH,
        endpoint_defaults=DEFAULTS,
    )
    prompts = body.prompts()
    if stamp is None:
        service.engine.check_room(len(prompts) * effective.params.n)
    rendered = [await service.renderer.render(prompt) for prompt in prompts]
    ask = Ask(
        model=body.model,
        adapter=adapter,
        prompts=rendered,
        effective=effective,
        timeout_s=body.timeout,
        stamp=stamp or Stamp(),
    )
    echoes = [await _text_of(service, prompt) for prompt in rendered] if body.echo else None
    writer = CompletionReply(ask, service.catalog, backend.tokenizer, echoes=echoes)
    return Prepared(ask=ask, writer=writer)


def _check_candidates(body: ChatRequest, backend: Backend, *, is_live: bool) -> None:
    if not body.logprobs:
        raise ParameterError("candidates is only for logprobs=true", param="candidates")
    if not (is_live and isinstance(backend, NativeBackend)):
        raise ParameterError(
            "candidates is only for live requests to the native backend; leave it out",
            param="candidates",
        )


async def _text_of(service: Service, prompt: RenderedPrompt) -> str:
    if prompt.text:
        return prompt.text
    return await service.renderer.with_tokenizer(
        lambda tokenizer: tokenizer.decode(prompt.token_ids, skip_special_tokens=False)
    )
