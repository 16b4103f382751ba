"""From an ask to a response: whole or as a stream, the same for every endpoint."""

from collections.abc import AsyncGenerator, Callable, Sequence

from fastapi import Request
from starlette.responses import JSONResponse, Response

from martlet.backends.base import SampleOutput
from martlet.errors import ParameterError
from martlet.serve.connection import unless_gone
from martlet.serve.event_stream import EventStream
from martlet.serve.generation import Ask, Generation
from martlet.serve.replies.common import ReplyWriter, explanation_of, note_of
from martlet.serve.replies.stream import stream_reply
from martlet.serve.schema.sampling import SamplingFields
from martlet.serve.service import service_of

Explanation = dict[str, object] | None
"""How a reply came about, as far as it is to be told; None if there is nothing to tell."""
EXPLAIN_HEADER = "x-martlet-explain"


async def answer(request: Request, body: SamplingFields, ask: Ask, writer: ReplyWriter) -> Response:
    """Draws what was asked for, in the words of completions; raises as `respond`."""

    def events(generation: Generation, explanation: Explanation) -> AsyncGenerator[bytes]:
        return stream_reply(
            generation,
            writer,
            include_usage=body.stream_options is not None and body.stream_options.include_usage,
            heartbeat_s=service_of(request).settings.heartbeat_s,
            explanation=explanation,
        )

    return await respond(request, ask, word=writer.body, events=events if body.stream else None)


async def respond(
    request: Request,
    ask: Ask,
    *,
    word: Callable[[Sequence[SampleOutput]], dict[str, object]],
    events: Callable[[Generation, Explanation], AsyncGenerator[bytes]] | None,
) -> Response:
    """Draws what was asked for, and gives it up as soon as the client leaves.

    Args:
        request: Who asks.
        ask: For what.
        word: Makes the whole reply of the finished samples.
        events: Makes a stream of them; None where the reply is wanted whole.

    Raises:
        MartletError: As `Generation.begin` and `Generation.news`; once a stream has begun, errors
            are events of it.
    """
    service = service_of(request)
    is_asked = _wants_explanation(request)
    explanation = explanation_of(ask, service.catalog) if is_asked else note_of(ask) or None
    generation = await Generation.begin(ask, service)
    if events is not None:
        stream = events(generation, explanation)
        return EventStream(stream, on_close=lambda: _close(generation, request))
    try:
        outputs = await unless_gone(request.receive, generation.finish())
    finally:
        _close(generation, request)
    reply = word(outputs)
    if is_asked:
        num_cached = [output.num_cached_tokens for output in outputs]
        explanation = {**(explanation or {}), "num_cached_tokens": num_cached}
    if explanation is not None:
        reply["martlet"] = explanation
    return JSONResponse(reply)


def _wants_explanation(request: Request) -> bool:
    value = request.headers.get(EXPLAIN_HEADER, "0")
    if value not in ("0", "1"):
        raise ParameterError(f"the header {EXPLAIN_HEADER} is 1 or 0, not {value!r}")
    return value == "1"


def _close(generation: Generation, request: Request) -> None:
    generation.close()
    num_prompt = sum(len(prompt.token_ids) for prompt in generation.ask.prompts)
    num_drawn = sum(output.num_tokens for output in generation.finished)
    request.state.tokens = f"{num_prompt}+{num_drawn}"  # for the request's line in the log
