"""Linear layers in eight-bit floating point (E4M3): per channel, and dynamically per token.

The format is that of Micikevicius et al., "FP8 formats for deep learning", arXiv:2209.05433.
"""

import torch
from torch import Tensor, nn

FP8 = torch.float8_e4m3fn
LARGEST = torch.finfo(FP8).max
_MULTIPLE = 16
"""Of inputs and outputs, which the product asks for."""
_SMALLEST = 1e-12
"""A row of zeros has no scale of its own."""


def round_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rounds each row by a scale of its own, so that no neighbour matters.

    Returns:
        `[N, in]` in E4M3, and the scales `[N, 1]` in fp32.
    """
    x = x.float()
    scales = (x.abs().amax(dim=-1, keepdim=True) / LARGEST).clamp_min_(_SMALLEST)
    return (x / scales).to(FP8), scales


class StoredFp8(nn.Module):
    """compressed-tensors `float-quantized`, W8A8, computed in plain PyTorch.

    Its parameters have the names that the files use.

    Args:
        linear: The layer whose place it takes.
    """

    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        shape = (self.out_features, self.in_features)
        weight = torch.empty(shape, dtype=FP8, device="meta")
        scale = torch.empty(self.out_features, 1, dtype=torch.float32, device="meta")
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.weight_scale = nn.Parameter(scale, requires_grad=False)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in] -> [..., out]`."""
        rows, scales = round_rows(x.reshape(-1, self.in_features))
        out = rows.float() @ self.weight.float().T * scales * self.weight_scale.float().T
        if self.bias is not None:
            out = out + self.bias.float()
        return out.to(x.dtype).view(*x.shape[:-1], self.out_features)


def fits_fp8_cuda(stored: StoredFp8) -> bool:
    """Whether a device's product takes matrices of these widths, and knows the format."""
    fits = stored.in_features % _MULTIPLE == 0 and stored.out_features % _MULTIPLE == 0
    device = stored.weight.device
    return fits and device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)


class ScaledFp8Linear(nn.Module):
    """Computes what the `StoredFp8` that it is made from computes, in bf16, by one product.

    Args:
        stored: It shares its weight.
    """

    def __init__(self, stored: StoredFp8) -> None:
        super().__init__()
        self.in_features, self.out_features = stored.in_features, stored.out_features
        self.bias = None if stored.bias is None else stored.bias.detach().to(torch.bfloat16)
        self._weight = stored.weight.detach()
        self._scales = stored.weight_scale.detach().float().view(1, -1)  # [1, out]

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in] -> [..., out]`."""
        rows, scales = round_rows(x.reshape(-1, self.in_features))
        out: Tensor = torch._scaled_mm(
            rows,
            self._weight.T,
            scale_a=scales,
            scale_b=self._scales,
            bias=self.bias,
            out_dtype=torch.bfloat16,
        )
        return out.to(x.dtype).view(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"
