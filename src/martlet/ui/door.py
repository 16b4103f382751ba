"""Asks for an API key before the page is shown, where the server wants one.

Everything below `/ui` is behind it, uploads included. The key is kept in a cookie that scripts
cannot read and other sites cannot send.
"""

from html import escape
from importlib.resources import files
from string import Template
from urllib.parse import parse_qs, quote

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from martlet.errors import AuthenticationError, BodyTooLargeError, MartletError
from martlet.ui.client import Client
from martlet.ui.languages import language_of, words_of
from martlet.ui.site import read_key

_MOST_BYTES = 8192
_DAYS_S = 30 * 86_400


class Door:
    """Middleware that lets nobody without a key into the page.

    Args:
        app: What is inside; requests for other paths go there as they are.
        client: Asks the server whether a key is known.
        path: Of the page.
        cookie: The name of the cookie.
    """

    def __init__(self, app: ASGIApp, client: Client, path: str, cookie: str) -> None:
        self._app = app
        self._client = client
        self._path = path
        self._cookie = cookie
        self._known: set[str] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(f"{self._path}/"):
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        response = await self._answer(request)
        await (response or self._app)(scope, receive, send)

    async def _answer(self, request: Request) -> Response | None:
        """What is said at the door; None for whoever may go in."""
        if request.url.path == f"{self._path}/key":
            return await self._try(request) if request.method == "POST" else _form(request)
        key = read_key(request.cookies, self._cookie)
        if key is not None and await self._is_known(key):
            return None
        return _form(request, status=401)

    async def _try(self, request: Request) -> Response:
        try:
            key = (await _posted(request)).get("key", [""])[0].strip()
            if not key or not await self._is_known(key):
                return _form(request, status=401, is_wrong=True)
        except MartletError as error:
            return Response(str(error), status_code=error.http_status)
        response = RedirectResponse(self._path, status_code=303)
        response.set_cookie(
            self._cookie,
            quote(key, safe=""),
            max_age=_DAYS_S,
            path=self._path,
            secure=request.url.scheme == "https",
            httponly=True,
            samesite="strict",
        )
        return response

    async def _is_known(self, key: str) -> bool:
        """Whether the server takes a key; it never forgets one that it took."""
        if key not in self._known:
            try:
                await self._client.get("/v1/models", key=key)
            except (AuthenticationError, UnicodeError):
                return False
            self._known.add(key)
        return True


async def _posted(request: Request) -> dict[str, list[str]]:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _MOST_BYTES:
            raise BodyTooLargeError(f"a key has at most {_MOST_BYTES} bytes")
    return parse_qs(body.decode("utf-8", "replace"))


def _form(request: Request, *, status: int = 200, is_wrong: bool = False) -> Response:
    words = words_of(language_of(request.headers.get("accept-language", "")))
    source = files("martlet.ui").joinpath("door.html").read_text(encoding="utf-8")
    page = Template(source).substitute(
        language=words["language"],
        title=escape(words["door_title"]),
        key=escape(words["door_key"]),
        enter=escape(words["door_enter"]),
        wrong=escape(words["door_unknown"]) if is_wrong else "",
    )
    return HTMLResponse(page, status_code=status, headers={"Cache-Control": "no-store"})
