"""A generation as server-sent events, in the words of one endpoint."""

from collections.abc import AsyncGenerator

from martlet.backends.base import SampleOutput
from martlet.serve.event_stream import DONE, PING, encode_event
from martlet.serve.generation import Generation
from martlet.serve.replies.common import ReplyWriter


async def stream_reply(
    generation: Generation,
    writer: ReplyWriter,
    *,
    include_usage: bool,
    heartbeat_s: float,
    explanation: dict[str, object] | None = None,
) -> AsyncGenerator[bytes]:
    """The events of a stream; what one step of the engine made goes out together.

    Args:
        generation: The samples; whoever sends the events closes it.
        writer: Words them.
        include_usage: Whether a last chunk counts the tokens; all others then say null.
        heartbeat_s: Silence after which a comment is sent.
        explanation: Goes with the first chunk.
    """

    def encode(chunk: dict[str, object]) -> bytes:
        return encode_event({**chunk, "usage": None} if include_usage else chunk)

    openings = [writer.opening(index) for index in range(generation.num_choices)]
    if explanation is not None:
        openings[0]["martlet"] = explanation
    yield b"".join(map(encode, openings))
    while not generation.is_complete:
        news = await generation.news(timeout_s=heartbeat_s)
        chunks = [
            writer.ending(index, event)
            if isinstance(event, SampleOutput)
            else writer.piece(index, event)
            for index, event in news
        ]
        if events := b"".join(encode(chunk) for chunk in chunks if chunk is not None):
            yield events
        elif not news:
            yield PING
    if include_usage:
        yield encode_event(writer.usage(generation.finished))
    yield DONE
