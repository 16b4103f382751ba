"""Replies of `/v1/chat/completions`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from martlet.backends.base import SampleDelta, SampleOutput, TokenLogprob
from martlet.serve.catalog import Catalog
from martlet.serve.generation import Ask
from martlet.serve.replies.common import (
    ReplyHead,
    finite,
    most_likely,
    token_text,
    usage_of,
)
from martlet.serve.structured import CallReading
from martlet.text.tokenizer import Tokenizer
from martlet.text.tool_calls.deltas import ContentDelta, ToolCallDelta
from martlet.text.tool_calls.format import ToolCallParser

Scores = Sequence[Mapping[int, TokenLogprob]]


class ChatReply:
    """Puts samples as messages of an assistant, whole or in chunks.

    Args:
        ask: What was asked.
        catalog: Says what answers.
        tokenizer: Spells the tokens of log-probabilities.
        reading: How calls of functions are found; None if none may be called.
        streams: Whether the objects are chunks of a stream.
    """

    def __init__(
        self,
        ask: Ask,
        catalog: Catalog,
        tokenizer: Tokenizer,
        *,
        reading: CallReading | None = None,
        streams: bool,
    ) -> None:
        kind = "chat.completion.chunk" if streams else "chat.completion"
        self._head = ReplyHead.of(ask, catalog, prefix="chatcmpl", kind=kind)
        self._params = ask.effective.params
        self._tokenizer = tokenizer
        self._reading = reading
        self._parsers: dict[int, ToolCallParser] = {}
        """By choice; each has read what was streamed of it."""
        self._callers: set[int] = set()
        """Choices that have called a function."""

    def body(self, outputs: Sequence[SampleOutput]) -> dict[str, object]:
        """See `ReplyWriter.body`."""
        choices = [self._choice(index, output) for index, output in enumerate(outputs)]
        usage = usage_of(outputs, n=self._params.n)
        return {**self._head.with_choices(choices), "usage": usage}

    def opening(self, index: int) -> dict[str, object]:
        """See `ReplyWriter.opening`: the role."""
        if self._reading is not None:
            parser = self._reading.format.new_parser(self._reading.functions)
            self._parsers[index] = parser
        return self._chunk(index, {"role": "assistant", "content": ""})

    def piece(self, index: int, delta: SampleDelta) -> dict[str, object] | None:
        """See `ReplyWriter.piece`."""
        logprobs = self._logprobs(delta.token_ids, delta.logprobs)
        parser = self._parsers.get(index)
        if parser is None:
            said: dict[str, object] = {"content": delta.text} if delta.text else {}
        else:
            said = self._said(index, parser.push(delta.text))
        if not said and logprobs is None:
            return None
        return self._chunk(index, said or {"content": ""}, logprobs=logprobs)

    def ending(self, index: int, output: SampleOutput) -> dict[str, object]:
        """See `ReplyWriter.ending`: with what was held back because it might have been a call."""
        parser = self._parsers.get(index)
        said = {} if parser is None else self._said(index, parser.flush())
        reason = self._reason(output, calls=index in self._callers)
        return self._chunk(index, said, finish_reason=reason)

    def usage(self, outputs: Sequence[SampleOutput]) -> dict[str, object]:
        """See `ReplyWriter.usage`."""
        return {**self._head.with_choices([]), "usage": usage_of(outputs, n=self._params.n)}

    def _choice(self, index: int, output: SampleOutput) -> dict[str, object]:
        message: dict[str, object] = {"role": "assistant", "content": output.text, "refusal": None}
        calls: list[dict[str, object]] = []
        if self._reading is not None:
            parsed = self._reading.format.parse(output.text, self._reading.functions)
            calls = [_call(call.id, call.name, call.arguments) for call in parsed.tool_calls]
            message["content"] = parsed.content
        if calls:
            message["tool_calls"] = calls
        return {
            "index": index,
            "message": message,
            "logprobs": self._logprobs(output.token_ids, output.logprobs),
            "finish_reason": self._reason(output, calls=bool(calls)),
        }

    def _reason(self, output: SampleOutput, *, calls: bool) -> str:
        # A reply that was cut off may lack half a call: that must be seen.
        return "tool_calls" if calls and output.finish_reason == "stop" else output.finish_reason

    def _said(
        self, index: int, deltas: Sequence[ContentDelta | ToolCallDelta]
    ) -> dict[str, object]:
        """What a piece of a reply says, in words and calls."""
        words = "".join(delta.text for delta in deltas if isinstance(delta, ContentDelta))
        calls = [_call_piece(delta) for delta in deltas if isinstance(delta, ToolCallDelta)]
        if calls:
            self._callers.add(index)
        return {
            **({"content": words} if words else {}),
            **({"tool_calls": calls} if calls else {}),
        }

    def _chunk(
        self,
        index: int,
        delta: Mapping[str, object],
        *,
        logprobs: Mapping[str, object] | None = None,
        finish_reason: str | None = None,
    ) -> dict[str, object]:
        choice: dict[str, object] = {
            "index": index,
            "delta": delta,
            "finish_reason": finish_reason,
        }
        if logprobs is not None:
            choice["logprobs"] = logprobs
        return self._head.with_choices([choice])

    def _logprobs(
        self, token_ids: Sequence[int], scores: Scores | None
    ) -> dict[str, object] | None:
        if scores is None:
            return None
        content = [
            {
                **self._entry(at[token_id]),
                "top_logprobs": self._top(at),
                **self._candidates(at[token_id]),
            }
            for token_id, at in zip(token_ids, scores, strict=True)
        ]
        return {"content": content, "refusal": None}

    def _top(self, scores: Mapping[int, TokenLogprob]) -> list[dict[str, object]]:
        return [self._entry(score) for score in most_likely(scores, self._params.logprobs or 0)]

    def _candidates(self, drawn: TokenLogprob) -> dict[str, object]:
        """What could have been drawn; nothing unless the request asks for it."""
        if not drawn.candidates:
            return {}
        return {
            "token_id": drawn.token_id,
            "candidates": [
                {
                    **asdict(each),
                    "token": token_text(self._tokenizer, each.token_id),
                    # JSON has no minus infinity, which bars a token.
                    "adjusted": finite(each.adjusted),
                    "scaled": finite(each.scaled),
                }
                for each in drawn.candidates
            ],
        }

    def _entry(self, score: TokenLogprob) -> dict[str, object]:
        return {
            "token": token_text(self._tokenizer, score.token_id),
            "logprob": finite(score.logprob),
            "bytes": list(self._tokenizer.token_bytes(score.token_id)),
        }


def _call(call_id: str, name: str, arguments: str) -> dict[str, object]:
    return {
        "id": call_id,
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def _call_piece(delta: ToolCallDelta) -> dict[str, object]:
    if delta.id is None or delta.name is None:
        return {"index": delta.index, "function": {"arguments": delta.arguments}}
    return {"index": delta.index, **_call(delta.id, delta.name, delta.arguments)}
