"""Asks the server over its public HTTP API, as any other program would."""

import asyncio
import json
import ssl
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import httpx

from martlet.errors import (
    AuthenticationError,
    BusyError,
    EngineError,
    ForbiddenError,
    InputError,
    MartletError,
    NotFoundError,
    UnavailableError,
)

Json = Mapping[str, Any]
"""What a server says; JSON has no types to check it by."""

_STATUS_TO_ERROR: Mapping[int, type[MartletError]] = {
    401: AuthenticationError,
    403: ForbiddenError,
    404: NotFoundError,
    429: BusyError,
    503: UnavailableError,
}
_SILENCE_S = 60.0
"""Streams say `ping` every few seconds; what is silent for so long is dead."""


@dataclass(frozen=True, kw_only=True)
class ServerUrl:
    """Where the server is, seen from the page."""

    url: str
    """Without `/v1`."""
    certfile: Path | None = None
    """The server's own certificate, whatever host it names; None for the usual authorities."""

    def verify(self) -> ssl.SSLContext | bool:
        """How a connection is checked to lead to that server."""
        if self.certfile is None:
            return True
        context = ssl.create_default_context(cafile=str(self.certfile))
        context.check_hostname = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        return context


class Client:
    """Asks one server; used on one event loop.

    Args:
        server: Where it is.
    """

    def __init__(self, server: ServerUrl) -> None:
        self._http = httpx.AsyncClient(
            base_url=server.url,
            verify=server.verify(),
            trust_env=False,
            timeout=_SILENCE_S,
            limits=httpx.Limits(max_connections=None),
        )

    async def close(self) -> None:
        """Ends all connections."""
        await self._http.aclose()

    async def get(self, path: str, *, key: str | None = None) -> Json:
        """What is at a path.

        Raises:
            MartletError: If the server refuses or cannot be reached; so do all methods.
        """
        return cast(Json, json.loads((await self._send("GET", path, key=key)).content))

    async def post(self, path: str, body: Json | None = None, *, key: str | None = None) -> Json:
        """The reply to a body."""
        response = await self._send("POST", path, key=key, json=body)
        return cast(Json, json.loads(response.content))

    async def upload(self, path: Path, *, name: str, purpose: str, key: str | None = None) -> Json:
        """Gives a file for a batch or a tuning job to read, and returns what is known of it."""
        with path.open("rb") as file:
            response = await self._send(
                "POST",
                "/v1/files",
                key=key,
                data={"purpose": purpose},
                files={"file": (name, file)},
            )
        return cast(Json, json.loads(response.content))

    async def download(self, file_id: str, path: Path, *, key: str | None = None) -> None:
        """Writes a file of the server's to a path."""
        url = f"/v1/files/{file_id}/content"
        with _connected(), path.open("wb") as file:
            async with self._http.stream("GET", url, headers=_headers(key)) as response:
                await _check(response)
                async for part in response.aiter_bytes():
                    await asyncio.to_thread(file.write, part)

    async def stream(
        self, path: str, body: Json, *, key: str | None = None
    ) -> AsyncGenerator[Json]:
        """The chunks of a reply: the first explains it, the last counts its tokens.

        Closing the iterator ends the reply on the server.
        """
        asked = {**body, "stream": True, "stream_options": {"include_usage": True}}
        headers = {**_headers(key), "X-Martlet-Explain": "1"}
        with _connected():
            async with self._http.stream("POST", path, json=asked, headers=headers) as response:
                await _check(response)
                async for line in response.aiter_lines():
                    chunk = line.removeprefix("data: ")
                    if chunk == line or chunk == "[DONE]":
                        continue
                    event = json.loads(chunk)
                    if "error" in event:
                        raise EngineError(event["error"]["message"])
                    yield event

    async def _send(
        self, method: str, path: str, *, key: str | None, **content: Any
    ) -> httpx.Response:
        with _connected():
            response = await self._http.request(method, path, headers=_headers(key), **content)
            await _check(response)
        return response


@contextmanager
def _connected() -> Iterator[None]:
    """Makes a Martlet error of a connection that failed."""
    try:
        yield
    except httpx.HTTPError as error:
        raise UnavailableError(f"the server does not answer: {error!r}") from error


def _headers(key: str | None) -> dict[str, str]:
    return {} if key is None else {"Authorization": f"Bearer {key}"}


async def _check(response: httpx.Response) -> None:
    """Raises what the server says against a request."""
    if response.is_success:
        return
    try:
        message = json.loads(await response.aread())["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = f"the server answered {response.status_code}"
    default = EngineError if response.is_server_error else InputError
    raise _STATUS_TO_ERROR.get(response.status_code, default)(message)
