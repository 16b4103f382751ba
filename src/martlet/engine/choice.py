"""One token from a row of logits: the first to arrive, where likelier ones come sooner.

Each token gets a waiting time, exponentially distributed and divided by its weight; the shortest
wins with exactly the token's probability (the exponential race, or Gumbel-max). A time is a hash
of seed, position and token, so a change of the logits in their last bits changes the draw only
where two arrive at almost the same time. Inverting a cumulative sum would draw from the same
distribution, but shift each boundary between two tokens: in a flat distribution of n tokens a draw
tips n times as often.

The filters are applied in the order top_k, top_p, min_p, as in transformers. Nothing sorts the
vocabulary: a filter looks at the most likely tokens, and at all of them only for the rows where
these do not suffice.

Shapes: M rows, V tokens of the vocabulary (a multiple of SEGMENT; padded columns are minus
infinity), C = V / SEGMENT, K candidates.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from martlet.engine.cuda.noise import waiting_times as device_waiting_times
from martlet.engine.noise import Keys, waiting_times
from martlet.engine.params import SamplingParams
from martlet.models.compiled.threads import WIDTH, can_compile

SEGMENT = 128
"""Width of the first level of a reduction over the vocabulary: one long row becomes many short
ones, which vectorised reductions are good at."""
LARGE_VOCABULARY = 2**15
"""From which on it is worth compiling a search for the largest logit."""
NUM_CANDIDATES = 256
"""Most likely tokens that a filter looks at first; enough unless a distribution is nearly flat."""
MORE_CANDIDATES = 4096
"""At which it looks next, in the rows where those do not suffice."""
FLAT = 0.25
"""Where the candidates hold less than this of all weights, all tokens are looked at next."""
MAX_DEPTH = 32
"""Rows of the table that candidates are looked for in."""


def is_filtered(params: SamplingParams) -> bool:
    """Whether some tokens are excluded from the draw."""
    return params.top_p < 1 or params.top_k > 0 or params.min_p > 0


def argmax(logits: Tensor) -> Tensor:
    """The most likely token of each row, `[M, V] -> [M]`; of equals, the first.

    `Tensor.argmax` is not vectorised for bfloat16 on a CPU; `amax` of a short segment is.
    """
    vocab_size = logits.shape[1]
    if not logits.is_contiguous():
        return logits.argmax(dim=1)
    if _is_compiled_for(logits):
        from martlet.models.compiled.largest import first_largest

        return first_largest(logits.float())[0]
    if vocab_size % SEGMENT:
        return logits.argmax(dim=1)
    segments = logits.unflatten(1, (-1, SEGMENT))  # [M, C, SEGMENT]
    best = segments.amax(dim=2).argmax(dim=1)  # [M]
    rows = torch.arange(logits.shape[0], device=logits.device)
    first: Tensor = best * SEGMENT + segments[rows, best].argmax(dim=1)
    return first


def most_likely(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """What `logits.topk(count)` gives, most likely first, by looking at few of many tokens.

    The vocabulary is laid out as a table. The `count` largest values lie in the `count` columns
    whose own largest values are the largest.

    Returns:
        Logits and token ids, both `[M, count]`.
    """
    num_rows, vocab_size = logits.shape
    depth = MAX_DEPTH
    while depth > 1 and (vocab_size % depth or depth**2 * count > 2 * vocab_size):
        depth //= 2
    if depth == 1:
        return logits.topk(count, dim=1)
    table = logits.view(num_rows, depth, -1)  # [M, depth, C]
    columns = table.amax(dim=1).topk(count, dim=1).indices  # [M, count]
    few = table.gather(2, columns[:, None].expand(-1, depth, -1))  # [M, depth, count]
    values, places = few.flatten(1).topk(count, dim=1)
    ids = places // count * table.shape[2] + columns.gather(1, places % count)
    return values, ids


def choose_unfiltered(logits: Tensor, keys: Keys) -> Tensor:
    """Draws from the softmax of each row: first a segment, then a token of it.

    Args:
        logits: `[M, V]` in fp32; overwritten.
        keys: `[M]`, for the random numbers.

    Returns:
        Token ids, `[M]`.
    """
    weights = logits.sub_(logits.amax(dim=1, keepdim=True)).exp_()
    segments = weights.unflatten(1, (-1, SEGMENT))  # [M, C, SEGMENT]
    segment = _choose_segment(segments.sum(dim=2), keys)
    rows = torch.arange(len(logits), device=logits.device)
    return _choose_inside(segments[rows, segment], segment, keys)


def can_choose_tempered(logits: Tensor) -> bool:
    """Whether `choose_tempered` takes such logits, `[M, V]`."""
    is_whole = logits.is_contiguous() and logits.shape[1] % SEGMENT == 0
    return is_whole and _is_compiled_for(logits)


def _is_compiled_for(logits: Tensor) -> bool:
    """Whether a vocabulary is large enough to be worth it, and on a CPU that has what it takes."""
    vocab_size = logits.shape[1]
    fits = vocab_size >= LARGE_VOCABULARY and vocab_size % WIDTH == 0
    return fits and logits.device.type == "cpu" and can_compile()


def choose_tempered(
    logits: Tensor, largest: Tensor, temperatures: Sequence[float], keys: Keys
) -> Tensor:
    """Draws from the softmax of each row at its temperature, compiled.

    Args:
        logits: `[M, V]`, as the model gave them.
        largest: `[M]` in fp32, the largest of each row.
        temperatures: Above 0, one a row.
        keys: `[M]`, for the random numbers.

    Returns:
        Token ids, `[M]`.
    """
    from martlet.models.compiled.segments import weigh_segments

    column = torch.tensor(temperatures)
    segment = _choose_segment(weigh_segments(logits.float(), largest, column), keys)
    inside = logits.unflatten(1, (-1, SEGMENT))[torch.arange(len(logits)), segment].float()
    weights = ((inside - largest[:, None]) / column[:, None]).exp_()
    return _choose_inside(weights, segment, keys)


def _choose_segment(totals: Tensor, keys: Keys) -> Tensor:
    """Draws a segment by the sum of its weights, `[M, C] -> [M]`."""
    numbers = torch.arange(totals.shape[1], device=totals.device)
    # Negative ids: a segment's time must have nothing to do with that of a token.
    return _first_to_arrive(totals, keys, -1 - numbers[None])


def _choose_inside(weights: Tensor, segment: Tensor, keys: Keys) -> Tensor:
    """Draws a token of each row's segment, `[M, SEGMENT]` and `[M] -> [M]`."""
    first = (segment * SEGMENT)[:, None]
    token_ids = first + torch.arange(SEGMENT, device=weights.device)  # [M, SEGMENT]
    return first[:, 0] + _first_to_arrive(weights, keys, token_ids)


