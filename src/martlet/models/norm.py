"""RMS norms in one operation instead of six.

Architectures differ in where they cast and whether the weight is stored less one, so a norm is
replaced only by what was seen to compute the same on random input.
"""

import ctypes

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from martlet.models.compiled.threads import is_compiled_for
from martlet.models.openmp import Call, run


class FusedRMSNorm(nn.Module):
    """Root mean square norm over the last axis (Zhang and Sennrich, arXiv:1910.07467).

    PyTorch has one operation for it, which on a CPU is six; so it is compiled where that can be.
    """

    def __init__(self, weight: Tensor, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach(), requires_grad=False)
        self.eps = eps
        self.out_dtype = weight.dtype
        """Of what comes out of rows in fp32, as they may be on a CPU: as the weight is, or fp32."""
        self._weight_fp32 = weight.detach().float() if weight.device.type == "cpu" else weight
        self._eps_fp32 = ctypes.c_float(eps)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., D] -> [..., D]`."""
        is_rounded = x.dtype == self.weight.dtype or self.out_dtype == self.weight.dtype
        if is_rounded and x.is_contiguous() and is_compiled_for(self.weight, len(self.weight)):
            return self._compiled(x)
        if x.dtype == self.weight.dtype:
            return F.rms_norm(x, self.weight.shape, self.weight, self.eps)
        normed = F.rms_norm(x, self.weight.shape, self._weight_fp32, self.eps)
        return normed.to(self.out_dtype)

    def _compiled(self, x: Tensor) -> Tensor:
        from martlet.models.compiled.norms import ROWS_AT_ONCE

        out = torch.empty_like(x, dtype=self.weight.dtype)
        num_rows = x.numel() // len(self.weight)
        call = self.call(x.data_ptr(), out.data_ptr(), num_rows, is_wide=x.dtype == torch.float32)
        run(call, alone=num_rows <= ROWS_AT_ONCE)
        return out

    def call(self, x: int, out: int, num_rows: int, *, is_wide: bool) -> Call:
        """What norms rows at one address, in bf16 or wide, and writes bf16 rows to another."""
        from martlet.models.compiled.norms import rms_norm

        weight, eps = self._addresses
        sizes = (num_rows, len(self.weight))
        return Call(rms_norm(is_wide=is_wide).address, (x, weight, out, eps, *sizes))

    def call_after_adding(self, x: int, added: int, out: int, num_rows: int) -> Call:
        """What adds wide rows to those at x, where they lie, and norms the sums."""
        from martlet.models.compiled.norms import add_rms_norm

        weight, eps = self._addresses
        sizes = (num_rows, len(self.weight))
        return Call(add_rms_norm().address, (x, added, weight, out, eps, *sizes))

    def call_for_heads(self, x: int, num_rows: int, num_heads: int, row_bytes: int) -> Call:
        """What norms each of the heads at the beginning of wide rows, where they lie."""
        from martlet.models.compiled.norms import norm_heads

        sizes = (row_bytes, num_rows, num_heads, len(self.weight))
        return Call(norm_heads().address, (x, *self._addresses, *sizes))

    @property
    def _addresses(self) -> tuple[int, int]:
        return self._weight_fp32.data_ptr(), ctypes.addressof(self._eps_fp32)


def fuse(norm: nn.Module) -> FusedRMSNorm | None:
    """A fused norm that computes what `norm` does, or None if none was found."""
    weight = getattr(norm, "weight", None)
    eps = getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
    if not isinstance(weight, Tensor) or weight.dim() != 1 or not isinstance(eps, float):
        return None
    for candidate in (FusedRMSNorm(weight, eps), FusedRMSNorm(weight + 1, eps)):
        if _compute_the_same(norm, candidate, weight):
            return candidate
    return None


def _compute_the_same(norm: nn.Module, candidate: nn.Module, weight: Tensor) -> bool:
    generator = torch.Generator(device="cpu").manual_seed(0)
    x = torch.randn(4, weight.shape[0], generator=generator).to(weight)
    expected, got = norm(x).float(), candidate(x).float()
    # Two roundings to the weight's precision apart, at most.
    tolerance = 4 * torch.finfo(weight.dtype).eps
    return bool(torch.allclose(expected, got, rtol=tolerance, atol=tolerance))
