"""`POST /v1/completions`."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from martlet.backends.base import RenderedPrompt
from martlet.serve.answer import answer
from martlet.serve.body import json_body, json_request
from martlet.serve.generation import Ask
from martlet.serve.parameters import effective_params
from martlet.serve.replies.completion import CompletionReply
from martlet.serve.schema.completion import DEFAULTS, CompletionRequest
from martlet.serve.service import Service, ServiceDep

PATH = "/v1/completions"
router = APIRouter()


@router.post(PATH, openapi_extra=json_request(CompletionRequest))
async def complete_text(
    request: Request,
    service: ServiceDep,
    body: Annotated[CompletionRequest, Depends(json_body(CompletionRequest))],
) -> Response:
    """Goes on with texts; no chat template is applied."""
    backend = service.engine.backend
    adapter = service.catalog.resolve(body.model)
    effective = effective_params(
        body.sampling_values(), backend.default_params, endpoint=PATH, endpoint_defaults=DEFAULTS
    )
    prompts = body.prompts()
    service.engine.check_room(len(prompts) * effective.params.n)
    rendered = [await service.renderer.render(prompt) for prompt in prompts]
    ask = Ask(
        model=body.model,
        adapter=adapter,
        prompts=rendered,
        effective=effective,
        timeout_s=body.timeout,
    )
    echoes = [await _text_of(service, prompt) for prompt in rendered] if body.echo else None
    writer = CompletionReply(ask, service.catalog, backend.tokenizer, echoes=echoes)
    return await answer(request, body, ask, writer)


async def _text_of(service: Service, prompt: RenderedPrompt) -> str:
    if prompt.text:
        return prompt.text
    return await service.renderer.with_tokenizer(
        lambda tokenizer: tokenizer.decode(prompt.token_ids, skip_special_tokens=False)
    )