def choose_filtered(logits: Tensor, params: Sequence[SamplingParams], keys: Keys) -> Tensor:
    """Draws from the filtered softmax of each row.

    Args:
        logits: `[M, V]` in fp32; row i is filtered by `params[i]`.
        keys: `[M]`, for the random numbers.

    Returns:
        Token ids, `[M]`.
    """
    token_ids, on_device = _choose_among(logits, params, keys, NUM_CANDIDATES)
    # Read back once: for nearly all steps nothing follows.
    held = on_device.cpu()
    # Which stages a row goes through depends on the row alone.
    for num_candidates, least in ((MORE_CANDIDATES, FLAT), (logits.shape[1], 0)):
        rows = ((least <= held) & (held < 1)).nonzero()[:, 0]
        if len(rows):
            some = logits if len(rows) == len(params) else logits[rows]
            own_params = [params[row] for row in rows.tolist()]
            chosen, parts = _choose_among(some, own_params, keys[rows.numpy()], num_candidates)
            token_ids[rows], held[rows] = chosen, parts.cpu()
    return token_ids


def _choose_among(
    logits: Tensor, params: Sequence[SamplingParams], keys: Keys, num_candidates: int
) -> tuple[Tensor, Tensor]:
    """Draws among the most likely tokens.

    Returns:
        Token ids, `[M]`, and which part of all weights the candidates hold, `[M]`; 1 also where no
        other token could pass.
    """
    ids, passing = passing_weights(logits, params, num_candidates)
    chosen = _first_to_arrive(passing, keys, ids)
    is_known = [p.top_k <= ids.shape[1] for p in params]  # else its mass is not that of top_k
    is_certain = (passing[:, -1] == 0) & torch.tensor(is_known, device=logits.device)
    is_certain |= ids.shape[1] == logits.shape[1]
    held = passing.sum(dim=1).clamp(max=1 - 1e-9).masked_fill(is_certain, 1)
    return ids.gather(1, chosen[:, None])[:, 0], held


def passing_weights(
    logits: Tensor, params: Sequence[SamplingParams], num_candidates: int
) -> tuple[Tensor, Tensor]:
    """The most likely tokens of each row, and with what weights they take part in the draw.

    Returns:
        Token ids `[M, K]`, most likely first, and their shares of what `top_k` lets pass, `[M, K]`:
        0 for what a filter drops.
    """
    num_candidates = min(num_candidates, logits.shape[1])
    top, ids = most_likely(logits, num_candidates)  # [M, K]
    weights = (top - top[:, :1]).exp().double()
    ranks = torch.arange(num_candidates, device=logits.device)
    top_k = _column([p.top_k or logits.shape[1] for p in params], logits)
    weights = weights * (ranks < top_k)
    mass = weights.sum(dim=1, keepdim=True)
    if any(not 0 < p.top_k <= num_candidates for p in params):
        mass = torch.where(top_k <= num_candidates, mass, _sum_of_weights(logits, top[:, :1]))
    before = weights.cumsum(dim=1) - weights
    passes = before < mass * _column([p.top_p for p in params], logits)
    passes &= weights >= weights[:, :1] * _column([p.min_p for p in params], logits)
    return ids, weights * passes / mass


def _sum_of_weights(logits: Tensor, largest: Tensor) -> Tensor:
    """The sum of all weights of each row, `[M, V]` and `[M, 1] -> [M, 1]` in fp64."""
    weights = (logits - largest).exp_()
    if weights.shape[1] % SEGMENT == 0:  # Else all of them would be copied to fp64.
        weights = weights.unflatten(1, (-1, SEGMENT)).sum(dim=2)
    return weights.sum(dim=1, keepdim=True, dtype=torch.float64)


def _first_to_arrive(weights: Tensor, keys: Keys, ids: Tensor) -> Tensor:
    """The column of each row that wins the race, `[M, K] -> [M]`.

    Args:
        weights: `[M, K]`, not negative; a column of weight 0 never wins.
        keys: `[M]`.
        ids: What stands in each column, `[M, K]` or `[1, K]`.
    """
    if weights.device.type == "cpu":
        times = torch.from_numpy(waiting_times(keys[:, None], ids.numpy()))
    else:
        times = device_waiting_times(keys, ids)
    return (times / weights).argmin(dim=1)


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, device=like.device)[:, None]
