"""Replies of `/v1/responses`: the items of a chat's reply, whole or event by event."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from itertools import count
from typing import Any, cast

from martlet.backends.base import SampleOutput
from martlet.errors import MartletError
from martlet.serve.event_stream import PING, encode_event
from martlet.serve.generation import Ask, Generation
from martlet.serve.replies.common import Json, ReplyWriter, note_of, usage_of
from martlet.serve.replies.items import OutputItems
from martlet.serve.schema.responses import ResponsesRequest


class ResponseReply:
    """Puts a chat's reply as a response.

    Args:
        request: What was asked; a response repeats it.
        ask: What is drawn for it.
        chat: Words the same reply as a chat.
    """

    def __init__(self, request: ResponsesRequest, ask: Ask, chat: ReplyWriter) -> None:
        self._ask = ask
        self._chat = chat
        self._head = _head_of(request, ask)

    def body(self, outputs: Sequence[SampleOutput]) -> dict[str, object]:
        """The whole response."""
        choice = _choice_of(self._chat.body(outputs))
        items = OutputItems(self._ask.stamp.reply_id)
        message = choice["message"]
        items.say(message["content"] or "", _scores_of(choice))
        items.call([{"index": k, **call} for k, call in enumerate(message.get("tool_calls") or ())])
        return self._ended(items, outputs)

    async def events(
        self, generation: Generation, *, heartbeat_s: float, explanation: Json | None = None
    ) -> AsyncGenerator[bytes]:
        """The events of a stream; what one step of the engine made goes out together.

        Args:
            generation: The sample; whoever sends the events closes it.
            heartbeat_s: Silence after which a comment is sent.
            explanation: Goes with the first event.
        """
        numbers = count()

        def encode(event: Json) -> bytes:
            numbered = {**event, "sequence_number": next(numbers)}
            return encode_event(numbered, event=str(event["type"]))

        begun = self._response("in_progress", [])
        explained = begun if explanation is None else {**begun, "martlet": explanation}
        yield encode({"type": "response.created", "response": explained})
        yield encode({"type": "response.in_progress", "response": begun})
        self._chat.opening(0)
        items = OutputItems(self._ask.stamp.reply_id)
        try:
            while not generation.is_complete:
                news = await generation.news(timeout_s=heartbeat_s)
                chunks = [
                    self._chat.ending(0, event)
                    if isinstance(event, SampleOutput)
                    else self._chat.piece(0, event)
                    for _, event in news
                ]
                events = [event for chunk in chunks if chunk for event in _grow(items, chunk)]
                if events:
                    yield b"".join(map(encode, events))
                elif not news:
                    yield PING
        except MartletError as error:
            failed = self._response("failed", items.finished, error=error)
            yield encode({"type": "response.failed", "response": failed})
            return
        for event in items.end(is_cut=_is_cut(generation.finished)):
            yield encode(event)
        ended = self._ended(items, generation.finished)
        yield encode({"type": f"response.{ended['status']}", "response": ended})

    def _ended(self, items: OutputItems, outputs: Sequence[SampleOutput]) -> dict[str, object]:
        is_cut = _is_cut(outputs)
        items.end(is_cut=is_cut)
        status = "incomplete" if is_cut else "completed"
        response = self._response(status, items.finished)
        return {**response, "usage": _usage_of(outputs)}

    def _response(
        self, status: str, output: Sequence[Json], *, error: MartletError | None = None
    ) -> dict[str, object]:
        reason = {"reason": "max_output_tokens"} if status == "incomplete" else None
        fault = None if error is None else {"code": "server_error", "message": str(error)}
        return {
            **self._head,
            "status": status,
            "error": fault,
            "incomplete_details": reason,
            "output": list(output),
        }


def _grow(items: OutputItems, chunk: Mapping[str, object]) -> list[Json]:
    """The events of a chat's chunk."""
    choice = _choice_of(chunk)
    delta = choice["delta"]
    said = items.say(delta.get("content") or "", _scores_of(choice))
    return [*said, *items.call(delta.get("tool_calls") or ())]


def _choice_of(chat: Json) -> Mapping[str, Any]:
    """The one choice of a chat's reply, or of a chunk."""
    (choice,) = cast(Sequence[Mapping[str, Any]], chat["choices"])
    return choice


def _scores_of(choice: Mapping[str, Any]) -> Sequence[Json]:
    return (choice.get("logprobs") or {}).get("content") or ()


def _is_cut(outputs: Sequence[SampleOutput]) -> bool:
    return outputs[0].finish_reason == "length"


def _usage_of(outputs: Sequence[SampleOutput]) -> Json:
    usage = usage_of(outputs, n=1)
    num_cached = outputs[0].num_cached_tokens
    return {
        "input_tokens": usage["prompt_tokens"],
        # What is written to the cache costs nobody anything, so nothing is counted.
        "input_tokens_details": {"cached_tokens": num_cached, "cache_write_tokens": 0},
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage["total_tokens"],
    }


def _head_of(request: ResponsesRequest, ask: Ask) -> dict[str, object]:
    params = ask.effective.params
    form = None if request.text is None else request.text.format
    text = {"type": "text"} if form is None else form.as_json()
    return {
        "id": f"resp_{ask.stamp.reply_id}",
        "object": "response",
        "created_at": ask.stamp.created,
        "model": ask.model,
        "background": False,
        "instructions": request.instructions,
        "max_output_tokens": params.max_tokens,
        "metadata": request.metadata or {},
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "previous_response_id": None,
        "store": False,
        "temperature": params.temperature,
        "text": {"format": text},
        "tool_choice": request.tool_choice or "auto",
        "tools": [tool.model_dump() for tool in request.tools or ()],
        "top_logprobs": request.top_logprobs or 0,
        "top_p": params.top_p,
        "truncation": "auto" if note_of(ask) else "disabled",
    }
