"""`POST /v1/completions`."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from martlet.serve.answer import answer
from martlet.serve.body import json_body, json_request
from martlet.serve.prepare import TEXT_PATH, prepare_completion
from martlet.serve.schema.completion import CompletionRequest
from martlet.serve.service import ServiceDep

router = APIRouter()


@router.post(TEXT_PATH, openapi_extra=json_request(CompletionRequest))
async def complete_text(
    request: Request,
    service: ServiceDep,
    body: Annotated[CompletionRequest, Depends(json_body(CompletionRequest))],
) -> Response:
    """Goes on with texts; no chat template is applied."""
    prepared = await prepare_completion(body, service)
    return await answer(request, body, prepared.ask, prepared.writer)
