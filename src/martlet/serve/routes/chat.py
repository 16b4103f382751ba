"""`POST /v1/chat/completions`."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from martlet.backends.base import Prompt
from martlet.serve.answer import answer
from martlet.serve.body import json_body, json_request
from martlet.serve.generation import Ask
from martlet.serve.parameters import effective_params
from martlet.serve.replies.chat import ChatReply
from martlet.serve.schema.chat import ChatRequest
from martlet.serve.service import ServiceDep
from martlet.serve.structured import refuse_structure

router = APIRouter()


@router.post("/v1/chat/completions", openapi_extra=json_request(ChatRequest))
async def complete_chat(
    request: Request,
    service: ServiceDep,
    body: Annotated[ChatRequest, Depends(json_body(ChatRequest))],
) -> Response:
    """Goes on with a conversation."""
    adapter = service.catalog.resolve(body.model)
    refuse_structure(body)
    effective = effective_params(body.sampling_values(), service.engine.backend.default_params)
    service.engine.check_room(effective.params.n)
    prompt = await service.renderer.render(Prompt(messages=body.turns()))
    ask = Ask(
        model=body.model,
        adapter=adapter,
        prompts=[prompt],
        effective=effective,
        timeout_s=body.timeout,
    )
    tokenizer = service.engine.backend.tokenizer
    writer = ChatReply(ask, service.catalog, tokenizer, streams=body.stream)
    return await answer(request, body, ask, writer)
