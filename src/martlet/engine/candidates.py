"""The candidates of a draw, with what each step before it made of them: for whoever looks closely.

Computed beside the draw, for the rows that ask alone, by the functions that the draw itself uses.

Shapes: V tokens of the vocabulary.
"""

import torch
from torch import Tensor

from martlet.engine.choice import passing_weights
from martlet.engine.constraint import fill_masks
from martlet.engine.request import Candidate, Request
from martlet.engine.shaping import adjust, shape


def candidates_of(logits: Tensor, request: Request, drawn: int) -> tuple[Candidate, ...]:
    """Follows the likeliest tokens of one row through all steps.

    Args:
        logits: `[V]`, as the model gave them.
        request: The drawn token is not in it yet.
        drawn: What was drawn.

    Returns:
        The likeliest tokens as the model saw it, as many as the request asks for, the likeliest of
        the draw, and the drawn one; the likeliest of the draw first.
    """
    raw = logits[None].float()
    masks = fill_masks([request], len(logits))
    adjusted, scaled = raw.clone(), raw.clone()
    adjust(adjusted, [request], masks)
    shape(scaled, [request], masks)
    probabilities = scaled.softmax(dim=1)[0]
    in_draw = _draw_probabilities(scaled, request)
    num = min(request.num_candidates, len(logits))
    listed = {*raw[0].topk(num).indices.tolist(), *in_draw.topk(num).indices.tolist(), drawn}
    found = [
        Candidate(
            token_id=token_id,
            logit=raw[0, token_id].item(),
            adjusted=adjusted[0, token_id].item(),
            scaled=scaled[0, token_id].item(),
            probability=probabilities[token_id].item(),
            draw_probability=in_draw[token_id].item(),
        )
        for token_id in listed
    ]
    return tuple(sorted(found, key=lambda each: (-each.draw_probability, -each.scaled)))


def _draw_probabilities(scaled: Tensor, request: Request) -> Tensor:
    """How likely each token is drawn, `[1, V] -> [V]`."""
    likely = torch.zeros_like(scaled[0], dtype=torch.float64)
    if request.params.is_greedy:
        likely[scaled[0].argmax()] = 1
        return likely
    ids, weights = passing_weights(scaled, [request.params], scaled.shape[1])
    likely[ids[0]] = weights[0] / weights.sum()
    return likely
