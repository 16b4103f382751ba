"""The body of a request: bytes within limits, JSON without traps, a model of ours.

JSON is read whatever the content type says, because `curl -d` names another; a browser's page is
held to `application/json`, which it may not send to a foreign server without asking first.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from fastapi import Request
from pydantic import ValidationError
from pydantic_core import from_json
from starlette.requests import ClientDisconnect

from martlet.errors import BodyTooLargeError, ForbiddenError, InputError, Interrupted
from martlet.serve.schema.base import RequestModel
from martlet.serve.schema.explain import explain
from martlet.serve.service import service_of
from martlet.serve.settings import MIB

_Model = TypeVar("_Model", bound=RequestModel)
_NUM_LIMITS_READ = 4
"""A client that sends too much sees the refusal only if its body is read; up to this many times
the limit is, and thrown away."""


def json_body(kind: type[_Model]) -> Callable[[Request], Awaitable[_Model]]:
    """A dependency that reads the body of a request as a model.

    Raises (when it is used):
        BodyTooLargeError: If the body is over the server's limit.
        ForbiddenError: If a web page sends it as something else than JSON.
        InputError: If it is not JSON, or too deep, or holds what is no number or no character.
        ParameterError: If a field is unknown, missing, not supported or out of its range.
    """

    async def read(request: Request) -> _Model:
        _check_sender(request)
        body = await read_body(request, max_bytes=service_of(request).settings.max_body_bytes)
        return parse(kind, body)

    return read


def json_request(kind: type[RequestModel]) -> dict[str, object]:
    """What the server's OpenAPI document says of a body that `json_body` reads."""
    schema = kind.model_json_schema(ref_template="#/components/schemas/{model}")
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def parse(kind: type[_Model], body: bytes, *, noun: str = "body") -> _Model:
    """Reads a model from JSON; raises as `json_body` does.

    Args:
        noun: What errors call the bytes.
    """
    try:
        fields = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise InputError(f"the {noun} is not valid JSON: {_in_words(str(error))}") from error
    if not isinstance(fields, dict):
        raise InputError(f"the {noun} must be a JSON object, not {type(fields).__name__}")
    return model_of(kind, fields)


def model_of(kind: type[_Model], fields: Mapping[str, object]) -> _Model:
    """Makes a model of what was read from JSON.

    Raises:
        ParameterError: If a field is unknown, missing, not supported or out of its range.
    """
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise explain(error) from error


async def read_body(request: Request, *, max_bytes: int) -> bytes:
    """The body of a request, refused once it is over the limit.

    Raises:
        BodyTooLargeError: If it is.
        Interrupted: If the client leaves before its end.
    """
    chunks: list[bytes] = []
    num_bytes = 0
    try:
        async for chunk in request.stream():
            num_bytes += len(chunk)
            if num_bytes <= max_bytes:
                chunks.append(chunk)
            elif num_bytes > _NUM_LIMITS_READ * max_bytes:
                break
    except ClientDisconnect as error:
        raise Interrupted("the client left before its request was whole") from error
    if num_bytes > max_bytes:
        raise BodyTooLargeError(
            f"the body is larger than {max_bytes / MIB:g} MiB; send less, or start the server "
            "with a larger --max-body-mb"
        )
    return b"".join(chunks)


def _check_sender(request: Request) -> None:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if "origin" in request.headers and kind != "application/json":
        raise ForbiddenError(
            "a web page must send 'Content-Type: application/json'; with another type, any page "
            "could use this server in its reader's name"
        )


def _in_words(fault: str) -> str:
    if "hex escape" in fault or "surrogate" in fault:
        return f"{fault} (half of a surrogate pair is no character)"
    if "recursion limit" in fault:
        return f"{fault} (at most 200 levels)"
    if "unicode code point" in fault:
        return f"{fault} (it must be UTF-8)"
    return fault
