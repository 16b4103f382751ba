"""A server's reply as it comes in: whole or piece by piece, the same lines read both."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from martlet.backends.base import SampleDelta, SampleOutput, SampleRequest, TokenLogprob
from martlet.backends.openai.refusals import TransientError
from martlet.engine.request import FinishReason

_TOKEN_ID = re.compile(r"token_id:(\d+)")
_ENDINGS: Mapping[str, FinishReason] = {"stop": "stop", "length": "length"}
Scores = Mapping[int, TokenLogprob]


@dataclass(kw_only=True)
class Transcript:
    """What a server has said for one sample in one attempt."""

    request: SampleRequest
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    """Of the drawn tokens."""
    scores: list[Scores] = field(default_factory=list)
    """The same with their alternatives, where the server tells token ids."""
    prompt_logprobs: tuple[Scores | None, ...] | None = None
    ending: str | None = None
    stop_reason: int | str | None = None
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    num_drawn: int | None = None
    """As the server counts them."""

    def add(self, body: object) -> SampleDelta:
        """Takes in a whole reply or a chunk of one.

        Returns:
            What it adds.

        Raises:
            TransientError: If it is no reply, or an error in the middle of one.
        """
        if not isinstance(body, Mapping):
            raise _nonsense(body)
        if "error" in body:
            raise TransientError(f"the reply broke off: {body['error']}", kind="broken")
        self._count(body.get("usage"))
        choices = body.get("choices")
        if not isinstance(choices, Sequence):
            raise _nonsense(body)
        before = len(self.text), len(self.token_ids), len(self.scores)
        for choice in choices:
            self._take(choice)
        return self._since(*before)

    def output(self) -> SampleOutput:
        """The finished sample.

        Raises:
            TransientError: If the reply has no end.
        """
        if self.ending is None:
            raise TransientError("the reply ended in its middle", kind="broken")
        wants = self.request.params.logprobs is not None
        finish_reason = _ENDINGS.get(self.ending, "error")
        untold = 0 if self.token_ids or self.num_drawn is None else self.num_drawn
        return SampleOutput(
            request_id=self.request.request_id,
            text=self.text,
            token_ids=tuple(self.token_ids),
            finish_reason=finish_reason,
            stop_reason=self.stop_reason,
            cumulative_logprob=sum(self.logprobs) if wants else None,
            logprobs=tuple(self.scores) if wants and self.scores else None,
            prompt_logprobs=self.prompt_logprobs,
            num_prompt_tokens=self.num_prompt_tokens or len(self.request.prompt_ids),
            num_cached_tokens=self.num_cached_tokens,
            error=f"the server ended it: {self.ending}" if finish_reason == "error" else None,
            num_untold_tokens=untold,
        )

    def _take(self, choice: Mapping[str, Any]) -> None:
        message = choice.get("message", choice.get("delta"))
        text = choice["text"] if message is None else message.get("content") or ""
        if not isinstance(text, str):
            raise _nonsense(choice)
        self.text += text
        self.token_ids += choice.get("token_ids") or []
        self.stop_reason = choice.get("stop_reason") or self.stop_reason
        self._score(choice.get("logprobs"))
        if (scored := choice.get("prompt_logprobs")) is not None:
            self.prompt_logprobs = tuple(map(_prompt_position, scored))
        if (ending := choice.get("finish_reason")) is not None:
            self.ending = str(ending)

    def _count(self, usage: object) -> None:
        match usage:
            case {"prompt_tokens": int(prompt), "completion_tokens": int(drawn), **rest}:
                self.num_prompt_tokens, self.num_drawn = prompt, drawn
                match rest.get("prompt_tokens_details"):
                    case {"cached_tokens": int(cached)}:
                        self.num_cached_tokens = cached

    def _score(self, given: Mapping[str, Any] | None) -> None:
        if self.request.params.logprobs is None or given is None:
            return
        for token, logprob, top in _positions(given):
            self.logprobs.append(logprob)
            if (token_id := _token_id(token)) is not None:
                self.scores.append(_by_id(token_id, logprob, top))

    def _since(self, text_length: int, num_ids: int, num_scores: int) -> SampleDelta:
        token_ids, scores = self.token_ids[num_ids:], self.scores[num_scores:]
        return SampleDelta(
            request_id=self.request.request_id,
            text=self.text[text_length:],
            token_ids=tuple(token_ids),
            logprobs=tuple(scores) if scores and len(scores) == len(token_ids) else None,
        )


def _positions(given: Mapping[str, Any]) -> list[tuple[str, float, list[tuple[str, float]]]]:
    """Token, log-probability and alternatives at each position, from chats and completions."""
    if "content" in given:
        return [
            (at["token"], at["logprob"], [(t["token"], t["logprob"]) for t in at["top_logprobs"]])
            for at in given["content"] or []
        ]
    tokens, logprobs = given["tokens"], given["token_logprobs"]
    tops = given.get("top_logprobs") or [None] * len(tokens)
    return [
        (token, logprob, list((top or {}).items()))
        for token, logprob, top in zip(tokens, logprobs, tops, strict=True)
    ]


def _by_id(token_id: int, logprob: float, top: Sequence[tuple[str, float]]) -> Scores:
    """The token itself first, then the alternatives; their order gives the ranks."""
    ranked = sorted(top, key=lambda pair: -pair[1])
    ranks = {_token_id(token): rank for rank, (token, _) in enumerate(ranked, start=1)}
    rank = ranks.get(token_id, len(ranked) + 1)
    scores = {token_id: TokenLogprob(token_id=token_id, logprob=logprob, rank=rank)}
    for other, (token, other_logprob) in enumerate(ranked, start=1):
        if (other_id := _token_id(token)) is not None:
            alternative = TokenLogprob(token_id=other_id, logprob=other_logprob, rank=other)
            scores.setdefault(other_id, alternative)
    return scores


def _prompt_position(scored: Mapping[str, Mapping[str, float]] | None) -> Scores | None:
    if scored is None:
        return None
    return {
        int(token_id): TokenLogprob(
            token_id=int(token_id), logprob=at["logprob"], rank=int(at["rank"])
        )
        for token_id, at in scored.items()
    }


def _token_id(token: str) -> int | None:
    found = _TOKEN_ID.fullmatch(token)
    return None if found is None else int(found[1])


def _nonsense(body: object) -> TransientError:
    return TransientError(f"the server answers nonsense: {str(body)[:200]!r}", kind="broken")
