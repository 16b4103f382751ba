"""Prompts to token ids, by whoever has the tokenizer: here, the server, or nobody."""

import json
from collections.abc import Sequence
from typing import Protocol

import httpx

from martlet.backends.base import Prompt, RenderedPrompt
from martlet.backends.openai.asking import ask_json
from martlet.backends.openai.refusals import RequestRefusedError
from martlet.backends.openai.server import Server
from martlet.backends.render import render
from martlet.errors import InputError, TemplateError
from martlet.text.messages import Message, checked_turn
from martlet.text.tokenizer import Tokenizer


class Renders(Protocol):
    """Who renders; see `Backend.render`."""

    def render(self, prompt: Prompt) -> RenderedPrompt: ...

    def close(self) -> None: ...


class RendersHere:
    """Renders with a tokenizer of ours: what is asked is what was trained."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def render(self, prompt: Prompt) -> RenderedPrompt:
        """See `Backend.render`."""
        return render(prompt, self.tokenizer, vocab_size=self.tokenizer.num_tokens)

    def close(self) -> None:
        """Holds nothing."""


class RendersThere:
    """Asks the server's `/tokenize`, so that lengths are known before a run.

    Args:
        server: Has `/tokenize` in vLLM's shape.
        client: Carries the key; closed with this.
    """

    def __init__(self, server: Server, client: httpx.Client) -> None:
        self._server = server
        self._client = client

    def render(self, prompt: Prompt) -> RenderedPrompt:
        """See `Backend.render`.

        Raises:
            UnavailableError: If the server does not answer.
        """
        text = named_by(prompt)
        if prompt.token_ids is not None:
            return RenderedPrompt(text="", token_ids=tuple(prompt.token_ids))
        if prompt.messages is not None:
            token_ids = self.tokenize({"messages": list(prompt.messages)})
        else:
            token_ids = self.tokenize({"prompt": prompt.text})
        return RenderedPrompt(text=text, token_ids=token_ids)

    def tokenize(self, body: dict[str, object]) -> tuple[int, ...]:
        """The server's ids of a text or a conversation.

        Raises:
            InputError: If the server refuses it.
            UnavailableError: If it does not answer.
        """
        address = self._server.address
        url = f"{address.root_url}/tokenize"
        asked = {"model": self._server.model, **body}
        try:
            answer = ask_json(self._client, url, address=address, body=asked)
        except RequestRefusedError as error:
            raise InputError(f"{url}: {error}") from error
        match answer:
            case {"tokens": list() as token_ids}:
                return tuple(token_ids)
        raise InputError(f"{url} answers without token ids: {str(answer)[:200]}")

    def close(self) -> None:
        """Closes the connection."""
        self._client.close()


class RendersNowhere:
    """Passes words on as they are: no length is known before the server says it."""

    def render(self, prompt: Prompt) -> RenderedPrompt:
        """See `Backend.render`."""
        token_ids = tuple(prompt.token_ids or ())
        return RenderedPrompt(text=named_by(prompt), token_ids=token_ids)

    def close(self) -> None:
        """Holds nothing."""


def named_by(prompt: Prompt) -> str:
    """The words of a prompt as one text, which names it in a journal.

    Raises:
        TemplateError: If a message is malformed, or the prompt needs a chat template of ours.
        InputError: If the prompt is empty.
    """
    if prompt.messages is not None:
        if prompt.tools or prompt.template_variables:
            raise TemplateError(
                "tools and variables of the chat template are rendered here; give the model's "
                "folder with --tokenizer DIR"
            )
        return json.dumps(_turns(prompt.messages), ensure_ascii=False, sort_keys=True)
    if not (prompt.text or prompt.token_ids):
        raise InputError("the prompt is empty; give at least one token")
    return prompt.text or ""


def _turns(messages: Sequence[Message]) -> list[Message]:
    if not messages:
        raise TemplateError("a conversation needs at least one message; none was given")
    return [checked_turn(message, index) for index, message in enumerate(messages)]
