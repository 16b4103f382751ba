"""Weights rounded to whole numbers with a scale for each channel or group.

Shapes: `[out, in]` weights, G groups of inputs.
"""

import torch
from torch import Tensor

_SHARES = (1.0, 0.95, 0.9, 0.85, 0.8)
"""Parts of a group's range that are tried: to clip the largest value may round the rest better."""


def round_channels(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Rounds each output channel to 8 bits, symmetrically.

    Returns:
        Whole numbers from -127 to 127 in int8 `[out, in]`, and scales in fp32 `[out, 1]`.
    """
    weight = weight.float()
    scale = (weight.abs().amax(dim=1, keepdim=True) / 127).clamp(min=1e-12)
    return (weight / scale).round().to(torch.int8), scale


def group_scales(weight: Tensor, num_groups: int) -> Tensor:
    """The scale of each group for four bits, the one of several that rounds it best.

    Returns:
        `[out, G]` in fp32.
    """
    groups = weight.float().unflatten(1, (num_groups, -1))  # [out, G, in / G]
    full = (groups.abs().amax(dim=-1, keepdim=True) / 7.5).clamp(min=1e-12)
    best, least = full, torch.full_like(full, torch.inf)
    for share in _SHARES:
        scale = full * share
        error = ((groups / scale).round().clamp(-8, 7) * scale - groups).square()
        error = error.sum(dim=-1, keepdim=True)
        best, least = torch.where(error < least, scale, best), torch.minimum(error, least)
    scales: Tensor = best.squeeze(-1)
    return scales


def round_groups(weight: Tensor, num_groups: int) -> tuple[Tensor, Tensor]:
    """Rounds each group of inputs to four bits, to the nearest.

    Returns:
        Whole numbers from -8 to 7 in int8 `[out, in]`, and scales in fp32 `[out, G]`.
    """
    scales = group_scales(weight, num_groups)
    groups = weight.float().unflatten(1, (num_groups, -1))
    rounded = (groups / scales.unsqueeze(-1)).round().clamp(-8, 7)
    return rounded.flatten(1).to(torch.int8), scales
