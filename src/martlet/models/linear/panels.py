"""Weights of eight and four bits, laid out for the compiled product.

Shapes: P panels of W outputs each, K inputs in G groups, and these in parts.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from martlet.models.linear.stored import SteppedInt4, StoredInt4, StoredInt8
from martlet.models.machine_code.kind import PANEL, WEIGHT_ZERO

_OUTPUTS_AT_ONCE = 1024
"""A multiple of a panel. Laid out in parts, a weight is not in memory three times."""
_LARGEST_GROUP = 1536
"""Inputs of a token that share a scale, in four bits. At the end of a group a tile adds its sums to
memory, and fewer do so with larger ones; smaller ones keep a large input from rounding more of the
others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Panels:
    """The weights of a layer, in unsigned numbers."""

    group_size: int
    """Inputs of a token that have one scale."""
    part_size: int | None
    """Inputs that share a code, in four bits."""
    is_turned: bool
    """Whether tokens are turned before they are rounded, see `turned`."""
    values: Tensor
    """`[P, K / 4, W, 4]` in uint8; in four bits `[P, K / 8, W, 4]`, where a byte holds an input
    and, higher, the fourth after it."""
    codes: Tensor | None
    """In uint8, in four bits: those of two parts in a byte, `[P, parts / 2, W]`, or with scales for
    each group the zeros `[P, parts, W]`."""
    group_scales: Tensor | None
    """`[P, G, W]` in bf16, of a stored layer of four bits."""
    ends: Tensor
    """`[P, 2, W]` in fp32: scales of the outputs, and the bias; with zeros `[P, 4, W]`: also what
    sums of tokens are multiplied with, and the numbers that stand for zero in these."""

    @property
    def has_zeros(self) -> bool:
        """Whether numbers of their own stand for zero in tokens and in weights of outputs."""
        return self.ends.shape[1] == 4

    @property
    def num_inputs(self) -> int:
        """K."""
        values_a_byte = 1 if self.part_size is None else 2
        return self.values.shape[1] * 4 * values_a_byte


def lay_out(stored: StoredInt8 | StoredInt4 | SteppedInt4) -> Panels:
    """A layer's weights in panels."""
    match stored:
        case StoredInt8():
            return _eight_bits(stored)
        case SteppedInt4():
            return _with_steps(stored)
        case _:
            return _with_group_scales(stored)


def _eight_bits(stored: StoredInt8) -> Panels:
    # With the highest bit changed, a signed byte is unsigned and 128 more.
    weight, scales = stored.weight.detach(), stored.weight_scale.float()
    values = weight.view(torch.uint8)
    own: tuple[Tensor, ...] = ()
    if stored.weight_zero is not None:
        sums = weight.sum(dim=1, keepdim=True)
        own = corrections(scales, stored.weight_zero, sums, stored.in_features)
    return Panels(
        group_size=stored.in_features,
        part_size=None,
        is_turned=stored.is_turned,
        values=_in_panels(values, 8, lambda rows: (rows ^ WEIGHT_ZERO).unflatten(-1, (-1, 4))),
        codes=None,
        group_scales=None,
        ends=ends(scales, stored.bias, *own),
    )


def _with_steps(stored: SteppedInt4) -> Panels:
    rounded = stored.rounded
    part_size = stored.in_features // rounded.codes.shape[1]
    low, high = rounded.codes.unflatten(1, (-1, 2)).unbind(2)
    sizes = range(2 * part_size, _LARGEST_GROUP + 1, 2 * part_size)
    return Panels(
        group_size=max(size for size in sizes if stored.in_features % size == 0),
        part_size=part_size,
        is_turned=stored.is_turned,
        values=_in_panels(rounded.values, 4, _two_in_a_byte),
        codes=by_panel(low | (high << 4)),
        group_scales=None,
        ends=ends(rounded.scales, stored.bias),
    )


def _with_group_scales(stored: StoredInt4) -> Panels:
    scales = stored.group_scales()
    size = stored.in_features // scales.shape[1]
    return Panels(
        group_size=size,
        part_size=size,
        is_turned=False,
        values=_in_panels(stored.values(), 4, _two_in_a_byte),
        codes=by_panel(stored.group_zeros().to(torch.uint8)),
        group_scales=by_panel(scales.bfloat16()),
        ends=ends(torch.ones(stored.out_features, 1), stored.bias),
    )


def ends(scales: Tensor, bias: Tensor | None, *others: Tensor) -> Tensor:
    """See `Panels.ends`: of scales `[out, 1]`, the bias `[out]` and other numbers `[out, 1]`."""
    shift = torch.zeros_like(scales) if bias is None else bias.detach().float().unsqueeze(1)
    return by_panel(torch.cat((scales, shift, *others), dim=1))


def corrections(scales: Tensor, zeros: Tensor, sums: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """What outputs with zeros have at their ends besides, see `machine_code/outputs`.

    Args:
        scales, zeros, sums: Of each output's weights, `[out, 1]`; the sums are of its values.
        width: K.
    """
    return -scales * zeros, -scales * (sums - width * zeros)


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
