"""An int8 linear layer (W8A8) on the CPU's integer instructions, through oneDNN."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from martlet.models.linear.stored import LARGEST_INT8, StoredInt8

_ROWS_HINT = 4
_UNSIGNED_ZERO = 128
"""oneDNN multiplies unsigned rows fast, and signed ones in a reference loop."""
_SMALLEST = torch.finfo(torch.float32).tiny * 1e3
"""A row of zeros has no scale of its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundedTokens:
    """Tokens rounded to eight bits, each by a scale of its own."""

    values: Tensor
    """`[T, in]` in uint8; 128 stands for zero."""
    scales: Tensor
    """`[T, 1]` in fp32."""
    shape: torch.Size
    """Of what was rounded."""
    dtype: torch.dtype


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
        return self.multiply(self.rounded(x))

    def rounded(self, x: Tensor) -> RoundedTokens:
        """What `multiply` takes; layers that see the same tokens can share it."""
        rows = x.reshape(-1, self.in_features)
        if not rows.numel():
            return RoundedTokens(values=rows, scales=rows, shape=x.shape, dtype=x.dtype)
        largest = rows.abs().amax(dim=-1, keepdim=True).float()
        scales = largest.clamp_min_(_SMALLEST).div_(LARGEST_INT8)
        # Conversion cuts off what is behind the point, and nothing is negative here: with a half
        # added, it rounds.
        shifted = (rows * scales.reciprocal()).add_(_UNSIGNED_ZERO + 0.5)
        return RoundedTokens(
            values=shifted.to(torch.uint8), scales=scales, shape=x.shape, dtype=x.dtype
        )

    def multiply(self, rows: RoundedTokens) -> Tensor:
        """`[..., out]`, of what `rounded` gave for `[..., in]`."""
        shape = (*rows.shape[:-1], self.out_features)
        if not rows.values.numel():
            return rows.values.new_empty(shape)
        out: Tensor = torch.ops.onednn.qlinear_pointwise(
            rows.values,
            1.0,
            _UNSIGNED_ZERO,
            self._weight,
            self._scales,
            self._weight_zeros,
            None,
            1.0,
            0,
            rows.dtype,
            "none",
            [],
            "",
        )
        out *= rows.scales
        if self.bias is not None:
            out += self.bias
        return out.view(shape)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"
