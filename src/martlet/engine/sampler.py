"""From rows of logits to tokens and their scores.

A row is treated alike whoever its neighbours are. Rows that want the plain most likely token take
it from what the model gave; the others are shaped and drawn in fp32, a cache-sized part at a time.

Shapes: N rows of logits, M of them shaped together, V tokens of the vocabulary.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import isfinite

import torch
from torch import Tensor

from martlet.engine.candidates import candidates_of
from martlet.engine.choice import (
    SEGMENT,
    argmax,
    can_choose_tempered,
    choose_filtered,
    choose_tempered,
    choose_unfiltered,
    is_filtered,
)
from martlet.engine.constraint import TokenMask, fill_masks, only_token
from martlet.engine.logits import Likeliest, take
from martlet.engine.logprobs import score_tokens
from martlet.engine.noise import Keys, draw_keys
from martlet.engine.request import Request, TokenLogprobs
from martlet.engine.shaping import is_adjusted, is_shaped, mask, shape

MAX_NUM_SHAPED = {"cpu": 2**21, "cuda": 2**27}
"""Logits shaped at once: on a CPU, 8 MiB in fp32 stay in the cache between the passes over them;
on a GPU, as many as make its kernels long, and copies of 512 MiB."""


def draw(
    logits: Tensor, requests: Sequence[Request], likeliest: Likeliest | None = None
) -> list[int | None]:
    """Draws one token a row, row i as request i wants it.

    Args:
        logits: `[M, V]`, as the model gave them.
        likeliest: The most likely token of each, where that is known.

    Returns:
        Token ids; None for a row that is not finite, or whose constraint failed (then its request
        has an `error`). No neighbour notices.
    """
    if all(each.constraint is None and not is_shaped(each) for each in requests):
        return _likeliest_if_finite(likeliest or _find_likeliest(logits))
    row_to_mask = fill_masks(requests, logits.shape[1])
    row_to_only = {row: only_token(allowed) for row, allowed in row_to_mask.items()}
    forced = {row: token_id for row, token_id in row_to_only.items() if token_id is not None}
    undecided = [
        row for row, request in enumerate(requests) if row not in forced and request.error is None
    ]
    is_compiled = can_choose_tempered(logits)
    tempered = [
        row
        for row in undecided
        if is_compiled and row not in row_to_mask and _is_only_tempered(requests[row])
    ]
    plain = [row for row in undecided if not is_shaped(requests[row])]
    shaped = sorted({*undecided} - {*plain} - {*tempered})
    drawn: dict[int, int | None] = {}
    if forced:
        rows, only = list(forced), list(forced.values())
        drawn |= zip(rows, _if_finite(only, logits[rows, only]), strict=True)
    if plain:
        token_ids = _likeliest_if_finite(_find_likeliest(_masked(logits, row_to_mask, plain)))
        drawn |= {row: token_ids[row] for row in plain}
    if tempered:
        some = _draw_tempered(take(logits, tempered), [requests[row] for row in tempered])
        drawn |= zip(tempered, some, strict=True)
    num_rows = max(1, MAX_NUM_SHAPED[logits.device.type] // logits.shape[1])
    for first in range(0, len(shaped), num_rows):
        rows = shaped[first : first + num_rows]
        masks = {i: row_to_mask[row] for i, row in enumerate(rows) if row in row_to_mask}
        some = _draw_shaped(take(logits, rows), [requests[row] for row in rows], masks)
        drawn |= zip(rows, some, strict=True)
    return [drawn.get(row) for row in range(len(requests))]


def _is_only_tempered(request: Request) -> bool:
    """Whether the draw is from the softmax of what the model gave, at some temperature."""
    params = request.params
    return not (params.is_greedy or is_filtered(params) or is_adjusted(request))


def _masked(logits: Tensor, row_to_mask: Mapping[int, TokenMask], rows: Sequence[int]) -> Tensor:
    """The logits, with what the constraints of some rows do not allow made impossible."""
    masks = {row: row_to_mask[row] for row in rows if row in row_to_mask}
    if not masks:
        return logits
    masked = logits.clone()
    mask(masked, masks)
    return masked


def _if_finite(token_ids: Sequence[int], logits: Tensor) -> list[int | None]:
    """The drawn tokens, but None where a token's logit, of `[M]`, is NaN or infinite."""
    return [
        token_id if is_finite else None
        for token_id, is_finite in zip(token_ids, logits.isfinite().tolist(), strict=True)
    ]


