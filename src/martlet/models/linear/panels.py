"""Weights of eight and four bits, laid out for the compiled product.

Shapes: P panels of W outputs each, K inputs in G groups, and these in parts.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from martlet.models.linear.stored import StoredInt4, StoredInt8
from martlet.models.machine_code.kind import PANEL, WEIGHT_ZERO

_OUTPUTS_AT_ONCE = 1024
"""A multiple of a panel. Laid out in parts, a weight is not in memory three times."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Panels:
    """The weights of a layer, in unsigned numbers."""

    bits: int
    group_size: int
    """Inputs of a token that have one scale."""
    part_size: int | None
    """Inputs that share a multiplier and a zero, in four bits."""
    values: Tensor
    """`[P, K / 4, W, 4]` in uint8; in four bits `[P, K / 8, W, 4]`, where a byte holds an input
    and, higher, the fourth after it."""
    scales: Tensor
    """`[P, G, W]`, fp32; in four bits bf16."""
    multipliers: Tensor | None
    """`[P, parts, W]` in uint8, in four bits: what weights are multiplied with beside their scale
    and, higher, the value that stands for 0."""


def lay_out(stored: StoredInt8 | StoredInt4) -> Panels:
    """A layer's weights in panels."""
    return _eight_bits(stored) if isinstance(stored, StoredInt8) else _four_bits(stored)


def _eight_bits(stored: StoredInt8) -> Panels:
    # With the highest bit changed, a signed byte is unsigned and 128 more.
    values = stored.weight.detach().view(torch.uint8)
    return Panels(
        bits=8,
        group_size=stored.in_features,
        part_size=None,
        values=_in_panels(values, 8, lambda rows: (rows ^ WEIGHT_ZERO).unflatten(-1, (-1, 4))),
        scales=by_panel(stored.weight_scale.float()),
        multipliers=None,
    )


def _four_bits(stored: StoredInt4) -> Panels:
    scales, multipliers = stored.split_scales()
    both = multipliers | (stored.group_zeros().to(torch.uint8) << 4)
    return Panels(
        bits=4,
        group_size=stored.in_features // scales.shape[1],
        part_size=stored.in_features // multipliers.shape[1],
        values=_in_panels(stored.values(), 4, _two_in_a_byte),
        scales=by_panel(scales.bfloat16()),
        multipliers=by_panel(both),
    )


def _two_in_a_byte(rows: Tensor) -> Tensor:
    """`[..., K]` below 16 -> `[..., K / 8, 4]`."""
    low, high = rows.unflatten(-1, (-1, 2, 4)).unbind(-2)
    both: Tensor = low | (high << 4)
    return both


def _in_panels(values: Tensor, bits: int, pack: Callable[[Tensor], Tensor]) -> Tensor:
    """`[out, K]` -> `[P, steps, W, 4]`, by what packs `[P, W, K]` into `[P, W, steps, 4]`."""
    num_panels = -(-len(values) // PANEL)
    num_steps = values.shape[1] * bits // 32
    panels = torch.empty(num_panels, num_steps, PANEL, 4, dtype=torch.uint8)
    for start in range(0, len(values), _OUTPUTS_AT_ONCE):
        rows = _in_whole_panels(values[start : start + _OUTPUTS_AT_ONCE])
        first = start // PANEL
        panels[first : first + len(rows)] = pack(rows).transpose(1, 2)
    return panels


def by_panel(columns: Tensor) -> Tensor:
    """`[out, G] -> [P, G, W]`."""
    return _in_whole_panels(columns).transpose(1, 2).contiguous()


def _in_whole_panels(rows: Tensor) -> Tensor:
    """`[out, K] -> [P, W, K]`, with rows of zeros at the end of the last."""
    filled = F.pad(rows, (0, 0, 0, -len(rows) % PANEL))
    panels: Tensor = filled.unflatten(0, (-1, PANEL))
    return panels
