"""A server with vLLM's answers to the questions of the doctor, by transformers' own tokenizer."""

from pathlib import Path
from typing import Any

from fastapi import Body, FastAPI
from transformers import AutoTokenizer


def vllm_shaped(
    folder: Path, *, max_lora_rank: int | None = None, adds_bos_to_chats: bool = False
) -> FastAPI:
    """The app.

    Args:
        folder: The tokenizer's.
        max_lora_rank: What `/server_info` tells, which is there in vLLM's development mode alone.
        adds_bos_to_chats: Whether a rendered conversation gets the BOS token once more, as programs
            do that tokenize it like any text.
    """
    app = FastAPI()
    tokenizer = AutoTokenizer.from_pretrained(folder)

    @app.get("/v1/models")
    def models() -> dict[str, object]:
        card = {"id": "base", "owned_by": "vllm", "root": "/models/base", "parent": None}
        return {"object": "list", "data": [{**card, "max_model_len": 512}]}

    @app.post("/tokenize")
    def tokenize(asked: dict[str, Any] = Body()) -> dict[str, object]:  # noqa: B008
        if "prompt" in asked:
            return {"tokens": tokenizer.encode(asked["prompt"])}
        text = tokenizer.apply_chat_template(
            asked["messages"], tokenize=False, add_generation_prompt=True
        )
        ids = tokenizer.encode(text, add_special_tokens=False)
        return {"tokens": [tokenizer.bos_token_id, *ids] if adds_bos_to_chats else ids}

    if max_lora_rank is not None:

        @app.get("/server_info")
        def server_info(config_format: str) -> dict[str, object]:
            assert config_format == "json"
            return {"vllm_config": {"lora_config": {"max_lora_rank": max_lora_rank}}}

    return app
