"""Errors as OpenAI's clients expect them: `{"error": {message, type, param, code}}`."""

import re
from collections.abc import Mapping

from martlet.errors import (
    AuthenticationError,
    BusyError,
    MartletError,
    PromptTooLongError,
)

_STATUS_TO_TYPE: Mapping[int, str] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
_KIND_TO_CODE: Mapping[type[MartletError], str] = {
    PromptTooLongError: "context_length_exceeded",
    AuthenticationError: "invalid_api_key",
}

ENVELOPE_SCHEMA = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
"""The JSON Schema of what `envelope` makes."""


def envelope_of(error: MartletError) -> dict[str, object]:
    """The body of a reply that reports an error."""
    param = getattr(error, "param", None)
    return envelope(str(error), status=error.http_status, code=code_of(error), param=param)


def code_of(error: MartletError) -> str:
    """A word for the kind of an error, which programs may look at."""
    return _KIND_TO_CODE.get(type(error)) or _snake(type(error).__name__.removesuffix("Error"))


def envelope(
    message: str, *, status: int, code: str | None = None, param: str | None = None
) -> dict[str, object]:
    """The body of a reply that reports an error, from its parts."""
    fallback = "server_error" if status >= 500 else "invalid_request_error"
    kind = _STATUS_TO_TYPE.get(status, fallback)
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def headers_of(error: MartletError) -> dict[str, str]:
    """What an error says in the headers of its reply."""
    if isinstance(error, BusyError):
        return {"Retry-After": str(error.retry_after)}
    if isinstance(error, AuthenticationError):
        return {"WWW-Authenticate": "Bearer"}
    return {}


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
