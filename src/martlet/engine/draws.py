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
from martlet.engine.logits import Logits
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


def draw_step(logits: Logits, rows: LogitRows) -> StepDraws:
    """Scores the prompts that ask for it, and draws into the requests of the sampled chunks.

    Args:
        logits: Whose they are is in `rows`.
    """
    return StepDraws(
        prompt_logprobs=_score_prompts(logits.values, rows.scored),
        token_ids=_extend(logits, rows.num_scored_rows, rows.sampled),
    )


def _extend(logits: Logits, first_row: int, chunks: Sequence[Chunk]) -> list[list[int]]:
    """Draws after each chunk, and on while the draws are what was drafted.

    Args:
        first_row: Of the logits that are drawn from.
    """
    lengths = (len(chunk.draft) for chunk in chunks)
    first_drafted = list(accumulate(lengths, initial=first_row + len(chunks)))
    drawn: list[list[int]] = [[] for _ in chunks]
    going = list(range(len(chunks)))
    rows = [first_row + index for index in going]
    while going:
        still_going = []
        requests = [chunks[index].request for index in going]
        some = logits.take(rows)
        token_ids = draw(some.values, requests, some.likeliest)
        scores = score_drawn(some.values, requests, token_ids)
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
        rows = [first_drafted[index] + len(drawn[index]) - 1 for index in going]
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
