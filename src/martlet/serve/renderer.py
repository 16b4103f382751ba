"""Prompts to token ids, off the event loop: a long prompt must not hold up the others' tokens."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

from martlet.backends.base import Backend, Prompt, RenderedPrompt
from martlet.engine.params import SamplingParams
from martlet.text.conversation import ContextPolicy, FittedConversation, fit_conversation
from martlet.text.messages import Message
from martlet.text.tokenizer import Tokenizer

_Result = TypeVar("_Result")


class Renderer:
    """One thread that renders and tokenizes: a tokenizer is not thread-safe.

    Args:
        backend: Only its `render`, `prepare` and `tokenizer` are used.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="martlet-render")

    async def render(self, prompt: Prompt) -> RenderedPrompt:
        """As `Backend.render`."""
        return await self._in_thread(lambda: self._backend.render(prompt))

    async def fit(
        self, prompt: Prompt, *, max_tokens: int | None, policy: ContextPolicy
    ) -> FittedConversation[RenderedPrompt]:
        """A conversation with room for its reply, as `fit_conversation`.

        Args:
            prompt: With messages.
        """

        def render(messages: Sequence[Message]) -> RenderedPrompt:
            return self._backend.render(replace(prompt, messages=messages))

        return await self._in_thread(
            lambda: fit_conversation(
                prompt.messages or (),
                render,
                max_context_tokens=self._backend.limits.max_context_tokens,
                max_tokens=max_tokens,
                policy=policy,
            )
        )

    async def prepare(self, params: SamplingParams) -> None:
        """As `Backend.prepare`: the form of a reply is compiled before anything is drawn."""
        if params.structured is not None:
            await self._in_thread(lambda: self._backend.prepare(params))

    async def with_tokenizer(self, function: Callable[[Tokenizer], _Result]) -> _Result:
        """What a function of the tokenizer returns."""
        return await self._in_thread(lambda: function(self._backend.tokenizer))

    def close(self) -> None:
        """Ends the thread after what it is at."""
        self._pool.shutdown(cancel_futures=True)

    async def _in_thread(self, function: Callable[[], _Result]) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function)
