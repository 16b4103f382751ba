"""A front before a real server that answers badly every few requests, as busy servers do."""

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import httpx
import uvicorn
from starlette.types import Receive, Scope, Send

from martlet.serve.address import Address, bind

FAULTS = ("busy", "refusal", "half", "nonsense")
_HTML = b"<html>502 Bad Gateway</html>"


class UnrulyFront:
    """An ASGI app that passes requests on, and every few replies with a fault, in turn.

    Args:
        url: The server behind it.
        every: One request in so many meets a fault.
    """

    def __init__(self, url: str, *, every: int) -> None:
        self.told: Counter[str] = Counter()
        self._every = every
        self._num_asked = 0
        self._client = httpx.AsyncClient(base_url=url, timeout=60)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        fault = self._next_fault() if scope["path"].endswith("completions") else None
        if fault == "busy":
            await _reply(send, 429, b'{"error": {"message": "slow down"}}', {"retry-after": "0"})
        elif fault == "refusal":
            await _reply(send, 500, b"oh no", {})
        elif fault == "nonsense":
            await _reply(send, 200, _HTML, {})
        else:
            await self._pass_on(scope, body, send, is_whole=fault is None)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._client.aclose()
        await send({"type": "lifespan.shutdown.complete"})

    def _next_fault(self) -> str | None:
        self._num_asked += 1
        number, rest = divmod(self._num_asked, self._every)
        fault = FAULTS[number % len(FAULTS)] if rest == 0 else None
        self.told[fault or "passed"] += 1
        return fault

    async def _pass_on(self, scope: Scope, body: bytes, send: Send, *, is_whole: bool) -> None:
        request = self._client.build_request(scope["method"], scope["path"], content=body)
        response = await self._client.send(request)
        content = response.content
        headers = {"content-type": response.headers["content-type"]}
        if is_whole:
            await _reply(send, response.status_code, content, headers)
            return
        headers["content-length"] = str(len(content))
        await _start(send, response.status_code, headers)
        await send({"type": "http.response.body", "body": content[: len(content) // 2]})
        # It ends without the other half, and the server closes the connection.


async def _start(send: Send, status: int, headers: Mapping[str, str]) -> None:
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})


async def _reply(send: Send, status: int, body: bytes, headers: Mapping[str, str]) -> None:
    await _start(send, status, {**headers, "content-length": str(len(body))})
    await send({"type": "http.response.body", "body": body})


@contextmanager
def listening(app: object) -> Iterator[str]:
    """The URL of an ASGI app, for as long as the context lasts."""
    with bind(Address(port=0)) as listener:
        config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="on", ws="none")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(timeout=30)
            assert not thread.is_alive()
