"""Draws replies from a backend, one or several side by side, and times them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from time import monotonic
from typing import Literal

from martlet.backends.base import (
    Backend,
    Prompt,
    RenderedPrompt,
    SampleDelta,
    SampleOutput,
    SampleRequest,
)
from martlet.engine.params import SamplingParams
from martlet.errors import EngineError
from martlet.text.conversation import (
    ContextPolicy,
    ContextUse,
    FittedConversation,
    fit_conversation,
)
from martlet.text.messages import Message

Ending = Literal["stop", "length", "stopped"]
"""The model's own end, the end of the room, or Ctrl-C."""
Show = Callable[[int, str], None]
"""Gets the number of a voice, and what it says next."""


@dataclass(frozen=True, kw_only=True)
class Voice:
    """Who replies, and with which draws."""

    adapter: str | None
    """None for the base."""
    seed: int


@dataclass(kw_only=True)
class Reply:
    """What a voice said."""

    text: str = ""
    num_tokens: int = 0
    ending: Ending = "stopped"
    use: ContextUse
    started: float = field(default_factory=monotonic)
    """Seconds, like the next two, on the clock of this process."""
    first: float | None = None
    """When the first token was there."""
    ended: float = 0.0

    @property
    def seconds_to_first(self) -> float | None:
        return None if self.first is None else self.first - self.started

    @property
    def tokens_per_second(self) -> float | None:
        """From the first token on; None for a reply too short to tell."""
        if self.first is None or self.num_tokens < 2 or self.ended <= self.first:
            return None
        return (self.num_tokens - 1) / (self.ended - self.first)


class Speaker:
    """Speaks with a backend that nobody else uses.

    Args:
        backend: What draws.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._numbers = count()

    def fit(
        self, messages: Sequence[Message], *, max_tokens: int | None, policy: ContextPolicy
    ) -> FittedConversation[RenderedPrompt]:
        """See `fit_conversation`."""
        return fit_conversation(
            messages,
            lambda kept: self._backend.render(Prompt(messages=kept)),
            max_context_tokens=self._backend.limits.max_context_tokens,
            max_tokens=max_tokens,
            policy=policy,
        )

    def speak(
        self,
        fitted: FittedConversation[RenderedPrompt],
        voices: Sequence[Voice],
        params: SamplingParams,
        *,
        show: Show,
        stop_requested: Callable[[], bool],
    ) -> list[Reply]:
        """Draws one reply of each voice to the same prompt.

        Args:
            fitted: The conversation, with room for the reply.
            voices: Who replies.
            params: How.
            show: Called with each piece of a reply.
            stop_requested: Looked at between two steps; what was said by then is returned.

        Raises:
            EngineError: If a step failed.
            MartletError: As `Backend.submit`.
        """
        talk = next(self._numbers)
        id_to_index = {f"chat-{talk}-{index}": index for index in range(len(voices))}
        replies = [Reply(use=fitted.use) for _ in voices]
        try:
            for request_id, index in id_to_index.items():
                request = SampleRequest(
                    request_id=request_id,
                    prompt_ids=fitted.prompt.token_ids,
                    params=replace(params, seed=None),
                    seed=voices[index].seed,
                    adapter=voices[index].adapter,
                    streams=True,
                )
                self._backend.submit(request)
            while self._backend.num_unfinished and not stop_requested():
                outputs = self._backend.poll()
                for delta in self._backend.take_deltas():
                    _grow(replies[id_to_index[delta.request_id]], delta)
                    if delta.text:
                        show(id_to_index[delta.request_id], delta.text)
                for output in outputs:
                    _end(replies[id_to_index[output.request_id]], output)
        finally:
            for request_id in id_to_index:
                self._backend.abort(request_id)
            self._backend.take_deltas()
        return [_closed(reply) for reply in replies]


def _grow(reply: Reply, delta: SampleDelta) -> None:
    if delta.token_ids and reply.first is None:
        reply.first = monotonic()
    reply.text += delta.text
    reply.num_tokens += len(delta.token_ids)


def _end(reply: Reply, output: SampleOutput) -> None:
    if output.finish_reason == "error":
        raise EngineError(f"the reply could not be computed: {output.error}")
    reply.ending = "length" if output.finish_reason == "length" else "stop"
    reply.ended = monotonic()


def _closed(reply: Reply) -> Reply:
    reply.ended = reply.ended or monotonic()
    return reply
