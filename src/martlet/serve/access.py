"""One log line and one count for each request, around the whole app."""

import logging
from collections.abc import MutableMapping
from time import perf_counter
from typing import Any
from uuid import uuid4

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from martlet.serve.meters import Meters

logger = logging.getLogger("martlet.serve.access")

_QUIET = ("/health", "/ready", "/metrics")
"""Asked every few seconds by machines: counted, and logged only when they fail."""
_PAGE = "/ui/"
"""Below it are the many parts of the page; what it asks for is logged as anybody's request."""
_CLIENT_LEFT = 499


class AccessLog:
    """Middleware that names, times, counts and logs requests.

    Args:
        app: What answers.
        meters: Count the requests.
    """

    def __init__(self, app: ASGIApp, meters: Meters) -> None:
        self._app = app
        self._meters = meters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = perf_counter(), _CLIENT_LEFT
        request_id = f"req-{uuid4().hex}"

        async def send_noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                named = (b"x-request-id", request_id.encode())
                message["headers"] = [*message["headers"], named]
            await send(message)

        try:
            await self._app(scope, receive, send_noted)
        except Exception:
            status = 500
            raise
        finally:
            self._meters.note_request(_endpoint(scope), status)
            _log(scope, status, perf_counter() - start)


def _endpoint(scope: MutableMapping[str, Any]) -> str:
    """The route's path with its parameters unfilled: few values, whatever clients ask."""
    route = scope.get("route")
    return str(getattr(route, "path", "other"))


def _log(scope: MutableMapping[str, Any], status: int, seconds: float) -> None:
    is_quiet = scope["path"] in _QUIET or scope["path"].startswith(_PAGE)
    if is_quiet and status < 400:
        return
    tokens = scope.get("state", {}).get("tokens", "0+0")
    # A path may hold any character, line ends included.
    path = scope["path"].encode("unicode_escape").decode()
    logger.info("%s %s %d %s tokens %.3f s", scope["method"], path, status, tokens, seconds)
