"""Replies of `/v1/chat/completions`."""

from collections.abc import Mapping, Sequence

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
from martlet.text.tokenizer import Tokenizer

Scores = Sequence[Mapping[int, TokenLogprob]]


class ChatReply:
    """Puts samples as messages of an assistant, whole or in chunks.

    Args:
        ask: What was asked.
        catalog: Says what answers.
        tokenizer: Spells the tokens of log-probabilities.
        streams: Whether the objects are chunks of a stream.
    """

    def __init__(self, ask: Ask, catalog: Catalog, tokenizer: Tokenizer, *, streams: bool) -> None:
        kind = "chat.completion.chunk" if streams else "chat.completion"
        self._head = ReplyHead.of(ask, catalog, prefix="chatcmpl", kind=kind)
        self._params = ask.effective.params
        self._tokenizer = tokenizer

    def body(self, outputs: Sequence[SampleOutput]) -> dict[str, object]:
        """See `ReplyWriter.body`."""
        choices = [self._choice(index, output) for index, output in enumerate(outputs)]
        usage = usage_of(outputs, n=self._params.n)
        return {**self._head.with_choices(choices), "usage": usage}

    def opening(self, index: int) -> dict[str, object]:
        """See `ReplyWriter.opening`: the role."""
        return self._chunk(index, {"role": "assistant", "content": ""})

    def piece(self, index: int, delta: SampleDelta) -> dict[str, object] | None:
        """See `ReplyWriter.piece`."""
        logprobs = self._logprobs(delta.token_ids, delta.logprobs)
        if not delta.text and logprobs is None:
            return None
        return self._chunk(index, {"content": delta.text}, logprobs=logprobs)

    def ending(self, index: int, output: SampleOutput) -> dict[str, object]:
        """See `ReplyWriter.ending`."""
        return self._chunk(index, {}, finish_reason=output.finish_reason)

    def usage(self, outputs: Sequence[SampleOutput]) -> dict[str, object]:
        """See `ReplyWriter.usage`."""
        return {**self._head.with_choices([]), "usage": usage_of(outputs, n=self._params.n)}

    def _choice(self, index: int, output: SampleOutput) -> dict[str, object]:
        return {
            "index": index,
            "message": {"role": "assistant", "content": output.text, "refusal": None},
            "logprobs": self._logprobs(output.token_ids, output.logprobs),
            "finish_reason": output.finish_reason,
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
            {**self._entry(at[token_id]), "top_logprobs": self._top(at)}
            for token_id, at in zip(token_ids, scores, strict=True)
        ]
        return {"content": content, "refusal": None}

    def _top(self, scores: Mapping[int, TokenLogprob]) -> list[dict[str, object]]:
        return [self._entry(score) for score in most_likely(scores, self._params.logprobs or 0)]

    def _entry(self, score: TokenLogprob) -> dict[str, object]:
        return {
            "token": token_text(self._tokenizer, score.token_id),
            "logprob": finite(score.logprob),
            "bytes": list(self._tokenizer.token_bytes(score.token_id)),
        }
