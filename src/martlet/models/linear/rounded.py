"""Linear layers rounded to eight or four bits while a model is loaded.

To the nearest, without calibration; `martlet quantize` can do more and writes what it made.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from martlet.models.compiled.threads import is_compiled_for, run
from martlet.models.linear.fastest import fastest_fp8, fastest_int4, fastest_int8
from martlet.models.linear.fp8 import StoredFp8, round_rows
from martlet.models.linear.integer import IntegerLinear, can_multiply
from martlet.models.linear.panels import Panels, corrections, ends
from martlet.models.linear.rounding import (
    FourBits,
    FourBitSteps,
    round_channels,
    round_in_two_levels,
    round_ranges,
    round_to_steps,
)
from martlet.models.linear.stored import RoundedInt4, SteppedInt4, StoredInt8
from martlet.models.linear.turned import can_turn, turn_weight
from martlet.models.machine_code.kind import PANEL
from martlet.models.weights import GROUP_SIZE, SCALE_SIZES, STEP_GROUP_SIZE, Weights

_OUTPUTS_AT_ONCE = 16
"""That a thread of the compiled function takes."""
_VALUES_AT_ONCE = 2**18
"""Rounding makes several copies in fp32, which should stay in the cache."""


def round_linear(linear: nn.Linear, weights: Weights) -> nn.Module | None:
    """A layer that computes what `linear` does, with rounded weights.

    Returns:
        None where the layer must stay as it is: the device has no fast product of its shape.
    """
    match weights:
        case "int8":
            if not can_multiply(linear.weight):
                return fastest_int8(to_int8(linear))
            if fits_compiled_ranges(linear):
                panels = to_int8_panels(linear)
                bias = None if linear.bias is None else linear.bias.detach()
                return IntegerLinear(panels, out_features=linear.out_features, bias=bias)
            is_turned = can_turn(linear.in_features)
            return fastest_int8(to_int8(linear, is_turned=is_turned, has_zeros=True))
        case "int4" if linear.in_features % GROUP_SIZE == 0:
            if linear.weight.dtype == torch.bfloat16 and can_multiply(linear.weight):
                is_turned = can_turn(linear.in_features)
                return IntegerLinear.of(to_int4_steps(linear, is_turned=is_turned))
            return fastest_int4(to_int4(linear), linear.weight.dtype)
        case "fp8":
            return fastest_fp8(to_fp8(linear), linear.weight.dtype)
        case _:
            return None


def to_int8(linear: nn.Linear, *, is_turned: bool = False, has_zeros: bool = False) -> StoredInt8:
    """Eight bits, a scale for each output.

    Args:
        is_turned: Whether inputs are turned, see `turned`; compiled products alone do so.
        has_zeros: Whether a number of its own stands for zero in each output; likewise.
    """

    def rounding(rows: Tensor) -> tuple[Tensor, ...]:
        rows = turn_weight(rows.float()) if is_turned else rows.float()
        if not has_zeros:
            return round_channels(rows)
        values, *others = round_ranges(rows)
        return values.to(torch.int8), *others

    stored = StoredInt8(linear)
    stored.is_turned = is_turned
    values, scales, *zeros = _in_slices(linear.weight, rounding)
    stored.weight = nn.Parameter(values, requires_grad=False)
    stored.weight_scale = nn.Parameter(scales, requires_grad=False)
    stored.weight_zero = zeros[0] if zeros else None
    return stored


def fits_compiled_ranges(linear: nn.Linear) -> bool:
    """Whether `to_int8_panels` takes a layer, and is worth compiling for it."""
    num_outputs, width = linear.weight.shape
    fits = num_outputs % _OUTPUTS_AT_ONCE == 0 and can_turn(width)
    return fits and is_compiled_for(linear.weight, width)


def to_int8_panels(linear: nn.Linear) -> Panels:
    """As `lay_out` of `to_int8`, turned and with zeros, by a compiled function."""
    from martlet.models.compiled.range_rounding import round_to_ranges

    weight = linear.weight.detach().contiguous()
    num_outputs, width = weight.shape
    num_panels = -(-num_outputs // PANEL)
    is_whole = num_outputs % PANEL == 0
    make = torch.empty if is_whole else torch.zeros
    values = make(num_panels, width // 4, PANEL, 4, dtype=torch.uint8)
    scales, zeros, sums = torch.empty(3, num_outputs, 1)
    places = (each.data_ptr() for each in (weight, values, scales, zeros, sums))
    run(round_to_ranges(), (*places, num_outputs, width))
    return Panels(
        group_size=width,
        part_size=None,
        is_turned=True,
        values=values,
        codes=None,
        group_scales=None,
        ends=ends(scales, linear.bias, *corrections(scales, zeros, sums, width)),
    )


def to_int4(linear: nn.Linear) -> RoundedInt4:
    """Four bits, a multiplier for each group of inputs, and a scale for some groups together.

    For PyTorch's operators and for GPUs, whose groups are larger than those of compiled products.
    """
    width = linear.in_features
    num_scales = width // next(size for size in SCALE_SIZES if width % size == 0)

    def rounding(rows: Tensor) -> tuple[Tensor, ...]:
        rounded = round_in_two_levels(rows, num_scales=num_scales, num_groups=width // GROUP_SIZE)
        return rounded.values, rounded.scales, rounded.multipliers, rounded.zeros

    values, scales, multipliers, zeros = _in_slices(linear.weight, rounding)
    weight = FourBits(values=values, scales=scales, multipliers=multipliers, zeros=zeros)
    return RoundedInt4(linear, weight)


def to_int4_steps(linear: nn.Linear, *, is_turned: bool = False) -> SteppedInt4:
    """Four bits that stand for eight, as compiled products take them.

    Args:
        is_turned: Whether inputs are turned, see `turned`.
    """
    num_groups = linear.in_features // STEP_GROUP_SIZE
    weight = linear.weight.detach()
    weight = turn_weight(weight) if is_turned else weight
    if is_compiled_for(weight, linear.in_features):
        steps = _compiled_steps(weight, num_groups)
        return SteppedInt4(linear, steps, is_turned=is_turned)

    def rounding(rows: Tensor) -> tuple[Tensor, ...]:
        rounded = round_to_steps(rows, num_groups=num_groups)
        return rounded.values, rounded.codes, rounded.scales

    values, codes, scales = _in_slices(weight, rounding)
    steps = FourBitSteps(values=values, codes=codes, scales=scales)
    return SteppedInt4(linear, steps, is_turned=is_turned)


def _compiled_steps(weight: Tensor, num_groups: int) -> FourBitSteps:
    """As `round_to_steps`."""
    from martlet.models.compiled.step_rounding import round_steps

    weight = weight.contiguous()
    num_rows, width = weight.shape
    values = torch.empty(num_rows, width, dtype=torch.uint8)
    codes = torch.empty(num_rows, num_groups, dtype=torch.uint8)
    scales = torch.empty(num_rows, 1)
    places = (each.data_ptr() for each in (weight, values, codes, scales))
    run(round_steps(), (*places, num_rows, width, width // num_groups))
    return FourBitSteps(values=values, codes=codes, scales=scales)


def to_fp8(linear: nn.Linear) -> StoredFp8:
    """Eight bits of floating point, a scale for each output."""
    stored = StoredFp8(linear)
    values, scales = _in_slices(linear.weight, round_rows)
    stored.weight = nn.Parameter(values, requires_grad=False)
    stored.weight_scale = nn.Parameter(scales, requires_grad=False)
    return stored


def _in_slices(
    weight: Tensor, rounding: Callable[[Tensor], tuple[Tensor, ...]]
) -> tuple[Tensor, ...]:
    weight = weight.detach()
    num_rows = -(-_VALUES_AT_ONCE // weight.shape[1])
    values = torch.empty(weight.shape, dtype=rounding(weight[:1])[0].dtype, device=weight.device)
    others = []
    for start in range(0, len(weight), num_rows):
        rows = slice(start, start + num_rows)
        values[rows], *more = rounding(weight[rows])
        others.append(more)
    return values, *(torch.cat(each) for each in zip(*others, strict=True))