def _find_likeliest(logits: Tensor) -> Likeliest:
    """Of `[M, V]`."""
    token_ids = argmax(logits)
    return Likeliest(token_ids.tolist(), logits.gather(1, token_ids[:, None])[:, 0].tolist())


def _likeliest_if_finite(likeliest: Likeliest) -> list[int | None]:
    """The tokens, but None where the logit is NaN or infinite."""
    return [
        token_id if isfinite(logit) else None for token_id, logit in zip(*likeliest, strict=True)
    ]


def _draw_tempered(logits: Tensor, requests: Sequence[Request]) -> list[int | None]:
    """Draws for rows that want nothing but a temperature, `[M, V] -> M ids`."""
    largest = logits.gather(1, argmax(logits)[:, None])[:, 0]
    temperatures = [request.params.temperature for request in requests]
    token_ids = choose_tempered(logits, largest.float(), temperatures, _keys(requests))
    return _if_finite(token_ids.tolist(), largest)


def _keys(requests: Sequence[Request]) -> Keys:
    """The draw for the token at a position depends on the seed and that position alone."""
    return draw_keys([r.seed for r in requests], [r.num_tokens for r in requests])


def _draw_shaped(
    logits: Tensor, requests: Sequence[Request], row_to_mask: Mapping[int, TokenMask]
) -> list[int | None]:
    """Draws for rows that want more than the argmax of what the model gave, `[M, V] -> M ids`."""
    vocab_size = logits.shape[1]
    num_columns = -(-vocab_size // SEGMENT) * SEGMENT
    shaped = logits.new_empty((len(requests), num_columns), dtype=torch.float32)
    shaped[:, :vocab_size] = logits
    shaped[:, vocab_size:] = float("-inf")
    shape(shaped, requests, row_to_mask)
    # What comes of a row that is not finite is thrown away below: nothing waits to know it here.
    is_finite = shaped.amax(dim=1).isfinite()
    keys = _keys(requests)
    token_ids = torch.empty(len(requests), dtype=torch.long, device=logits.device)
    greedy = [row for row, r in enumerate(requests) if r.params.is_greedy]
    filtered = [
        row for row, r in enumerate(requests) if not r.params.is_greedy and is_filtered(r.params)
    ]
    free = [
        row
        for row, r in enumerate(requests)
        if not r.params.is_greedy and not is_filtered(r.params)
    ]
    if greedy:
        token_ids[greedy] = argmax(take(shaped, greedy))
    if filtered:
        params = [requests[row].params for row in filtered]
        token_ids[filtered] = choose_filtered(take(shaped, filtered), params, keys[filtered])
    if free:
        token_ids[free] = choose_unfiltered(take(shaped, free), keys[free])
    drawn = zip(token_ids.tolist(), is_finite.tolist(), strict=True)
    return [token_id if is_whole else None for token_id, is_whole in drawn]


def score_drawn(
    logits: Tensor, requests: Sequence[Request], token_ids: Sequence[int | None]
) -> list[TokenLogprobs | None]:
    """Scores the drawn token of each row whose request asks for it.

    Args:
        logits: `[M, V]`, as the model gave them.
        token_ids: One a row; None where nothing could be drawn.
    """
    scores: list[TokenLogprobs | None] = [None] * len(requests)
    wanted = {
        row: token_id
        for row, token_id in enumerate(token_ids)
        if token_id is not None and requests[row].params.logprobs is not None
    }
    if wanted:
        num_top = max(requests[row].params.logprobs or 0 for row in wanted)
        records = score_tokens(logits[list(wanted)], list(wanted.values()), num_top=num_top)
        for row, record in zip(wanted, records, strict=True):
            request = requests[row]
            if request.num_candidates:
                found = candidates_of(logits[row], request, record.token_id)
                record = replace(record, candidates=found)
            scores[row] = record
    return scores
