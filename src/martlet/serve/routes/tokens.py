"""`POST /tokenize` and `POST /detokenize`, in vLLM's shapes."""

from typing import Annotated

from fastapi import APIRouter, Depends

from martlet.backends.render import check_vocabulary
from martlet.serve.body import json_body, json_request
from martlet.serve.replies.common import token_text
from martlet.serve.schema.tokens import DetokenizeRequest, TokenizeRequest
from martlet.serve.service import ServiceDep
from martlet.text.tokenizer import Tokenizer

router = APIRouter()


@router.post("/tokenize", openapi_extra=json_request(TokenizeRequest))
async def tokenize(
    service: ServiceDep, body: Annotated[TokenizeRequest, Depends(json_body(TokenizeRequest))]
) -> dict[str, object]:
    """The token ids of a text, or of a conversation under the chat template."""
    if body.model is not None:
        service.catalog.resolve(body.model)
    token_ids = await service.renderer.with_tokenizer(lambda tokenizer: _encode(tokenizer, body))
    tokenizer = service.engine.backend.tokenizer
    spelled = [token_text(tokenizer, token_id) for token_id in token_ids]
    return {
        "count": len(token_ids),
        "max_model_len": service.catalog.max_context_tokens,
        "tokens": list(token_ids),
        "token_strs": spelled if body.return_token_strs else None,
    }


@router.post("/detokenize", openapi_extra=json_request(DetokenizeRequest))
async def detokenize(
    service: ServiceDep, body: Annotated[DetokenizeRequest, Depends(json_body(DetokenizeRequest))]
) -> dict[str, str]:
    """The text of token ids, special tokens included."""
    if body.model is not None:
        service.catalog.resolve(body.model)
    check_vocabulary(body.tokens, vocab_size=service.engine.backend.tokenizer.num_tokens)
    text = await service.renderer.with_tokenizer(
        lambda tokenizer: tokenizer.decode(body.tokens, skip_special_tokens=False)
    )
    return {"prompt": text}


def _encode(tokenizer: Tokenizer, body: TokenizeRequest) -> tuple[int, ...]:
    if body.messages is not None:
        turns = [message.as_turn() for message in body.messages]
        generates = body.add_generation_prompt is not False
        return tokenizer.render(turns, add_generation_prompt=generates)[1]
    has_special = body.add_special_tokens is not False
    return tokenizer.encode(body.prompt or "", add_special_tokens=has_special)
