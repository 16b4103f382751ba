"""Weights of eight and four bits, laid out for the compiled product.

Shapes: P panels of W outputs each, K inputs in G groups.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from martlet.models.linear.stored import StoredInt4, StoredInt8
from martlet.models.machine_code.kind import panel_of

_UNSIGNED_ZERO = 128
_MIDDLE = 8
"""What stands for 0 in four bits where the groups do not say."""
_OUTPUTS_AT_ONCE = 1024
"""A multiple of every panel. Laid out in parts, a weight is not in memory three times."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Panels:
    """The weights of a layer, in unsigned numbers."""

    bits: int
    group_size: int | None
    """None for all inputs."""
    values: Tensor
    """`[P, K / 4, W, 4]` in uint8; in four bits `[P, K / 8, W, 4]`, where a byte holds an input
    and, higher, the fourth after it."""
    scales: Tensor
    """`[P, G, W]`, fp32; in four bits bf16."""
    zeros: Tensor | None
    """`[P, G, W]` in uint8: the values that stand for 0, unless it is the middle everywhere."""
    middle: int
    """The value that stands for 0, or 1: what zeros are multiplied with."""


def lay_out(stored: StoredInt8 | StoredInt4) -> Panels:
    """A layer's weights in panels."""
    return _eight_bits(stored) if isinstance(stored, StoredInt8) else _four_bits(stored)


def _eight_bits(stored: StoredInt8) -> Panels:
    # With the highest bit changed, a signed byte is unsigned and 128 more.
    values = stored.weight.detach().view(torch.uint8)
    return Panels(
        bits=8,
        group_size=None,
        values=_in_panels(values, 8, lambda rows: (rows ^ _UNSIGNED_ZERO).unflatten(-1, (-1, 4))),
        scales=by_panel(stored.weight_scale.float(), 8),
        zeros=None,
        middle=_UNSIGNED_ZERO,
    )


def _four_bits(stored: StoredInt4) -> Panels:
    scales, zeros = stored.group_scales(), stored.group_zeros()
    is_symmetric = bool((zeros == _MIDDLE).all())
    return Panels(
        bits=4,
        group_size=stored.in_features // scales.shape[1],
        values=_in_panels(stored.values(), 4, _two_in_a_byte),
        scales=by_panel(scales.bfloat16(), 4),
        zeros=None if is_symmetric else by_panel(zeros.to(torch.uint8), 4),
        middle=_MIDDLE if is_symmetric else 1,
    )


def _two_in_a_byte(rows: Tensor) -> Tensor:
    """`[..., K]` below 16 -> `[..., K / 8, 4]`."""
    low, high = rows.unflatten(-1, (-1, 2, 4)).unbind(-2)
    both: Tensor = low | (high << 4)
    return both


def _in_panels(values: Tensor, bits: int, pack: Callable[[Tensor], Tensor]) -> Tensor:
    """`[out, K]` -> `[P, steps, W, 4]`, by what packs `[P, W, K]` into `[P, W, steps, 4]`."""
    width = panel_of(bits)
    num_panels = -(-len(values) // width)
    num_steps = values.shape[1] * bits // 32
    panels = torch.empty(num_panels, num_steps, width, 4, dtype=torch.uint8)
    for start in range(0, len(values), _OUTPUTS_AT_ONCE):
        rows = _filled(values[start : start + _OUTPUTS_AT_ONCE], width).unflatten(0, (-1, width))
        first = start // width
        panels[first : first + len(rows)] = pack(rows).transpose(1, 2)
    return panels


def by_panel(columns: Tensor, bits: int) -> Tensor:
    """`[out, G] -> [P, G, W]`."""
    width = panel_of(bits)
    panels: Tensor = _filled(columns, width).unflatten(0, (-1, width))
    return panels.transpose(1, 2).contiguous()


def _filled(rows: Tensor, multiple: int) -> Tensor:
    """With as many rows of zeros as a last, full panel needs."""
    return F.pad(rows, (0, 0, 0, -len(rows) % multiple))
