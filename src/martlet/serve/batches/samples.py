"""Finished samples on their way to the journal and back: what a reply is worded from.

The journal keeps what a result of `martlet generate` needs; a reply over HTTP also shows tokens
and scores, which go along as JSON.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from hashlib import sha256

from martlet.backends.base import ModelIdentity, SampleOutput, SampleRequest, TokenLogprob
from martlet.batch.sample import StoredSample

Scores = Sequence[Mapping[int, TokenLogprob] | None]


def key_of(
    requests: Sequence[SampleRequest], identity: ModelIdentity, *, revision: int | str | None
) -> str:
    """Names the samples of a row in a journal: it hashes all that decides them.

    Args:
        requests: The samples of the row.
        identity: What answers.
        revision: Of the adapter that answers, where one does.
    """
    model = identity.model_hash or identity.model
    head = [model, identity.tokenizer_hash, identity.backend, identity.dtype, revision]
    drawn = [
        [request.seed, request.adapter, request.prompt_ids, asdict(replace(request.params, n=1))]
        for request in requests
    ]
    return sha256(json.dumps([head, drawn]).encode()).hexdigest()


def store(index: int, output: SampleOutput) -> StoredSample:
    """What to keep of a sample.

    Args:
        index: Its place among the samples of its row.
    """
    tokens = {
        "token_ids": output.token_ids,
        "stop_reason": output.stop_reason,
        "logprobs": _write(output.logprobs),
        "prompt_logprobs": _write(output.prompt_logprobs),
    }
    return replace(StoredSample.from_output(index, output), tokens=json.dumps(tokens))


def restore(request_id: str, stored: StoredSample) -> SampleOutput:
    """The sample that `store` kept."""
    tokens = json.loads(stored.tokens or "{}")
    return SampleOutput(
        request_id=request_id,
        text=stored.text,
        token_ids=tuple(tokens["token_ids"]),
        finish_reason=stored.finish_reason,
        stop_reason=tokens["stop_reason"],
        cumulative_logprob=stored.cumulative_logprob,
        logprobs=_read(tokens["logprobs"]),  # type: ignore[arg-type]  # None is for prompts
        prompt_logprobs=_read(tokens["prompt_logprobs"]),
        num_prompt_tokens=stored.num_prompt_tokens,
        num_cached_tokens=stored.num_cached_tokens,
    )


def _write(scores: Scores | None) -> list[list[list[float]] | None] | None:
    if scores is None:
        return None
    return [
        None if at is None else [[one.token_id, one.logprob, one.rank] for one in at.values()]
        for at in scores
    ]


def _read(
    scores: list[list[tuple[int, float, int]] | None] | None,
) -> tuple[Mapping[int, TokenLogprob] | None, ...] | None:
    if scores is None:
        return None
    return tuple(
        None
        if at is None
        else {
            token_id: TokenLogprob(token_id=token_id, logprob=logprob, rank=rank)
            for token_id, logprob, rank in at
        }
        for at in scores
    )
