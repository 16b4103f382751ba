"""What a request does to its logits before anything is drawn: penalties, bias, bars, temperature.

Order: penalties on what the model said, then the bias, then the bars and the constraint's mask,
then the temperature.
Shapes: M rows, V tokens of the vocabulary (padded columns are minus infinity).
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from martlet.engine.constraint import TokenMask
from martlet.engine.request import Request


def is_shaped(request: Request) -> bool:
    """Whether the next token may differ from the most likely one that the request may draw."""
    return not request.params.is_greedy or is_adjusted(request)


def is_adjusted(request: Request) -> bool:
    """Whether anything but the temperature changes its logits."""
    return is_penalised(request) or bool(request.params.logit_bias or request.barred_ids)


def is_penalised(request: Request) -> bool:
    """Whether tokens seen before are made less likely."""
    params = request.params
    return (params.repetition_penalty, params.presence_penalty, params.frequency_penalty) != (
        1,
        0,
        0,
    )


def shape(
    logits: Tensor,
    requests: Sequence[Request],
    row_to_mask: Mapping[int, TokenMask] | None = None,
) -> None:
    """Changes `[M, V]` fp32 logits in place, row i as request i wants it.

    Args:
        row_to_mask: What the constraints allow, for the rows that have one.
    """
    adjust(logits, requests, row_to_mask)
    temperatures = [request.params.temperature or 1.0 for request in requests]
    if any(temperature != 1 for temperature in temperatures):
        column = torch.tensor(temperatures, dtype=torch.float32, device=logits.device)
        logits /= column[:, None]


def adjust(
    logits: Tensor,
    requests: Sequence[Request],
    row_to_mask: Mapping[int, TokenMask] | None = None,
) -> None:
    """All that `shape` does before the temperature."""
    _penalise(logits, requests)
    _bias_and_bar(logits, requests)
    if row_to_mask:
        mask(logits, row_to_mask)


def _penalise(logits: Tensor, requests: Sequence[Request]) -> None:
    """Repetition penalty (Keskar et al., arXiv:1909.05858) and OpenAI's two subtractive ones."""
    penalised = [row for row, request in enumerate(requests) if is_penalised(request)]
    if not penalised:
        return
    counts = []
    for row in penalised:
        request = requests[row]
        request.token_counts.catch_up(request.token_ids, request.num_prompt_tokens)
        counts.append(request.token_counts)
    lengths = [len(count.token_ids) for count in counts]

    def spread(values: Sequence[float]) -> Tensor:
        each = np.repeat(np.asarray(values, dtype=np.float32), lengths)
        return torch.from_numpy(each).to(logits.device)

    params = [requests[row].params for row in penalised]
    rows = torch.from_numpy(np.repeat(penalised, lengths)).to(logits.device)
    ids = torch.from_numpy(np.concatenate([c.token_ids for c in counts])).to(logits.device)
    times = torch.from_numpy(np.concatenate([c.reply_counts for c in counts])).to(logits.device)
    values = logits[rows, ids]
    repetition = spread([p.repetition_penalty for p in params])
    values = torch.where(values > 0, values / repetition, values * repetition)
    values -= spread([p.presence_penalty for p in params]) * (times > 0)
    values -= spread([p.frequency_penalty for p in params]) * times
    logits[rows, ids] = values


def _bias_and_bar(logits: Tensor, requests: Sequence[Request]) -> None:
    for row, request in enumerate(requests):
        for token_id, bias in (request.params.logit_bias or {}).items():
            logits[row, token_id] += bias
        # A constraint's mask has the bars in it, save where it leaves nothing else.
        for token_id in request.barred_ids if request.constraint is None else ():
            logits[row, token_id] = float("-inf")


def mask(logits: Tensor, row_to_mask: Mapping[int, TokenMask]) -> None:
    """Makes what the constraints do not allow impossible, in `[M, V]` logits of any precision."""
    width = len(next(iter(row_to_mask.values())))
    forbidden = np.zeros((len(logits), width), dtype="<u4")  # [M, V / 32]
    for row, allowed in row_to_mask.items():
        forbidden[row] = ~allowed
    bits = np.unpackbits(forbidden.view(np.uint8), axis=1, bitorder="little")
    num_columns = min(bits.shape[1], logits.shape[1])
    is_forbidden = torch.from_numpy(bits[:, :num_columns]).view(torch.bool)  # [M, V]
    logits[:, :num_columns].masked_fill_(is_forbidden.to(logits.device), float("-inf"))
