"""Weights rounded to whole numbers with a scale for each channel or group.

Shapes: `[out, in]` weights, G groups of inputs, S larger groups.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from martlet.models.machine_code.kind import (
    LARGEST_STEPS,
    LARGEST_VALUE,
    LEAST_SCALE,
    MULTIPLIERS,
    STEPS,
)

_SHARES = (1.0, 0.95, 0.9, 0.85, 0.8)
"""Parts of a group's range that are tried: to clip the largest value may round the rest better."""
_SHARES_OF_SCALE = (1.0, 0.95, 0.9)
_LARGEST_MULTIPLIER = 15
_STEPS_DOWN = (-1, 0, 1, 2)
"""Multipliers that are tried, below the one that reaches a group's largest weight."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FourBits:
    """A weight in four bits: `(value - zero) * multiplier * scale`."""

    values: Tensor
    """`[out, in]`, 0 to 15 in uint8."""
    scales: Tensor
    """`[out, S]` in fp32, of numbers that bf16 holds."""
    multipliers: Tensor
    """`[out, G]`, 1 to 15 in uint8."""
    zeros: Tensor
    """`[out, G]`, 7 or 8 in uint8: on the side of its largest weight a group has a value more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FourBitSteps:
    """A weight in four bits that stand for eight: `(value - zero) * multiplier * scale`.

    Without the scale that is a byte. So a product is that of eight bits.
    """

    values: Tensor
    """`[out, in]`, 0 to 15 in uint8."""
    codes: Tensor
    """`[out, G]`, 0 to 15 in uint8: a group's multiplier and zero, of those in `STEPS`."""
    scales: Tensor
    """`[out, 1]` in fp32."""

    def dequantized(self) -> Tensor:
        """`[out, in]` in fp32."""
        multipliers, zeros = torch.tensor(STEPS).T[:, self.codes.int()].unsqueeze(-1)
        values = self.values.unflatten(1, (self.codes.shape[1], -1))
        weight: Tensor = ((values - zeros) * multipliers).flatten(1) * self.scales
        return weight


def round_to_steps(weight: Tensor, *, num_groups: int) -> FourBitSteps:
    """Rounds to four bits, in steps of an eight-bit channel.

    Of a group's multipliers, the best is that with the least square error, each weighted by the
    size of its weight: large weights matter more than their number.
    """
    weight = weight.float()
    scales = (weight.abs().amax(dim=1, keepdim=True) / LARGEST_STEPS).clamp(min=LEAST_SCALE)
    groups = (weight / scales).unflatten(1, (num_groups, -1))  # [out, G, in / G]
    importance = groups.abs()
    is_negative = -groups.amin(dim=-1, keepdim=True) >= groups.amax(dim=-1, keepdim=True)
    zeros = 7.0 + is_negative.float()
    best, best_values = torch.zeros_like(zeros), torch.zeros_like(groups)
    least = torch.full_like(zeros, torch.inf)
    for index, multiplier in enumerate(MULTIPLIERS):
        rounded = (groups / multiplier).round_().clamp_(-zeros, LARGEST_VALUE - zeros)
        error = (rounded * multiplier).sub_(groups).square_().mul_(importance)
        error = error.sum(dim=-1, keepdim=True)
        is_better = error < least
        best = torch.where(is_better, 2.0 * index + is_negative, best)
        best_values = torch.where(is_better, rounded, best_values)
        least = torch.minimum(error, least)
    return FourBitSteps(
        values=best_values.add_(zeros).flatten(1).to(torch.uint8),
        codes=best.squeeze(-1).to(torch.uint8),
        scales=scales,
    )


def round_channels(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Rounds each output channel to 8 bits, symmetrically.

    Returns:
        Whole numbers from -127 to 127 in int8 `[out, in]`, and scales in fp32 `[out, 1]`.
    """
    weight = weight.float()
    scale = (weight.abs().amax(dim=1, keepdim=True) / 127).clamp(min=1e-12)
    return (weight / scale).round().to(torch.int8), scale


def round_ranges(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rounds each row to 8 bits between its smallest and its largest value, zero included.

    A range that reaches as far to both sides of zero has fewer steps for most rows.

    Args:
        rows: `[N, K]` in fp32.

    Returns:
        Whole numbers from -128 to 127 `[N, K]`, scales `[N, 1]`, and the whole numbers that stand
        for zero `[N, 1]`, all in fp32.
    """
    lowest, highest = rows.amin(dim=1, keepdim=True), rows.amax(dim=1, keepdim=True)
    lowest = lowest.clamp(max=0)
    width = (highest.clamp(min=0) - lowest).clamp(min=torch.finfo(torch.float32).tiny * 1e3)
    scales = width / 255
    zeros = -128 - (lowest / scales).round()
    return ((rows / scales).round() + zeros).clamp(max=127), scales, zeros


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


def round_in_two_levels(weight: Tensor, *, num_scales: int, num_groups: int) -> FourBits:
    """Rounds to four bits; groups share a scale, which each multiplies with a whole number.

    The idea is that of llama.cpp's k-quants. Products of such groups are whole numbers until the
    scale that they share, so that there are fewer of them to scale. Of several scales and
    multipliers, the best are those with the least square error, each weighted by the size of its
    weight: large weights matter more than their number.
    """
    parts = weight.float().unflatten(1, (num_scales, num_groups // num_scales, -1))
    largest, least = parts.amax(dim=-1, keepdim=True), parts.amin(dim=-1, keepdim=True)
    zeros = torch.where(-least >= largest, 8.0, 7.0)
    wanted = (torch.maximum(largest, -least) / 8).clamp(min=1e-12)  # [out, S, G / S, 1]
    importance = parts.abs()
    most = wanted.amax(dim=2, keepdim=True) / _LARGEST_MULTIPLIER
    best_scale, best = most, torch.ones_like(wanted)
    least_error = torch.full_like(most, torch.inf)
    for share in _SHARES_OF_SCALE:
        scale = (most * share).bfloat16().float()
        multipliers, errors = _best_multipliers(parts, importance, wanted / scale, scale, zeros)
        error = errors.sum(dim=2, keepdim=True)
        best_scale = torch.where(error < least_error, scale, best_scale)
        best = torch.where(error < least_error, multipliers, best)
        least_error = torch.minimum(error, least_error)
    values = (parts / (best_scale * best)).round_().add_(zeros).clamp_(0, 15)
    return FourBits(
        values=values.flatten(1).to(torch.uint8),
        scales=best_scale.flatten(1),
        multipliers=best.flatten(1).to(torch.uint8),
        zeros=zeros.flatten(1).to(torch.uint8),
    )


def _best_multipliers(
    parts: Tensor, importance: Tensor, wanted: Tensor, scale: Tensor, zeros: Tensor
) -> tuple[Tensor, Tensor]:
    """Of each group near what it wants, and the errors that remain."""
    best, least = torch.ones_like(wanted), torch.full_like(wanted, torch.inf)
    lowest, highest = -zeros, LARGEST_VALUE - zeros
    for down in _STEPS_DOWN:
        multipliers = (wanted.round() - down).clamp(1, _LARGEST_MULTIPLIER)
        step = scale * multipliers
        error = (parts / step).round_().clamp_(lowest, highest).mul_(step).sub_(parts)
        error = error.square_().mul_(importance).sum(dim=-1, keepdim=True)
        best = torch.where(error < least, multipliers, best)
        least = torch.minimum(error, least)
    return best, least
