"""One token from a row of logits, given one uniform number: the inverse of a cumulative sum.

The filters are applied in the order top_k, top_p, min_p, as in transformers. Nothing sorts the
vocabulary: a filter looks at the most likely tokens, and at all of them only for the rows where
these do not suffice.

Shapes: M rows, V tokens of the vocabulary (a multiple of SEGMENT; padded columns are minus
infinity), C = V / SEGMENT, K candidates.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from martlet.engine.params import SamplingParams

SEGMENT = 128
"""Width of the first level of a reduction over the vocabulary: one long row becomes many short
ones, which vectorised reductions are good at."""
NUM_CANDIDATES = 256
"""Most likely tokens that a filter looks at first; enough unless a distribution is nearly flat."""


def is_filtered(params: SamplingParams) -> bool:
    """Whether some tokens are excluded from the draw."""
    return params.top_p < 1 or params.top_k > 0 or params.min_p > 0


def argmax(logits: Tensor) -> Tensor:
    """The most likely token of each row, `[M, V] -> [M]`; of equals, the first.

    `Tensor.argmax` is not vectorised for bfloat16 on a CPU; `amax` of a short segment is.
    """
    if logits.shape[1] % SEGMENT or not logits.is_contiguous():
        return logits.argmax(dim=1)
    segments = logits.unflatten(1, (-1, SEGMENT))  # [M, C, SEGMENT]
    best = segments.amax(dim=2).argmax(dim=1)  # [M]
    rows = torch.arange(logits.shape[0], device=logits.device)
    first: Tensor = best * SEGMENT + segments[rows, best].argmax(dim=1)
    return first


def choose_unfiltered(logits: Tensor, uniforms: Tensor) -> Tensor:
    """Draws from the softmax of each row, in the order of the vocabulary.

    Args:
        logits: `[M, V]` in fp32; overwritten.
        uniforms: `[M]` in fp64, from [0, 1).

    Returns:
        Token ids, `[M]`.
    """
    weights = logits.sub_(logits.amax(dim=1, keepdim=True)).exp_()
    segments = weights.unflatten(1, (-1, SEGMENT))  # [M, C, SEGMENT]
    totals = segments.sum(dim=2).double().cumsum(dim=1)  # [M, C]
    targets = (uniforms * totals[:, -1])[:, None]  # [M, 1]
    segment = _first_above(totals, targets)
    before = torch.where(segment > 0, totals.gather(1, (segment - 1).clamp(min=0)), 0.0)
    rows = torch.arange(logits.shape[0], device=logits.device)
    inside = segments[rows, segment[:, 0]].double().cumsum(dim=1)  # [M, SEGMENT]
    # Scaled to the segment's own sum: rounding in fp32 must not push the target past its end.
    width = totals.gather(1, segment) - before
    within = (targets - before) / width * inside[:, -1:]
    return (segment * SEGMENT + _first_above(inside, within))[:, 0]


def choose_filtered(logits: Tensor, params: Sequence[SamplingParams], uniforms: Tensor) -> Tensor:
    """Draws from the filtered softmax of each row, most likely token first.

    Args:
        logits: `[M, V]` in fp32; row i is filtered by `params[i]`.
        uniforms: `[M]` in fp64, from [0, 1).

    Returns:
        Token ids, `[M]`.
    """
    num_candidates = max(NUM_CANDIDATES, *(p.top_k for p in params))
    token_ids, is_certain = _choose_among(logits, params, uniforms, num_candidates)
    if not is_certain.all():
        rows = (~is_certain).nonzero()[:, 0]
        rest = [params[row] for row in rows.tolist()]
        token_ids[rows], _ = _choose_among(logits[rows], rest, uniforms[rows], logits.shape[1])
    return token_ids


def _choose_among(
    logits: Tensor, params: Sequence[SamplingParams], uniforms: Tensor, num_candidates: int
) -> tuple[Tensor, Tensor]:
    """Draws among the most likely tokens; also says for which rows no other token could pass."""
    num_candidates = min(num_candidates, logits.shape[1])
    top, ids = logits.topk(num_candidates, dim=1)  # [M, K], most likely first
    weights = (top - top[:, :1]).exp().double()
    ranks = torch.arange(num_candidates, device=logits.device)
    top_k = _column([p.top_k or logits.shape[1] for p in params], logits)
    weights = weights * (ranks < top_k)
    everything = (logits - top[:, :1]).exp().sum(dim=1, keepdim=True, dtype=torch.float64)
    mass = torch.where(top_k <= num_candidates, weights.sum(dim=1, keepdim=True), everything)
    before = weights.cumsum(dim=1) - weights
    passes = before < mass * _column([p.top_p for p in params], logits)
    passes &= weights >= weights[:, :1] * _column([p.min_p for p in params], logits)
    kept = (weights * passes).cumsum(dim=1)
    chosen = _first_above(kept, uniforms[:, None] * kept[:, -1:])
    is_certain = (weights[:, -1] * passes[:, -1] == 0) | (num_candidates == logits.shape[1])
    return ids.gather(1, chosen)[:, 0], is_certain


def _first_above(cumulative: Tensor, targets: Tensor) -> Tensor:
    """Index of the first sum above the target in each row, `[M, K], [M, 1] -> [M, 1]`."""
    return torch.searchsorted(cumulative, targets, right=True).clamp(max=cumulative.shape[1] - 1)


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, device=like.device)[:, None]
