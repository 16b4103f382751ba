"""`POST /v1/responses`, stateless."""

from collections.abc import AsyncGenerator
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from martlet.serve.answer import Explanation, respond
from martlet.serve.body import json_body, json_request
from martlet.serve.generation import Generation
from martlet.serve.prepare import RESPONSES_PATH, prepare_response
from martlet.serve.schema.responses import ResponsesRequest
from martlet.serve.service import ServiceDep

router = APIRouter()


@router.post(RESPONSES_PATH, openapi_extra=json_request(ResponsesRequest))
async def create_response(
    request: Request,
    service: ServiceDep,
    body: Annotated[ResponsesRequest, Depends(json_body(ResponsesRequest))],
) -> Response:
    """Goes on with a conversation, in items and events."""
    prepared = await prepare_response(body, service)

    def events(generation: Generation, explanation: Explanation) -> AsyncGenerator[bytes]:
        heartbeat_s = service.settings.heartbeat_s
        return prepared.writer.events(generation, heartbeat_s=heartbeat_s, explanation=explanation)

    events_or_none = events if body.stream else None
    return await respond(request, prepared.ask, word=prepared.writer.body, events=events_or_none)
