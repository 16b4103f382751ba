"""The bodies of `POST /tokenize` and `POST /detokenize`, as vLLM has them."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from martlet.serve.schema.base import RequestModel, refused_field
from martlet.serve.schema.chat import ChatMessage


class TokenizeRequest(RequestModel):
    """A text, or a conversation, to turn into token ids."""

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1)] | None = None
    add_special_tokens: bool | None = None
    """Whether a text begins with the BOS token, where the model has one; yes unless told."""
    add_generation_prompt: bool | None = None
    """Whether a conversation ends with the opening of the assistant's turn; yes unless told."""
    return_token_strs: bool = False

    @model_validator(mode="after")
    def _asks_once(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise refused_field("prompt", "give prompt or messages, and not both")
        if self.messages is None and self.add_generation_prompt is not None:
            raise refused_field(
                "add_generation_prompt", "add_generation_prompt is only for messages"
            )
        if self.prompt is None and self.add_special_tokens is not None:
            raise refused_field(
                "add_special_tokens",
                "add_special_tokens is only for a prompt; a chat template writes its own",
            )
        return self


class DetokenizeRequest(RequestModel):
    """Token ids to turn into text."""

    model: str | None = None
    tokens: list[int]
