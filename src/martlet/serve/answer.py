"""From an ask to a response: whole or as a stream, the same for every endpoint."""

from fastapi import Request
from starlette.responses import JSONResponse, Response

from martlet.errors import ParameterError
from martlet.serve.connection import unless_gone
from martlet.serve.event_stream import EventStream
from martlet.serve.generation import Ask, Generation
from martlet.serve.replies.common import ReplyWriter, explanation_of
from martlet.serve.replies.stream import stream_reply
from martlet.serve.schema.sampling import SamplingFields
from martlet.serve.service import service_of

EXPLAIN_HEADER = "x-martlet-explain"


async def answer(request: Request, body: SamplingFields, ask: Ask, writer: ReplyWriter) -> Response:
    """Draws what was asked for, and gives it up as soon as the client leaves.

    Raises:
        MartletError: As `Generation.begin` and `Generation.news`; once a stream has begun, errors
            are events of it.
    """
    service = service_of(request)
    explanation = explanation_of(ask, service.catalog) if _wants_explanation(request) else None
    generation = await Generation.begin(ask, service)
    if body.stream:
        events = stream_reply(
            generation,
            writer,
            include_usage=body.stream_options is not None and body.stream_options.include_usage,
            heartbeat_s=service.settings.heartbeat_s,
            explanation=explanation,
        )
        return EventStream(events, on_close=lambda: _close(generation, request))
    try:
        outputs = await unless_gone(request.receive, generation.finish())
    finally:
        _close(generation, request)
    reply = writer.body(outputs)
    if explanation is not None:
        num_cached = [output.num_cached_tokens for output in outputs]
        reply["martlet"] = {**explanation, "num_cached_tokens": num_cached}
    return JSONResponse(reply)


def _wants_explanation(request: Request) -> bool:
    value = request.headers.get(EXPLAIN_HEADER, "0")
    if value not in ("0", "1"):
        raise ParameterError(f"the header {EXPLAIN_HEADER} is 1 or 0, not {value!r}")
    return value == "1"


def _close(generation: Generation, request: Request) -> None:
    generation.close()
    num_prompt = sum(len(prompt.token_ids) for prompt in generation.ask.prompts)
    num_drawn = sum(len(output.token_ids) for output in generation.finished)
    request.state.tokens = f"{num_prompt}+{num_drawn}"  # for the request's line in the log
