"""Asks a running server by ms-swift 2's functions; any of OpenAI's kind will do."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import httpx

from martlet.compat.model_types import PUBLISHED, RAW
from martlet.compat.swift_llm.template import History, messages_of
from martlet.compat.telling import tell_same
from martlet.errors import EngineError, NotFoundError, ParameterError, UnavailableError

_TIMEOUT = httpx.Timeout(600.0, connect=10.0)


@dataclass(kw_only=True)
class XRequestConfig:
    """How a reply is drawn; what is None is left to the server."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: list[str] | None = None
    n: int | None = None
    stream: bool = False

    def body(self) -> dict[str, Any]:
        """The fields of a request."""
        return {name: value for name, value in vars(self).items() if value not in (None, False)}


def get_model_list_client(
    host: str | None = None, port: str | int | None = None
) -> SimpleNamespace:
    """What a server serves: `.data[0].id` is the name of its model.

    Args:
        host, port: Where it is; MARTLET_BASE_URL, or http://127.0.0.1:8000/v1, unless given.

    Raises:
        UnavailableError: If nothing answers.
        EngineError: If the server refuses.
    """
    with _reached(_base_url(host, port)) as client:
        models: SimpleNamespace = _read(client.get("models"))
    return models


def inference_client(
    model_type: str,
    query: str,
    history: History | None = None,
    system: str | None = None,
    *,
    request_config: XRequestConfig | None = None,
    host: str | None = None,
    port: str | int | None = None,
    is_chat_request: bool | None = None,
) -> Any:
    """Asks a server.

    Args:
        model_type: The name of the model, or of an adapter.
        query: What is asked.
        history: What was said before, in pairs.
        system: The system message.
        request_config: How the reply is drawn; `stream=True` streams it.
        host, port: As in `get_model_list_client`; the key is in OPENAI_API_KEY.
        is_chat_request: Whether the query is a turn of a chat, and not text to go on with; None
            asks the server, whose model may have no chat template.

    Returns:
        OpenAI's reply, its fields as attributes: `.choices[0].message.content`, or
        `.choices[0].text`. With `stream=True`, an iterator of chunks: `.choices[0].delta.content`.

    Raises:
        ParameterError: If history or a system message is given with text to go on with.
        NotFoundError: If the server does not know the model.
        UnavailableError: If nothing answers.
        EngineError: If the server refuses; the message is its own.
    """
    config, url = request_config or XRequestConfig(), _base_url(host, port)
    is_chat = _is_chat(model_type, url) if is_chat_request is None else is_chat_request
    body: dict[str, Any] = {"model": model_type, **config.body()}
    if is_chat:
        path = "chat/completions"
        body["messages"] = messages_of(query, history, system)
    elif history or system:
        raise ParameterError(f"{model_type} goes on with text: history and system are for chats")
    else:
        path, body["prompt"] = "completions", query
    call = "chat.completions" if is_chat else "completions"
    tell_same(f"openai.OpenAI(base_url={url!r}).{call}.create(model={model_type!r}, …)")
    if config.stream:
        return _chunks(url, path, body)
    with _reached(url) as client:
        return _read(client.post(path, json=body))


def _chunks(url: str, path: str, body: Mapping[str, Any]) -> Iterator[SimpleNamespace]:
    """The chunks of a streamed reply that say something; each delta has a content."""
    with _reached(url) as client, client.stream("POST", path, json=body) as response:
        if response.is_error:
            response.read()
            _read(response)
        for line in response.iter_lines():
            data = line.removeprefix("data:").strip()
            if not line.startswith("data:") or data == "[DONE]":
                continue
            chunk = _attributes(data)
            if hasattr(chunk, "error"):
                raise EngineError(f"the reply broke off: {chunk.error.message}")
            for choice in chunk.choices:
                if hasattr(choice, "delta"):
                    choice.delta.content = getattr(choice.delta, "content", None) or ""
            if chunk.choices:
                yield chunk


def _is_chat(model_type: str, url: str) -> bool:
    known = PUBLISHED.get(model_type)
    if known is not None:
        return known.template_type != RAW
    hello = {"model": model_type, "messages": [{"role": "user", "content": "Hello"}]}
    with _reached(url.removesuffix("/v1")) as client:
        # Only a model without a template refuses this; a server without /tokenize knows chats.
        return client.post("tokenize", json=hello).status_code != httpx.codes.BAD_REQUEST


def _base_url(host: str | None, port: str | int | None) -> str:
    if host is None and port is None:
        return os.environ.get("MARTLET_BASE_URL", "http://127.0.0.1:8000/v1").rstrip("/")
    return f"http://{host or '127.0.0.1'}:{port or 8000}/v1"


@contextmanager
def _reached(url: str) -> Iterator[httpx.Client]:
    """A client for a server; what keeps it from answering becomes an `UnavailableError`."""
    key = os.environ.get("OPENAI_API_KEY")
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    try:
        with httpx.Client(base_url=url, headers=headers, timeout=_TIMEOUT) as client:
            yield client
    except httpx.HTTPError as error:
        raise UnavailableError(
            f"{url} does not answer ({type(error).__name__}: {error}); start a server there with "
            "martlet serve, or name another with host and port, or MARTLET_BASE_URL"
        ) from error


def _read(response: httpx.Response) -> Any:
    if response.is_success:
        return _attributes(response.text)
    try:
        reason = response.json()["error"]["message"]
    except (ValueError, TypeError, KeyError):
        reason = f"status {response.status_code}: {response.text[:200]}"
    raise (NotFoundError if response.status_code == httpx.codes.NOT_FOUND else EngineError)(reason)


def _attributes(text: str) -> Any:
    """JSON, its objects' fields as attributes."""
    return json.loads(text, object_hook=lambda fields: SimpleNamespace(**fields))
