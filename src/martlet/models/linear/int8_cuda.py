"""An int8 linear layer (W8A8) on the tensor cores of a CUDA device."""

import torch
from torch import Tensor, nn

from martlet.models.linear.stored import LARGEST_INT8, StoredInt8

_MIN_ROWS = 32
"""cuBLAS takes no integer product of 16 rows or fewer."""
_MULTIPLE = 8
"""Of inputs and outputs, which cuBLAS asks for."""
_SMALLEST = torch.finfo(torch.float32).tiny * 1e3
"""A row of zeros has no scale of its own."""


def fits_int8_cuda(stored: StoredInt8) -> bool:
    """Whether cuBLAS multiplies matrices of these widths."""
    return stored.in_features % _MULTIPLE == 0 and stored.out_features % _MULTIPLE == 0


class CudaInt8Linear(nn.Module):
    """Computes what the `StoredInt8` that it is made from computes.

    Args:
        stored: A layer for which `fits_int8_cuda` holds; it shares its weight.
    """

    def __init__(self, stored: StoredInt8) -> None:
        super().__init__()
        self.in_features, self.out_features = stored.in_features, stored.out_features
        self.bias = None if stored.bias is None else stored.bias.detach()
        self._scales = stored.weight_scale.detach().float().flatten()  # [out]
        self._weight = stored.weight.detach()

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in] -> [..., out]`."""
        rows = x.reshape(-1, self.in_features)
        scales = rows.abs().amax(dim=-1, keepdim=True).float() / LARGEST_INT8  # [T, 1]
        scales = scales.clamp_min_(_SMALLEST)
        values = (rows / scales).round_().to(torch.int8)
        num_padding = max(0, _MIN_ROWS - len(rows))
        if num_padding:
            values = torch.nn.functional.pad(values, (0, 0, 0, num_padding))
        out = torch._int_mm(values, self._weight.T)[: len(rows)]
        out = out * scales * self._scales
        if self.bias is not None:
            out += self.bias
        return out.to(x.dtype).view(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"
