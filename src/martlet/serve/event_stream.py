"""Server-sent events as a response that ends with its client."""

import json
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, suppress

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from martlet.errors import Interrupted, MartletError
from martlet.serve.connection import unless_gone
from martlet.serve.envelope import envelope_of

logger = logging.getLogger(__name__)

PING = b": ping\n\n"
"""A comment: clients skip it, and proxies see that the connection lives."""
DONE = b"data: [DONE]\n\n"

Json = Mapping[str, object]


def encode_event(data: Json, *, event: str | None = None) -> bytes:
    """One event with a JSON object."""
    name = "" if event is None else f"event: {event}\n"
    body = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return f"{name}data: {body}\n\n".encode()


class EventStream(Response):
    """Sends events as they come; an error among them is an `error` event and the end.

    A send waits while the client does not read, and so does the source. Once the client has left,
    the source is closed at once.

    Args:
        source: Where the events come from.
        on_close: Called in every case once nothing more is sent, even if nothing ever was.
    """

    media_type = "text/event-stream"

    def __init__(self, source: AsyncGenerator[bytes], *, on_close: Callable[[], None]) -> None:
        super().__init__(headers={"Cache-Control": "no-cache"})
        del self.headers["content-length"]
        self._source = source
        self._on_close = on_close

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with suppress(Interrupted):  # nobody is left to tell
                await unless_gone(receive, self._send_all(send))
        finally:
            self._on_close()

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async with aclosing(self._source) as source:
            try:
                async for event in source:
                    await send({"type": "http.response.body", "body": event, "more_body": True})
            except MartletError as error:
                logger.warning("a stream ended with an error: %s", error)
                body = encode_event(envelope_of(error), event="error")
                await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
