"""The body of `POST /v1/responses`, and how it reads as a chat.

A response is a chat in other words: everything that draws and forms a reply is the chat's own.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Discriminator, Field, JsonValue, Tag, model_validator

from martlet.engine.params import MAX_LOGPROBS
from martlet.serve.body import model_of
from martlet.serve.schema.base import RequestModel, refused_field
from martlet.serve.schema.chat import ChatRequest
from martlet.serve.schema.sampling import SamplingFields

_KEEPS_NOTHING = "this server keeps no responses; send the whole conversation as input"
_TRUNCATION_TO_POLICY = {"auto": "drop-old-turns", "disabled": "error"}
_NO_SUCH_SETTING = "the models served here know no such setting; say it in the instructions"


class ContentPart(RequestModel):
    """A part of a message, or of what a function returned."""

    type: Literal["input_text", "output_text", "refusal"]
    text: str = ""
    refusal: str = ""
    annotations: list[JsonValue] | None = None
    """Taken and without effect, like the next: output that is sent back carries them."""
    logprobs: list[JsonValue] | None = None

    @model_validator(mode="before")
    @classmethod
    def _only_text(cls, given: object) -> object:
        kind = given.get("type") if isinstance(given, Mapping) else None
        if kind in ("input_image", "input_file", "input_audio"):
            raise refused_field(
                "type",
                f"a content part of type {kind!r} is not supported: the models served here read "
                "and write text",
            )
        return given


Content = str | list[ContentPart]


class MessageItem(RequestModel):
    """One turn of a conversation."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: Content
    id: str | None = None
    """Taken and without effect, like the next: output that is sent back carries them."""
    status: str | None = None
    phase: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _only_known_items(cls, given: object) -> object:
        kind = given.get("type") if isinstance(given, Mapping) else None
        if isinstance(kind, str) and kind != "message":
            raise refused_field(
                "type",
                f"an item of type {kind[:64]!r} is not supported; known: message, function_call, "
                "function_call_output",
            )
        return given


class CallItem(RequestModel):
    """A function that an earlier response called."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    id: str | None = None
    status: str | None = None


class CallOutputItem(RequestModel):
    """What a function returned."""

    type: Literal["function_call_output"]
    call_id: str
    output: Content
    id: str | None = None
    status: str | None = None


def _kind_of(given: object) -> str:
    kind = given.get("type") if isinstance(given, Mapping) else None
    return f"{kind} item" if kind in ("function_call", "function_call_output") else "message item"


# The tags are no identifiers, so that errors leave them out of the path to a field.
Item = Annotated[
    Annotated[MessageItem, Tag("message item")]
    | Annotated[CallItem, Tag("function_call item")]
    | Annotated[CallOutputItem, Tag("function_call_output item")],
    Discriminator(_kind_of),
]


class FunctionTool(RequestModel):
    """A function that the model may call."""

    type: Literal["function"]
    name: str
    description: str | None = None
    parameters: dict[str, JsonValue] | None = None
    strict: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _only_functions(cls, given: object) -> object:
        kind = given.get("type") if isinstance(given, Mapping) else None
        if isinstance(kind, str) and kind != "function":
            raise refused_field(
                "type", f"a tool of type {kind[:64]!r} is not supported: only functions are"
            )
        return given


class TextFormat(RequestModel):
    """The form of the reply's text."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    json_schema: dict[str, JsonValue] | None = None
    """Called `schema` in JSON, which is the name of a method here."""
    strict: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _has_its_schema(cls, given: object) -> object:
        if not isinstance(given, Mapping):
            return given
        has_schema = isinstance(given.get("schema"), Mapping)
        if has_schema != (given.get("type") == "json_schema"):
            raise refused_field("schema", "a schema goes with type 'json_schema', and only so")
        return {"json_schema" if name == "schema" else name: given[name] for name in given}

    def as_json(self) -> dict[str, object]:
        """The format as a response repeats it."""
        fields = self.model_dump(exclude_none=True)
        return {"schema" if name == "json_schema" else name: fields[name] for name in fields}


class TextOptions(RequestModel):
    """How the reply's text is to be."""

    REFUSED: ClassVar[Mapping[str, str]] = {"verbosity": _NO_SUCH_SETTING}

    format: TextFormat | None = None


