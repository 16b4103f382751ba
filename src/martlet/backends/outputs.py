"""From a request that the engine ended to the contract's finished sample."""

from collections.abc import Mapping
from dataclasses import replace

from martlet.backends.base import SampleDelta, SampleOutput, TokenLogprob
from martlet.engine.request import Request, TokenLogprobs
from martlet.text.stream import StreamDecoder


def to_output(request: Request, decoder: StreamDecoder) -> SampleOutput:
    """Describes a finished sample.

    Args:
        request: The finished request.
        decoder: Has been given the reply's tokens, without the one that ended it; was flushed.
    """
    output = SampleOutput(
        request_id=request.request_id,
        text=decoder.text,
        token_ids=tuple(request.output_ids),
        finish_reason=request.finish_reason or "error",
        stop_reason=request.stop_reason,
        num_prompt_tokens=request.num_prompt_tokens,
        num_cached_tokens=request.num_cached_tokens,
        num_drafted_tokens=request.num_drafted_tokens,
        num_accepted_tokens=request.num_accepted_tokens,
        error=request.error,
    )
    params = request.params
    if (num_top := params.logprobs) is not None:
        output = replace(
            output,
            cumulative_logprob=sum(scores.logprob for scores in request.logprobs),
            logprobs=tuple(_by_token(scores, num_top) for scores in request.logprobs),
        )
    if (num_top := params.prompt_logprobs) is not None:
        scored = (_by_token(scores, num_top) for scores in request.prompt_logprobs)
        output = replace(output, prompt_logprobs=(None, *scored))
    return output


def to_delta(request: Request, text: str, *, num_tokens: int) -> SampleDelta:
    """Describes the newest `num_tokens` tokens of a request, which made `text` certain."""
    token_ids = tuple(request.token_ids[len(request.token_ids) - num_tokens :])
    delta = SampleDelta(request_id=request.request_id, text=text, token_ids=token_ids)
    num_top = request.params.logprobs
    if num_top is None or not num_tokens:
        return delta
    scored = request.logprobs[-num_tokens:]
    return replace(delta, logprobs=tuple(_by_token(scores, num_top) for scores in scored))


def _by_token(scores: TokenLogprobs, num_top: int) -> Mapping[int, TokenLogprob]:
    """The token itself first, then the most likely ones; there may be more of them than asked."""
    token = TokenLogprob(
        token_id=scores.token_id,
        logprob=scores.logprob,
        rank=scores.rank,
        candidates=scores.candidates,
    )
    by_token = {token.token_id: token}
    top = zip(scores.top_ids[:num_top], scores.top_logprobs[:num_top], strict=True)
    for rank, (token_id, logprob) in enumerate(top, start=1):
        by_token.setdefault(token_id, TokenLogprob(token_id=token_id, logprob=logprob, rank=rank))
    return by_token
