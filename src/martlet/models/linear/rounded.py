"""Linear layers rounded to eight or four bits while a model is loaded.

To the nearest, without calibration; `martlet quantize` can do more and writes what it made.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from martlet.models.kernels import has_triton
from martlet.models.linear.fp8 import ScaledFp8Linear, StoredFp8, fits_fp8_cuda, round_rows
from martlet.models.linear.int4 import Int4Linear, can_pack_int4
from martlet.models.linear.int4_cuda import CudaInt4Linear, fits_int4_cuda
from martlet.models.linear.int8 import Int8Linear
from martlet.models.linear.int8_cuda import CudaInt8Linear, fits_int8_cuda
from martlet.models.linear.packed import can_pack
from martlet.models.linear.rounding import round_channels, round_groups
from martlet.models.linear.stored import RoundedInt4, StoredInt4, StoredInt8
from martlet.models.weights import GROUP_SIZE, Weights

_ROWS_AT_ONCE = 8192
"""Rounding makes a few copies in fp32; an LM head is larger than all layers' together."""


def round_linear(linear: nn.Linear, weights: Weights) -> nn.Module | None:
    """A layer that computes what `linear` does, with rounded weights.

    Returns:
        None where the layer must stay as it is: the device has no fast product of its shape.
    """
    match weights:
        case "int8":
            return fast_int8(to_int8(linear))
        case "int4" if linear.in_features % GROUP_SIZE == 0:
            return fast_int4(to_int4(linear), linear.weight.dtype)
        case "fp8":
            return fast_fp8(to_fp8(linear), linear.weight.dtype)
        case _:
            return None


def fast_int8(stored: StoredInt8) -> nn.Module | None:
    """What computes a stored layer fast on its device, if anything does."""
    if stored.weight.device.type == "cuda":
        return CudaInt8Linear(stored) if fits_int8_cuda(stored) else None
    return Int8Linear(stored) if can_pack() else None


def fast_int4(stored: StoredInt4, dtype: torch.dtype) -> nn.Module | None:
    """What computes a stored layer fast on its device for an input of a dtype, if anything does."""
    if stored.group_scales().device.type == "cuda":
        fits = fits_int4_cuda(stored) and has_triton()
        return CudaInt4Linear(stored, dtype) if fits else None
    fits = dtype == torch.bfloat16 and can_pack() and can_pack_int4(stored)
    return Int4Linear(stored) if fits else None


def fast_fp8(stored: StoredFp8, dtype: torch.dtype) -> ScaledFp8Linear | None:
    """What computes a stored layer fast on its device for an input of a dtype, if anything does."""
    fits = dtype == torch.bfloat16 and fits_fp8_cuda(stored)
    return ScaledFp8Linear(stored) if fits else None


def to_int8(linear: nn.Linear) -> StoredInt8:
    """Eight bits, a scale for each output."""
    stored = StoredInt8(linear)
    values, scales = _in_slices(linear.weight, round_channels)
    stored.weight = nn.Parameter(values, requires_grad=False)
    stored.weight_scale = nn.Parameter(scales, requires_grad=False)
    return stored


def to_int4(linear: nn.Linear) -> RoundedInt4:
    """Four bits, a scale for each group of inputs."""
    num_groups = linear.in_features // GROUP_SIZE
    values, scales = _in_slices(linear.weight, lambda rows: round_groups(rows, num_groups))
    return RoundedInt4(linear, values, scales)


def to_fp8(linear: nn.Linear) -> StoredFp8:
    """Eight bits of floating point, a scale for each output."""
    stored = StoredFp8(linear)
    values, scales = _in_slices(linear.weight, round_rows)
    stored.weight = nn.Parameter(values, requires_grad=False)
    stored.weight_scale = nn.Parameter(scales, requires_grad=False)
    return stored


def _in_slices(
    weight: Tensor, rounding: Callable[[Tensor], tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    parts = [rounding(rows) for rows in weight.detach().split(_ROWS_AT_ONCE)]
    values, scales = zip(*parts, strict=True)
    return torch.cat(values), torch.cat(scales)
