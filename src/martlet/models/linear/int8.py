"""An int8 linear layer (W8A8) on the CPU's integer instructions, through oneDNN."""

import torch
from torch import Tensor, nn

from martlet.models.linear.stored import StoredInt8, quantize_tokens

_ROWS_HINT = 4
_UNSIGNED_ZERO = 128
"""oneDNN multiplies unsigned rows fast, and signed ones in a reference loop."""


class Int8Linear(nn.Module):
    """Computes what the `StoredInt8` that it is made from computes.

    Args:
        stored: A layer on the CPU. It is read, not kept.
    """

    def __init__(self, stored: StoredInt8) -> None:
        super().__init__()
        self.in_features, self.out_features = stored.in_features, stored.out_features
        self.bias = None if stored.bias is None else stored.bias.detach()
        self._scales = stored.weight_scale.detach().float().flatten()  # [out]
        self._weight = torch.ops.onednn.qlinear_prepack(
            stored.weight.detach().contiguous(), [_ROWS_HINT, self.in_features]
        )
        self._weight_zeros = torch.zeros(self.out_features, dtype=torch.int64)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in] -> [..., out]`."""
        if x.numel() == 0:
            return x.new_empty(*x.shape[:-1], self.out_features)
        rows, scale = quantize_tokens(x.reshape(-1, self.in_features))
        out: Tensor = torch.ops.onednn.qlinear_pointwise(
            rows.add_(_UNSIGNED_ZERO).to(torch.uint8),
            1.0,
            _UNSIGNED_ZERO,
            self._weight,
            self._scales,
            self._weight_zeros,
            None,
            1.0,
            0,
            torch.float32,
            "none",
            [],
            "",
        )
        out *= scale
        if self.bias is not None:
            out += self.bias
        return out.to(x.dtype).view(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"
