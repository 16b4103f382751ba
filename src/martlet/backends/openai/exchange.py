"""One request and its reply over HTTP, and what can go wrong between them, by name."""

import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace

import httpx

from martlet.backends.base import SampleDelta, SampleOutput, SampleRequest
from martlet.backends.openai.body import HttpAsk
from martlet.backends.openai.refusals import (
    RequestRefusedError,
    faults_named,
    row_error_of,
    run_error_of,
)
from martlet.backends.openai.server import Server
from martlet.backends.openai.transcript import Transcript

_READ_TIMEOUT_S = 600.0
"""Silence after which a reply is given up; a long one in a queue may take minutes."""
_CONNECT_TIMEOUT_S = 10.0


@dataclass(kw_only=True, eq=False)
class Letter:
    """A request to be sent, perhaps more than once."""

    request: SampleRequest
    ask: HttpAsk
    on_delta: Callable[[SampleDelta], None]
    told: str = ""
    """Text that was handed on, and cannot be taken back."""


class Exchange:
    """Asks a server, within the event loop that it is used in.

    Args:
        server: Who is asked.
        headers: Carry the key.
        trust_env: Whether the environment's proxies are used.
        on_headers: Gets the headers of each reply.
    """

    def __init__(
        self,
        server: Server,
        *,
        headers: Mapping[str, str],
        trust_env: bool,
        on_headers: Callable[[Mapping[str, str]], None],
    ) -> None:
        self._address = server.address
        self._on_headers = on_headers
        self._client = httpx.AsyncClient(
            headers=headers,
            timeout=httpx.Timeout(_READ_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
            trust_env=trust_env,
        )

    async def attempt(self, letter: Letter) -> SampleOutput:
        """Sends a request and reads the reply to its end.

        Raises:
            TransientError: If another try may do.
            RequestRefusedError: If the server will never answer it.
            MartletError: If it would answer no other request either.
        """
        transcript = Transcript(request=letter.request)
        asking = self._client.stream("POST", letter.ask.url, json=letter.ask.body)
        with faults_named():
            async with asking as response:
                self._on_headers(response.headers)
                if response.status_code != 200:
                    await self._raise_refusal(response)
                if letter.request.streams:
                    await _read_stream(response, transcript, letter)
                else:
                    transcript.add(json.loads(await response.aread()))
            return transcript.output()

    async def close(self) -> None:
        """Closes all connections."""
        await self._client.aclose()

    async def _raise_refusal(self, response: httpx.Response) -> None:
        body = await response.aread()
        status = response.status_code
        fatal = run_error_of(status, body, address=self._address)
        raise fatal or row_error_of(status, response.headers, body, now=time.time())


async def _read_stream(response: httpx.Response, transcript: Transcript, letter: Letter) -> None:
    """Hands on what was not told yet; a stream that begins anew must repeat what was."""
    told = letter.told
    async for chunk in _chunks_of(response):
        delta = transcript.add(chunk)
        text = transcript.text
        if not (text.startswith(told) or told.startswith(text)):
            raise RequestRefusedError(
                "the reply broke off, and another try says something else than was streamed"
            )
        if told and len(text) <= len(told):
            continue
        num_known = max(0, len(told) - (len(text) - len(delta.text)))
        letter.told = text
        letter.on_delta(replace(delta, text=delta.text[num_known:]))


async def _chunks_of(response: httpx.Response) -> AsyncIterator[object]:
    """The chunks of a stream of server-sent events.

    Read to its end, behind `[DONE]`: else the connection could not be used again.
    """
    async for line in response.aiter_lines():
        data = line.removeprefix("data:").strip()
        if line.startswith("data:") and data != "[DONE]":
            yield json.loads(data)
