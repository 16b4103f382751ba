"""The fastest layer of a device for a weight; None where only the plain form can."""

import torch
from torch import nn

from martlet.models.compiled.threads import can_compile, has_tiles
from martlet.models.kernels import has_triton
from martlet.models.linear.compact import compact
from martlet.models.linear.fp8 import ScaledFp8Linear, StoredFp8, fits_fp8_cuda
from martlet.models.linear.int4 import Int4Linear, can_pack_int4
from martlet.models.linear.int4_cuda import CudaInt4Linear, fits_int4_cuda
from martlet.models.linear.int8 import Int8Linear
from martlet.models.linear.int8_cuda import CudaInt8Linear, fits_int8_cuda
from martlet.models.linear.integer import IntegerLinear, can_compute
from martlet.models.linear.packed import PackedLinear, can_pack
from martlet.models.linear.stored import StoredInt4, StoredInt8


def fastest_bf16(linear: nn.Linear) -> nn.Module | None:
    """Computes what a layer with a bf16 weight on the CPU does."""
    if linear.weight.device.type != "cpu" or not can_pack():
        return None
    return compact(linear) or PackedLinear(linear)


def steady_bf16(linear: nn.Linear) -> nn.Module | None:
    """As `fastest_bf16`, and a row comes out the same to the last bit whoever its neighbours are.

    Returns:
        None where that would take longer.
    """
    if linear.weight.dtype != torch.bfloat16 or not can_keep_steady():
        return None
    if (found := compact(linear)) is not None:
        return found
    packed = PackedLinear(linear, is_compiled=True)
    return None if packed.compiled_product is None else packed


def can_keep_steady() -> bool:
    """Whether this machine has products for `steady_bf16`."""
    return can_pack() and can_compile() and not has_tiles()


def fastest_int8(stored: StoredInt8) -> nn.Module | None:
    """Computes what a layer of eight bits does."""
    if stored.weight.device.type == "cuda":
        return CudaInt8Linear(stored) if fits_int8_cuda(stored) else None
    if can_compute(stored):
        return IntegerLinear.of(stored)
    return Int8Linear(stored) if stored.weight.device.type == "cpu" and can_pack() else None


def fastest_int4(stored: StoredInt4, dtype: torch.dtype) -> nn.Module | None:
    """Computes what a layer of four bits does, for tokens of a dtype."""
    device = stored.group_scales().device.type
    if device == "cuda":
        fits = fits_int4_cuda(stored) and has_triton()
        return CudaInt4Linear(stored, dtype) if fits else None
    if dtype != torch.bfloat16:
        return None
    if can_compute(stored):
        return IntegerLinear.of(stored)
    return Int4Linear(stored) if device == "cpu" and can_pack() and can_pack_int4(stored) else None


def fastest_fp8(stored: StoredFp8, dtype: torch.dtype) -> ScaledFp8Linear | None:
    """Computes what a layer of eight bits of floating point does, for tokens of a dtype."""
    fits = dtype == torch.bfloat16 and fits_fp8_cuda(stored)
    return ScaledFp8Linear(stored) if fits else None
