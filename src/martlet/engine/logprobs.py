"""Log-probabilities of tokens, from what the model said before penalties and temperature."""

from collections.abc import Sequence

import torch
from torch import Tensor

from martlet.engine.request import TokenLogprobs


def score_tokens(logits: Tensor, token_ids: Sequence[int], *, num_top: int) -> list[TokenLogprobs]:
    """Scores one token a row.

    Args:
        logits: `[M, V]`, as the model gave them.
        token_ids: The token to score in each row.
        num_top: How many of the most likely tokens to report beside it.

    Returns:
        One record a row.
    """
    if not token_ids:
        return []
    logprobs = torch.log_softmax(logits, dim=1, dtype=torch.float32)  # [M, V]
    ids = torch.tensor(token_ids, device=logits.device)[:, None]
    chosen = logprobs.gather(1, ids)  # [M, 1]
    ranks = (logprobs > chosen).sum(dim=1) + 1
    top, top_ids = logprobs.topk(min(num_top, logits.shape[1]), dim=1)
    return [
        TokenLogprobs(
            token_id=token_id,
            logprob=logprob,
            rank=rank,
            top_ids=tuple(row_ids),
            top_logprobs=tuple(row_top),
        )
        for token_id, logprob, rank, row_ids, row_top in zip(
            token_ids,
            chosen[:, 0].tolist(),
            ranks.tolist(),
            top_ids.tolist(),
            top.tolist(),
            strict=True,
        )
    ]
