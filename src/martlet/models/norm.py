"""RMS norms in one operation instead of six.

Architectures differ in where they cast and whether the weight is stored less one, so a norm is
replaced only by what was seen to compute the same on random input.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FusedRMSNorm(nn.Module):
    """Root mean square norm over the last axis (Zhang and Sennrich, arXiv:1910.07467)."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach(), requires_grad=False)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """`[..., D] -> [..., D]`."""
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


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
