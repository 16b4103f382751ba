"""What a server's refusal means: for a row, for the whole run, or only for now."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Literal

import httpx

from martlet.backends.openai.address import ServerAddress
from martlet.errors import (
    AuthenticationError,
    ForbiddenError,
    MartletError,
    NotFoundError,
)

MAX_NUM_ATTEMPTS = 8
"""Of one request, not counting what is nobody's fault but the server's."""
_FIRST_BACKOFF_S = 0.5
_LONGEST_BACKOFF_S = 30.0
_LONGEST_MESSAGE = 500
_USED_UP = ("insufficient_quota", "billing_hard_limit_reached")
"""Codes of a 429 that no waiting mends."""

FaultKind = Literal["throttled", "unreachable", "broken"]


class RequestRefusedError(Exception):
    """The server will never answer this request: the row's own fault."""


class TransientError(Exception):
    """Another try may do.

    Args:
        message: What happened.
        kind: `throttled` asks to slow down; `unreachable` is nobody's fault but the server's;
            `broken` is a failure of this one request.
        retry_after_s: What the server asks to wait.
    """

    def __init__(
        self, message: str, *, kind: FaultKind, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """The body of an error, as OpenAI words it."""

    message: str
    code: str

    @classmethod
    def read(cls, status: int, body: bytes) -> "Refusal":
        """Takes the words out of a body, whatever it is."""
        try:
            given = json.loads(body)
        except ValueError:
            given = None
        match given:
            case {"error": {"message": str(message), **rest}}:
                code = str(rest.get("code") or rest.get("type") or "")
            case {"error": str(message)} | {"message": str(message)}:
                code = ""
            case {"detail": detail}:
                message, code = str(detail), ""
            case _:
                message, code = body.decode("utf-8", errors="replace").strip(), ""
        return cls(message=message[:_LONGEST_MESSAGE] or f"status {status}", code=code)


def run_error_of(status: int, body: bytes, *, address: ServerAddress) -> MartletError | None:
    """The error that ends a whole run, since every row would meet it; None for any other."""
    said = Refusal.read(status, body)
    where = f"{address.base_url} answers {status}"
    if status == 401:
        return AuthenticationError(
            f"{where}: {said.message}; put a key that it knows into OPENAI_API_KEY"
        )
    if status == 403:
        return ForbiddenError(f"{where}: {said.message}")
    if status == 404:
        return NotFoundError(
            f"{where}: {said.message}; check the URL, which mostly ends with /v1, and the name"
        )
    if status == 429 and said.code in _USED_UP:
        return ForbiddenError(f"{where}: {said.message}")
    return None


def row_error_of(
    status: int, headers: Mapping[str, str], body: bytes, *, now: float
) -> RequestRefusedError | TransientError:
    """What a refusal that does not end the run means for its row.

    Args:
        status: 400 or more.
        headers: By names in lower case.
        body: What the server says.
        now: Seconds since 1970, for a `Retry-After` that is a date.
    """
    said = Refusal.read(status, body)
    message = f"{said.message} (status {status})"
    wait = retry_after_s(headers, now=now)
    if status in (429, 503):
        kind: FaultKind = "throttled" if status == 429 or wait is not None else "broken"
        return TransientError(message, kind=kind, retry_after_s=wait)
    if status in (408, 409, 425) or (status >= 500 and status != 501):
        return TransientError(message, kind="broken", retry_after_s=wait)
    return RequestRefusedError(message)


def retry_after_s(headers: Mapping[str, str], *, now: float) -> float | None:
    """Seconds to wait, by `Retry-After` (RFC 9110, 10.2.3) or OpenAI's finer `retry-after-ms`."""
    milliseconds, given = headers.get("retry-after-ms"), headers.get("retry-after")
    try:
        if milliseconds is not None:
            return max(0.0, float(milliseconds) / 1000)
        if given is None:
            return None
        return max(0.0, float(given))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(given or "").timestamp() - now)
    except ValueError:
        return None


def backoff_s(num_failures: int, part: float) -> float:
    """Seconds before the next try.

    Args:
        num_failures: From 1 on.
        part: A draw from 0 to 1, the full jitter.
    """
    exponent = min(num_failures - 1, 16)
    return part * float(min(_LONGEST_BACKOFF_S, _FIRST_BACKOFF_S * 2**exponent))


@contextmanager
def faults_named() -> Iterator[None]:
    """Names what can go wrong on the way as a `TransientError`."""
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise TransientError(f"no connection: {error}", kind="unreachable") from error
    except httpx.TimeoutException as error:
        raise TransientError("no answer in time", kind="broken") from error
    except httpx.HTTPError as error:
        broke = f"the connection broke: {error or type(error).__name__}"
        raise TransientError(broke, kind="broken") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TransientError(f"the server answers nonsense: {error}", kind="broken") from error