class ResponsesRequest(SamplingFields):
    """A conversation to go on with, whole: nothing is kept between two requests."""

    REFUSED: ClassVar[Mapping[str, str]] = {
        "previous_response_id": _KEEPS_NOTHING,
        "conversation": _KEEPS_NOTHING,
        "prompt": "this server keeps no prompts; send instructions and input",
        "reasoning": _NO_SUCH_SETTING,
        "max_tool_calls": "no tool is run here; count what you run",
        "context_management": 'say truncation="auto", or shorten the input',
        "moderation": "this server judges no text",
        "prompt_cache_retention": "prompts stay in the cache as long as there is room",
        "prompt_cache_options": "prompts are shared block by block, with nothing to set",
        "n": "a response is one reply; ask again, or use /v1/chat/completions",
        "max_tokens": "it is called max_output_tokens here",
        "messages": "they are called input here",
        "response_format": "it is called text.format here",
    }

    input: str | Annotated[list[Item], Field(min_length=1)]
    instructions: str | None = None
    max_output_tokens: int | None = Field(default=None, ge=1)
    top_logprobs: int | None = Field(default=None, ge=0, le=MAX_LOGPROBS)
    include: list[Literal["message.output_text.logprobs"]] | None = None
    text: TextOptions | None = None
    tools: list[FunctionTool] | None = None
    tool_choice: str | dict[str, JsonValue] | None = None
    parallel_tool_calls: bool | None = None
    store: bool | None = None
    background: bool | None = None
    truncation: Literal["auto", "disabled"] | None = None
    """What the chat calls `context_policy`."""
    metadata: dict[str, str] | None = None
    service_tier: Literal["auto", "default"] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _only_what_is_done(cls, given: object) -> object:
        if not isinstance(given, Mapping):
            return given
        if given.get("store") is True:
            raise refused_field("store", f"store=true is not supported: {_KEEPS_NOTHING}")
        if given.get("background") is True:
            raise refused_field(
                "background", "background=true is not supported: use /v1/batches, or wait"
            )
        return given

    def as_chat(self) -> ChatRequest:
        """The same request to `/v1/chat/completions`.

        Raises:
            ParameterError: If the chat refuses it.
        """
        same = self.model_dump(include=set(SamplingFields.model_fields), exclude_none=True)
        has_scores = self.top_logprobs is not None or bool(self.include)
        fields: dict[str, object | None] = {
            **same,
            "messages": self._turns(),
            "max_completion_tokens": self.max_output_tokens,
            "logprobs": has_scores,
            "top_logprobs": self.top_logprobs,
            "context_policy": _TRUNCATION_TO_POLICY.get(self.truncation or ""),
            "response_format": self._response_format(),
            "tools": [_as_chat_tool(tool) for tool in self.tools or ()] or None,
            "tool_choice": _as_chat_choice(self.tool_choice),
            "parallel_tool_calls": self.parallel_tool_calls,
        }
        return model_of(ChatRequest, fields)

    def _turns(self) -> list[dict[str, object]]:
        turns: list[dict[str, object]] = []
        if self.instructions is not None:
            turns.append({"role": "system", "content": self.instructions})
        if isinstance(self.input, str):
            return [*turns, {"role": "user", "content": self.input}]
        for item in self.input:
            if not isinstance(item, CallItem):
                turns.append(_turn_of(item))
            elif turns and turns[-1]["role"] == "assistant":
                # What one turn of the model said and called is one message of a chat.
                turns[-1].setdefault("tool_calls", []).append(_call_of(item))  # type: ignore[attr-defined]
            else:
                turns.append({"role": "assistant", "tool_calls": [_call_of(item)]})
        return turns

    def _response_format(self) -> dict[str, object] | None:
        form = None if self.text is None else self.text.format
        if form is None:
            return None
        if form.json_schema is None:
            return {"type": form.type}
        named = {"name": form.name or "reply", "schema": form.json_schema, "strict": form.strict}
        return {"type": form.type, "json_schema": named}


def _turn_of(item: MessageItem | CallOutputItem) -> dict[str, object]:
    if isinstance(item, CallOutputItem):
        return {"role": "tool", "tool_call_id": item.call_id, "content": _text_of(item.output)}
    return {"role": item.role, "content": _text_of(item.content)}


def _call_of(item: CallItem) -> dict[str, object]:
    function = {"name": item.name, "arguments": item.arguments}
    return {"id": item.call_id, "type": "function", "function": function}


def _text_of(content: str | Sequence[ContentPart]) -> str:
    if isinstance(content, str):
        return content
    return "".join(part.text or part.refusal for part in content)


def _as_chat_tool(tool: FunctionTool) -> dict[str, object]:
    return {"type": "function", "function": tool.model_dump(exclude={"type"}, exclude_none=True)}


def _as_chat_choice(choice: object) -> object:
    match choice:
        case {"type": "function", "name": str(name), **others} if not others:
            return {"type": "function", "function": {"name": name}}
    return choice
