"""The body of `POST /v1/chat/completions`."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, JsonValue, model_validator

from martlet.engine.params import MAX_LOGPROBS
from martlet.errors import ParameterError
from martlet.serve.schema.base import RequestModel, refused_field
from martlet.serve.schema.sampling import SamplingFields
from martlet.text.conversation import ContextPolicy
from martlet.text.messages import Message
from martlet.text.structured import StructuredOutput

_NO_MODEL_FOR_IT = "the models served here read and write text"


class TextPart(RequestModel):
    """A part of a message's content."""

    type: Literal["text", "input_text", "output_text", "refusal"]
    text: str = ""
    refusal: str = ""

    @model_validator(mode="before")
    @classmethod
    def _only_text(cls, given: object) -> object:
        kind = given.get("type") if isinstance(given, Mapping) else None
        if kind in ("image_url", "input_image", "input_audio", "file", "input_file"):
            raise refused_field(
                "type", f"a content part of type {kind!r} is not supported: {_NO_MODEL_FOR_IT}"
            )
        return given


class FunctionCall(RequestModel):
    """What an assistant's earlier turn called."""

    name: str
    arguments: str


class ToolCall(RequestModel):
    """A call of an assistant's earlier turn."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall
    index: int | None = None
    """Taken and without effect: a call that was collected from a stream carries it."""


class ChatMessage(RequestModel):
    """One turn of a conversation."""

    REFUSED: ClassVar[Mapping[str, str]] = {
        "audio": _NO_MODEL_FOR_IT,
        "function_call": "it was replaced by tool_calls",
    }

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    """Taken and without effect, like the next: a reply that is sent back carries them."""
    annotations: list[JsonValue] | None = None

    def as_turn(self) -> Message:
        """The turn as a chat template reads it.

        A developer's message is a system message: that is its older name, which templates know.
        """
        turn = self.model_dump(exclude_none=True, exclude={"refusal", "annotations"})
        if self.role == "developer":
            turn["role"] = "system"
        if isinstance(self.content, list):
            turn["content"] = "".join(part.text or part.refusal for part in self.content)
        return turn


class StructuredOutputs(RequestModel):
    """The form of a reply beyond what `response_format` can say; exactly one of the fields."""

    REFUSED: ClassVar[Mapping[str, str]] = {
        "json": "call it json_schema",
        "grammar": "give a json_schema, a regex or a choice",
    }

    regex: str | None = Field(default=None, max_length=16_384)
    choice: Annotated[list[str], Field(min_length=1, max_length=4096)] | None = None
    json_object: bool | None = None
    json_schema: dict[str, JsonValue] | None = None

    def as_structured(self) -> StructuredOutput:
        """The form as sampling parameters carry it.

        Raises:
            ParameterError: If none or several are given.
        """
        return StructuredOutput.from_mapping(self.model_dump(exclude_none=True))


class ChatRequest(SamplingFields):
    """A conversation to go on with."""

    REFUSED: ClassVar[Mapping[str, str]] = {
        "audio": _NO_MODEL_FOR_IT,
        "prediction": "replies are not drawn from a guess; leave it out",
        "web_search_options": "this server searches nothing",
        "functions": "it was replaced by tools",
        "function_call": "it was replaced by tool_choice",
        "verbosity": "the models served here know no such setting; say it in the system message",
        "reasoning_effort": "the models served here know no such setting; say it in the system "
        "message",
        "moderation": "this server judges no text",
        "prompt_cache_retention": "prompts stay in the cache as long as there is room",
        "prompt_cache_options": "prompts are shared block by block, with nothing to set",
        "best_of": "ask for n samples and choose",
        "guided_json": "use structured_outputs",
        "guided_regex": "use structured_outputs",
        "guided_choice": "use structured_outputs",
    }

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: int | None = None
    logprobs: bool = False
    top_logprobs: int | None = Field(default=None, ge=0, le=MAX_LOGPROBS)
    candidates: int | None = Field(default=None, ge=1, le=MAX_LOGPROBS)
    """How many rivals of each drawn token to tell of, with what each step before the draw made of
    them: the logit, after penalties, after the temperature, after the filters."""
    response_format: dict[str, JsonValue] | None = None
    structured_outputs: StructuredOutputs | None = None
    """For what OpenAI's own field cannot say: a regular expression, or a choice of texts."""
    tools: list[dict[str, JsonValue]] | None = None
    tool_choice: str | dict[str, JsonValue] | None = None
    parallel_tool_calls: bool | None = None
    context_policy: ContextPolicy | None = None
    """What becomes of a conversation that leaves no room for the reply; None takes the server's."""
    modalities: list[Literal["text"]] | None = None
    store: Literal[False] | None = None
    metadata: dict[str, str] | None = None
    service_tier: Literal["auto", "default"] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    def sampling_values(self) -> dict[str, object]:
        """See `SamplingFields.sampling_values`."""
        values = super().sampling_values()
        if self.max_completion_tokens is not None:
            if self.max_tokens is not None:
                raise ParameterError(
                    "give max_completion_tokens or max_tokens, which is its older name, not both",
                    param="max_tokens",
                )
            values["max_tokens"] = self.max_completion_tokens
        if self.top_logprobs is not None and not self.logprobs:
            raise ParameterError("top_logprobs is only for logprobs=true", param="top_logprobs")
        if self.logprobs:
            values["logprobs"] = self.top_logprobs or 0
        return values

    def turns(self) -> list[Message]:
        """The conversation as a chat template reads it."""
        return [message.as_turn() for message in self.messages]
