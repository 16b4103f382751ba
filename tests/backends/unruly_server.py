"""A front before a real server that answers badly now and then, as busy servers do."""

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count

import httpx
import uvicorn
from starlette.types import Receive, Scope, Send

from martlet.serve.address import Address, bind

FAULTS = ("busy", "refusal", "half", "nonsense")
_HTML = b"<html>502 Bad Gateway</html>"


def in_turn(every: int) -> Iterator[str | None]:
    """Each kind of fault in turn, one in so many requests."""
    for number in count(1):
        turn, rest = divmod(number, every)
        yield FAULTS[turn % len(FAULTS)] if rest == 0 else None


class UnrulyFront:
    """An ASGI app that passes requests on, and replies to some with a fault.

    Args:
        url: The server behind it.
        faults: For each request in turn, `None` to pass it on; at their end, all pass.
        path_ending: Of the paths that meet them.
        is_anonymous: Whether `/v1/models` does not tell what kind of server it is.
    """

    def __init__(
        self,
        url: str,
        *,
        faults: Iterable[str | None] = (),
        path_ending: str = "completions",
        is_anonymous: bool = False,
    ) -> None:
        self.told: Counter[str] = Counter()
        self.asked: list[dict[str, object]] = []
        self._faults = iter(faults)
        self._path_ending = path_ending
        self._is_anonymous = is_anonymous
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
        fault = None
        if scope["path"].endswith(self._path_ending):
            self.asked.append(json.loads(body))
            fault = next(self._faults, None)
            self.told[fault or "passed"] += 1
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

    async def _pass_on(self, scope: Scope, body: bytes, send: Send, *, is_whole: bool) -> None:
        request = self._client.build_request(scope["method"], scope["path"], content=body)
        response = await self._client.send(request)
        content = response.content
        if self._is_anonymous and scope["path"] == "/v1/models":
            content = b'{"data": [{"id": "demo", "owned_by": "someone"}]}'
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
def listening(app: object, *, port: int = 0) -> Iterator[str]:
    """The URL of an ASGI app, for as long as the context lasts."""
    with bind(Address(port=port)) as listener:
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
