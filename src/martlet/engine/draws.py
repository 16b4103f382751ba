"""What a step draws: a token for each request that is caught up, and one more for each right guess.

The first draws of all requests are made together. Where a request drew what it had drafted, the
logits behind the draft are those of its next token: it draws again, as it now is. So penalties,
bars and the form of the reply see exactly the tokens that they would see without a draft, and the
logits behind a wrong guess are not looked at.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from torch import Tensor

from martlet.engine.batch import LogitRows
from martlet.engine.logprobs import score_tokens
from martlet.engine.plan import Chunk
from martlet.engine.request import TokenLogprobs
from martlet.engine.sampler import draw, score_drawn

NOT_FINITE = "the model gave no finite logits"


@dataclass(frozen=True, kw_only=True, slots=True)
class StepDraws:
    """What a step drew."""

    token_ids: list[list[int]]
    """For each sampled chunk of the batch, what was added to its request; the request of one for
    which nothing could be drawn has an `error`."""
    prompt_logprobs: list[list[TokenLogprobs]]
    """For each scored chunk of the batch, the prompt tokens that follow its own."""


def draw_step(logits: Tensor, rows: LogitRows) -> StepDraws:
    """Scores the prompts that ask for it, and draws into the requests of the sampled chunks.

    Args:
        logits: `[N, V]`, whose they are in `rows`.
    """
    scored, sampled, drafted = logits.split(
        [rows.num_scored_rows, len(rows.sampled), rows.num_drafted_rows]
    )
    return StepDraws(
        prompt_logprobs=_score_prompts(scored, rows.scored),
        token_ids=_extend(sampled, drafted, rows.sampled),
    )


def _extend(sampled: Tensor, drafted: Tensor, chunks: Sequence[Chunk]) -> list[list[int]]:
    """Draws after each chunk, and on while the draws are what was drafted."""
    first_drafted = [0, *accumulate(len(chunk.draft) for chunk in chunks)]
    drawn: list[list[int]] = [[] for _ in chunks]
    rows, going = sampled, list(range(len(chunks)))
    while going:
        still_going = []
        requests = [chunks[index].request for index in going]
        token_ids = draw(rows, requests)
        scores = score_drawn(rows, requests, token_ids)
        for index, request, token_id, score in zip(going, requests, token_ids, scores, strict=True):
            left = chunks[index].draft[len(drawn[index]) :]
            if token_id is not None:
                request.append(token_id, score)
                drawn[index].append(token_id)
                if left[:1] == (token_id,) and request.reached_end is None:
                    still_going.append(index)
            elif left and request.error is None:
                # NaN passes the mask, so a guess may have spoiled what is before it.
                request.drafter.give_up()
            else:
                request.error = request.error or NOT_FINITE
        going = still_going
        rows = drafted[[first_drafted[index] + len(drawn[index]) - 1 for index in going]]
    return drawn


def _score_prompts(logits: Tensor, chunks: Sequence[Chunk]) -> list[list[TokenLogprobs]]:
    scores = []
    first_row = 0
    for chunk in chunks:
        request = chunk.request
        following = request.prompt_ids[chunk.start + 1 : chunk.end + 1]
        rows = logits[first_row : first_row + len(following)]
        num_top = request.params.prompt_logprobs or 0
        scores.append(score_tokens(rows, following, num_top=num_top))
        first_row += chunk.num_tokens
    return scores
