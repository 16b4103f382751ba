"""Replies of `/v1/completions`."""

import codecs
from collections.abc import Mapping, Sequence

from martlet.backends.base import SampleDelta, SampleOutput, TokenLogprob
from martlet.serve.catalog import Catalog
from martlet.serve.generation import Ask
from martlet.serve.replies.common import ReplyHead, finite, most_likely, usage_of
from martlet.text.tokenizer import Tokenizer

Position = Mapping[int, TokenLogprob] | None


class CompletionReply:
    """Puts samples as texts, whole or in chunks.

    Args:
        ask: What was asked.
        catalog: Says what answers.
        tokenizer: Spells the tokens of log-probabilities.
        echoes: The text of each prompt, if the choices begin with it.
    """

    def __init__(
        self,
        ask: Ask,
        catalog: Catalog,
        tokenizer: Tokenizer,
        *,
        echoes: Sequence[str] | None = None,
    ) -> None:
        self._head = ReplyHead.of(ask, catalog, prefix="cmpl", kind="text_completion")
        self._prompts = ask.prompts
        self._params = ask.effective.params
        self._tokenizer = tokenizer
        self._echoes = echoes
        self._index_to_tokens: dict[int, _TokenList] = {}

    def body(self, outputs: Sequence[SampleOutput]) -> dict[str, object]:
        """See `ReplyWriter.body`."""
        choices = [self._whole(index, output) for index, output in enumerate(outputs)]
        usage = usage_of(outputs, n=self._params.n)
        return {**self._head.with_choices(choices), "usage": usage}

    def opening(self, index: int) -> dict[str, object]:
        """See `ReplyWriter.opening`: the prompt, where it is echoed."""
        return self._chunk(index, self._echo(index))

    def piece(self, index: int, delta: SampleDelta) -> dict[str, object] | None:
        """See `ReplyWriter.piece`."""
        logprobs = None
        if delta.logprobs is not None:
            tokens = self._index_to_tokens.setdefault(index, self._new_tokens(self._echo(index)))
            logprobs = tokens.take(delta.token_ids, delta.logprobs)
        if not delta.text and logprobs is None:
            return None
        return self._chunk(index, delta.text, logprobs=logprobs)

    def ending(self, index: int, output: SampleOutput) -> dict[str, object]:
        """See `ReplyWriter.ending`."""
        return self._chunk(index, "", finish_reason=output.finish_reason)

    def usage(self, outputs: Sequence[SampleOutput]) -> dict[str, object]:
        """See `ReplyWriter.usage`."""
        return {**self._head.with_choices([]), "usage": usage_of(outputs, n=self._params.n)}

    def _whole(self, index: int, output: SampleOutput) -> dict[str, object]:
        return {
            "index": index,
            "text": self._echo(index) + output.text,
            "logprobs": self._logprobs(index, output),
            "finish_reason": output.finish_reason,
        }

    def _logprobs(self, index: int, output: SampleOutput) -> dict[str, object] | None:
        if output.logprobs is None:
            return None
        token_ids, scores = output.token_ids, output.logprobs
        if output.prompt_logprobs is None:
            return self._new_tokens(self._echo(index)).take(token_ids, scores)
        prompt_ids = self._prompts[index // self._params.n].token_ids
        positions = (*output.prompt_logprobs, *scores)
        return self._new_tokens("").take((*prompt_ids, *token_ids), positions)

    def _chunk(
        self,
        index: int,
        text: str,
        *,
        logprobs: Mapping[str, object] | None = None,
        finish_reason: str | None = None,
    ) -> dict[str, object]:
        choice = {
            "index": index,
            "text": text,
            "logprobs": logprobs,
            "finish_reason": finish_reason,
        }
        return self._head.with_choices([choice])

    def _echo(self, index: int) -> str:
        return "" if self._echoes is None else self._echoes[index // self._params.n]

    def _new_tokens(self, text_before: str) -> "_TokenList":
        return _TokenList(
            self._tokenizer, num_top=self._params.logprobs or 0, offset=len(text_before)
        )


class _TokenList:
    """The lists of a choice's `logprobs`, which go on from chunk to chunk.

    Args:
        offset: Characters of the choice's text before the first token.
    """

    def __init__(self, tokenizer: Tokenizer, *, num_top: int, offset: int) -> None:
        self._tokenizer = tokenizer
        self._num_top = num_top
        self._offset = offset
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def take(self, token_ids: Sequence[int], scores: Sequence[Position]) -> dict[str, object]:
        """The next tokens."""
        positions = list(zip(token_ids, scores, strict=True))
        return {
            "tokens": [self._spell(token_id) for token_id in token_ids],
            "token_logprobs": [at and finite(at[token_id].logprob) for token_id, at in positions],
            "top_logprobs": [at and self._top(token_id, at) for token_id, at in positions],
            "text_offset": [self._advance(token_id) for token_id in token_ids],
        }

    def _top(self, token_id: int, scores: Mapping[int, TokenLogprob]) -> dict[str, float]:
        several = [*most_likely(scores, self._num_top), scores[token_id]]
        return {self._spell(score.token_id): finite(score.logprob) for score in several}

    def _advance(self, token_id: int) -> int:
        """Where a token begins in the text, in characters; half a character is none."""
        before = self._offset
        self._offset += len(self._decoder.decode(self._tokenizer.token_bytes(token_id)))
        return before

    def _spell(self, token_id: int) -> str:
        """A token as text, or OpenAI's way to write bytes that are none."""
        spelled = self._tokenizer.token_bytes(token_id)
        try:
            return spelled.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in spelled)
