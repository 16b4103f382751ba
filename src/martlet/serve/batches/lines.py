"""The lines of a batch's input file: what each asks, or what is wrong with it."""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, JsonValue

from martlet.errors import InputError, MartletError, ParameterError
from martlet.serve.batches.record import Batch, LineError
from martlet.serve.body import model_of, parse
from martlet.serve.envelope import code_of
from martlet.serve.generation import Stamp, check_context
from martlet.serve.prepare import (
    CHAT_PATH,
    RESPONSES_PATH,
    TEXT_PATH,
    Prepared,
    prepare_chat,
    prepare_completion,
    prepare_response,
)
from martlet.serve.replies.common import Wording
from martlet.serve.schema.base import RequestModel
from martlet.serve.schema.chat import ChatRequest
from martlet.serve.schema.completion import CompletionRequest
from martlet.serve.schema.responses import ResponsesRequest
from martlet.serve.schema.sampling import SamplingFields
from martlet.serve.service import Service

Prepare = Callable[[Service, Stamp], Awaitable[Prepared[Wording]]]
"""Renders the prompts of a request."""

_MAX_NUM_ERRORS = 100
"""A file that is wrong throughout is told so often; more would help nobody."""
_NOT_IN_A_BATCH: Mapping[str, str] = {
    "stream": "a batch answers in a file",
    "stream_options": "a batch answers in a file",
    "timeout": "a batch has its completion_window",
}


class Envelope(RequestModel):
    """A line as it stands in the file."""

    custom_id: Annotated[str, Field(min_length=1, max_length=512)]
    method: Literal["POST"] = "POST"
    url: str
    body: dict[str, JsonValue]


@dataclass(frozen=True, kw_only=True)
class BatchLine:
    """A line that can be asked."""

    number: int
    """Counted from 1."""
    custom_id: str
    reply_id: str
    """Follows from the batch and the custom_id."""
    body: SamplingFields
    prepare: Prepare
    """Renders its prompts; raises a MartletError for what cannot be asked."""


@dataclass(kw_only=True)
class Findings:
    """What the check of an input file found."""

    num_lines: int = 0
    models: set[str] = field(default_factory=set)
    errors: list[LineError] = field(default_factory=list)
    """The first of them; the last entry says how many more there are."""


def read_lines(path: Path, *, max_line_bytes: int) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, with their numbers; one over the limit comes cut."""
    number = 0
    with path.open("rb") as file:
        while content := file.readline(max_line_bytes + 1):
            number += 1
            if content.strip():
                yield number, content
            while not content.endswith(b"\n") and (content := file.readline(max_line_bytes)):
                pass  # the rest of a line that is too long


def read_line(number: int, content: bytes, batch: Batch, *, max_line_bytes: int) -> BatchLine:
    """Reads a line of a batch's file.

    Raises:
        InputError: If it is too long, or no JSON.
        ParameterError: If a field is unknown, missing, out of its range or not for a batch.
    """
    if len(content) > max_line_bytes:
        raise InputError(f"the line is longer than the {max_line_bytes} bytes of a request")
    line = parse(Envelope, content, noun="line")
    if line.url != batch.endpoint:
        raise ParameterError(
            f"url must be the endpoint of the batch, {batch.endpoint}, not {line.url!r}",
            param="url",
        )
    body, prepare = _ENDPOINT_TO_READER[batch.endpoint](line.body)
    for field_name, reason in _NOT_IN_A_BATCH.items():
        if getattr(body, field_name):
            raise ParameterError(f"{field_name} is not for a batch: {reason}", param=field_name)
    name = f"{batch.id} {line.custom_id}".encode()
    return BatchLine(
        number=number,
        custom_id=line.custom_id,
        reply_id=blake2b(name, digest_size=16).hexdigest(),
        body=body,
        prepare=prepare,
    )


async def check_lines(path: Path, batch: Batch, service: Service) -> Findings:
    """Checks every line of a file in full, up to the rendered prompt, and draws nothing."""
    findings = Findings()
    custom_id_to_line: dict[str, int] = {}
    num_errors = 0
    limit = service.settings.max_body_bytes
    for number, content in read_lines(path, max_line_bytes=limit):
        findings.num_lines += 1
        try:
            line = read_line(number, content, batch, max_line_bytes=limit)
            first = custom_id_to_line.setdefault(line.custom_id, number)
            if first != number:
                raise ParameterError(
                    f"custom_id {line.custom_id!r} stands in line {first} already",
                    param="custom_id",
                )
            prepared = await line.prepare(service, Stamp(reply_id=line.reply_id))
            check_context(prepared.ask, service.catalog.max_context_tokens)
            findings.models.add(line.body.model)
        except MartletError as error:
            num_errors += 1
            if num_errors <= _MAX_NUM_ERRORS:
                findings.errors.append(error_of(error, line=number))
    if num_errors > _MAX_NUM_ERRORS:
        more = f"{num_errors - _MAX_NUM_ERRORS} more lines cannot be asked"
        findings.errors.append(LineError(line=None, message=more, code="input"))
    if findings.num_lines == 0:
        findings.errors.append(LineError(line=None, message="the file is empty", code="input"))
    return findings


def error_of(error: MartletError, *, line: int | None = None) -> LineError:
    """An error in the list of a batch."""
    param = getattr(error, "param", None)
    return LineError(line=line, message=str(error), code=code_of(error), param=param)


def _read_chat(fields: Mapping[str, object]) -> tuple[SamplingFields, Prepare]:
    body = model_of(ChatRequest, fields)
    return body, lambda service, stamp: prepare_chat(body, service, stamp=stamp)


def _read_completion(fields: Mapping[str, object]) -> tuple[SamplingFields, Prepare]:
    body = model_of(CompletionRequest, fields)
    return body, lambda service, stamp: prepare_completion(body, service, stamp=stamp)


def _read_response(fields: Mapping[str, object]) -> tuple[SamplingFields, Prepare]:
    body = model_of(ResponsesRequest, fields)
    return body, lambda service, stamp: prepare_response(body, service, stamp=stamp)


_Reader = Callable[[Mapping[str, object]], tuple[SamplingFields, Prepare]]
_ENDPOINT_TO_READER: Mapping[str, _Reader] = {
    CHAT_PATH: _read_chat,
    TEXT_PATH: _read_completion,
    RESPONSES_PATH: _read_response,
}
ENDPOINTS = tuple(_ENDPOINT_TO_READER)
"""Whose bodies the lines of a batch may hold."""
