"""One request's samples: from prompts and parameters to a stream of what is drawn."""

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import uuid4

from martlet.backends.base import RenderedPrompt, SampleOutput, SampleRequest
from martlet.backends.seeds import given_seed, sample_seed
from martlet.errors import EngineError, PromptTooLongError
from martlet.serve.parameters import EffectiveParams
from martlet.serve.sample_stream import SampleEvent, SampleStream
from martlet.serve.service import Service
from martlet.text.conversation import ContextUse


@dataclass(frozen=True, kw_only=True)
class Stamp:
    """What makes a reply one of its own, fresh unless given."""

    reply_id: str = field(default_factory=lambda: uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))
    draws: str = field(default_factory=lambda: secrets.token_hex(8))
    """Names the draws of a request that gives no seed."""


@dataclass(frozen=True, kw_only=True)
class Ask:
    """What to draw: `params.n` samples of each prompt."""

    model: str
    """As the request named it; replies repeat it."""
    adapter: str | None
    prompts: Sequence[RenderedPrompt]
    effective: EffectiveParams
    timeout_s: float | None = None
    """None takes the server's own deadline."""
    context: ContextUse | None = None
    """What of a chat was dropped, and what is left; None for texts."""
    num_candidates: int = 0
    """Rivals of each drawn token to tell of."""
    stamp: Stamp = field(default_factory=Stamp)


class Generation:
    """The samples of an ask, on their way. Choice i is sample i % n of prompt i // n.

    Made by `begin`; whoever has one must `close` it.
    """

    def __init__(self, ask: Ask, service: Service, stream: SampleStream) -> None:
        self.ask = ask
        self._service = service
        self._stream = stream
        self._id_to_index = {name: index for index, name in enumerate(stream.request_ids)}
        self.outputs: list[SampleOutput | None] = [None] * len(stream.request_ids)
        """By choice; None for what is not finished."""

    @classmethod
    async def begin(cls, ask: Ask, service: Service) -> "Generation":
        """Puts an ask into the engine's queue.

        Raises:
            PromptTooLongError: If a prompt and the reply that was asked for exceed the context.
            MartletError: As `EngineThread.submit`.
        """
        check_context(ask, service.catalog.max_context_tokens)
        stream = await service.engine.submit(
            sample_requests(ask, streams=True),
            timeout_s=ask.timeout_s or service.settings.request_timeout_s,
        )
        return cls(ask, service, stream)

    @property
    def num_choices(self) -> int:
        return len(self.outputs)

    async def news(self, *, timeout_s: float | None = None) -> list[tuple[int, SampleEvent]]:
        """What came since the last call, with the choice that it belongs to.

        Args:
            timeout_s: After this much silence the list is empty.

        Raises:
            EngineError: If a sample failed.
            MartletError: If the whole stream did.
        """
        events = []
        for event in await self._stream.take(timeout_s=timeout_s):
            index = self._id_to_index[event.request_id]
            if isinstance(event, SampleOutput):
                check_whole(event)
                self.outputs[index] = event
            events.append((index, event))
        return events

    @property
    def is_complete(self) -> bool:
        """Whether `news` has given everything."""
        return self._stream.is_complete

    async def finish(self) -> list[SampleOutput]:
        """Waits for all samples, in the order of choices; raises as `news`."""
        while not self.is_complete:
            await self.news()
        return self.finished

    @property
    def finished(self) -> list[SampleOutput]:
        """The samples that are finished, in the order of choices."""
        return [output for output in self.outputs if output is not None]

    def close(self) -> None:
        """Gives up what is unfinished."""
        self._service.engine.abort(self._stream)


def check_whole(output: SampleOutput) -> None:
    """Checks that a sample came to its end.

    Raises:
        EngineError: If it failed.
    """
    if output.finish_reason == "error":
        raise EngineError(f"the reply could not be computed: {output.error}")


def sample_requests(ask: Ask, *, streams: bool) -> list[SampleRequest]:
    """The samples of an ask, in the order of choices.

    Args:
        streams: Whether the engine reports them piece by piece.
    """
    params = ask.effective.params
    requests = []
    for number, prompt in enumerate(ask.prompts):
        # Without a seed, every request draws afresh. All prompts of a request share what it names.
        fresh = f"{ask.stamp.draws}, prompt {number}"
        for k in range(params.n):
            fixed = None if params.seed is None else given_seed(params.seed, k)
            requests.append(
                SampleRequest(
                    request_id=f"{ask.stamp.reply_id}-{number * params.n + k}",
                    prompt_ids=prompt.token_ids,
                    params=params,
                    seed=sample_seed(fresh, k) if fixed is None else fixed,
                    adapter=ask.adapter,
                    streams=streams,
                    num_candidates=ask.num_candidates,
                )
            )
    return requests


def check_context(ask: Ask, max_context_tokens: int) -> None:
    """A reply length that was asked for must fit: a reply cut short of it would be a surprise.

    Raises:
        PromptTooLongError: If it does not.
    """
    max_tokens = ask.effective.params.max_tokens
    if max_tokens is None or ask.effective.name_to_source["max_tokens"] != "request":
        return
    longest = max(len(prompt.token_ids) for prompt in ask.prompts)
    if longest + max_tokens > max_context_tokens:
        raise PromptTooLongError(
            f"the prompt has {longest} tokens and max_tokens asks for {max_tokens} more, but the "
            f"model's context holds {max_context_tokens}; shorten the prompt, or ask for at most "
            f"{max(0, max_context_tokens - longest)} tokens"
        )
