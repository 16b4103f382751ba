"""Replies while they grow: each is drawn in a task of its own and looked at now and then."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from martlet.ui.client import Client, Json

_REFRESH_S = 0.06
"""Between two looks: faster than eyes can follow, and far slower than tokens come."""


@dataclass(kw_only=True)
class Reply:
    """What is known of a reply so far."""

    text: str = ""
    asked: float = field(default_factory=monotonic)
    """Seconds of a clock that never goes back; so `first` and `ended`."""
    first: float | None = None
    ended: float | None = None
    num_pieces: int = 0
    num_tokens: int | None = None
    """As the server counted them; None until the end."""
    ending: str | None = None
    """The server's `finish_reason`, or `stopped`."""
    context: Json | None = None
    parameters: Json = field(default_factory=dict)
    """The effective ones, each with `value` and `source`."""
    steps: list[Json] = field(default_factory=list)
    """Log-probabilities of each token, where they were asked for."""

    def end(self, ending: str) -> None:
        """Says why nothing more comes, unless the server has said it."""
        self.ending = self.ending or ending
        self.ended = self.ended or monotonic()

    def facts(self) -> dict[str, Any]:
        """What is told and kept of a reply besides its text."""
        ended = self.ended or monotonic()
        num_tokens = self.num_pieces if self.num_tokens is None else self.num_tokens
        spent = 0.0 if self.first is None else ended - self.first
        return {
            "num_tokens": num_tokens,
            "seconds_to_first": None if self.first is None else self.first - self.asked,
            "tokens_per_second": (num_tokens - 1) / spent if num_tokens > 1 and spent else None,
            "ending": self.ending,
            "context": self.context,
        }


async def draw(client: Client, body: Json, reply: Reply, *, key: str | None = None) -> None:
    """Asks for a chat's reply and writes down all that comes.

    Raises:
        MartletError: If the server refuses, or the reply fails.
    """
    async with aclosing(client.stream("/v1/chat/completions", body, key=key)) as chunks:
        async for chunk in chunks:
            _take(reply, chunk)
    reply.ended = monotonic()


def _take(reply: Reply, chunk: Json) -> None:
    if explanation := chunk.get("martlet"):
        reply.context = explanation.get("context")
        reply.parameters = explanation.get("parameters", {})
    if usage := chunk.get("usage"):
        reply.num_tokens = usage["completion_tokens"]
    for choice in chunk["choices"]:
        text = choice["delta"].get("content") or ""
        if text and reply.first is None:
            reply.first = monotonic()
        reply.num_pieces += bool(text)
        reply.text += text
        reply.ending = choice.get("finish_reason") or reply.ending
        reply.steps += (choice.get("logprobs") or {}).get("content") or ()


async def watch(
    drawings: Sequence[asyncio.Task[None]], stop: asyncio.Event
) -> AsyncGenerator[None]:
    """Comes back a few times a second until all is drawn or the user wants no more.

    Raises:
        MartletError: Of the first drawing that failed, once all have ended.
    """
    try:
        while not stop.is_set() and not all(drawing.done() for drawing in drawings):
            await asyncio.wait(drawings, timeout=_REFRESH_S)
            yield
    finally:
        for drawing in drawings:
            drawing.cancel()
        ends = await asyncio.gather(*drawings, return_exceptions=True)
    for end in ends:
        if isinstance(end, Exception):
            raise end


def chat_body(
    model: str, messages: Sequence[Mapping[str, str]], parameters: Mapping[str, object]
) -> dict[str, object]:
    """A request for a reply to a conversation."""
    return {"model": model, "messages": list(messages), **parameters}
