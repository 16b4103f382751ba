"""`POST /v1/chat/completions`."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from martlet.serve.answer import answer
from martlet.serve.body import json_body, json_request
from martlet.serve.prepare import CHAT_PATH, prepare_chat
from martlet.serve.schema.chat import ChatRequest
from martlet.serve.service import ServiceDep

router = APIRouter()


@router.post(CHAT_PATH, openapi_extra=json_request(ChatRequest))
async def complete_chat(
    request: Request,
    service: ServiceDep,
    body: Annotated[ChatRequest, Depends(json_body(ChatRequest))],
) -> Response:
    """Goes on with a conversation."""
    prepared = await prepare_chat(body, service)
    return await answer(request, body, prepared.ask, prepared.writer)
