"""A four-bit linear layer (W4A16) in bf16 on the CPU."""

import torch
from torch import Tensor, nn

from martlet.models.linear.stored import StoredInt4

_GROUP_SIZES = (32, 64, 128, 256)
"""What the operator takes."""
_OUTPUTS_AT_ONCE = 16
_MIDDLE = 8
"""The value that the operator takes for 0."""


def can_pack_int4(stored: StoredInt4) -> bool:
    """Whether the operator computes a layer: groups of a known size, in the inputs' own order."""
    size = stored.in_features // stored.group_scales().shape[1]
    fits = size in _GROUP_SIZES and stored.out_features % _OUTPUTS_AT_ONCE == 0
    return fits and stored.has_groups_in_order


class Int4Linear(nn.Module):
    """Computes what the `StoredInt4` that it is made from computes, with scales in bf16.

    Args:
        stored: A layer on the CPU for which `can_pack_int4` holds. It is read, not kept.
    """

    def __init__(self, stored: StoredInt4) -> None:
        super().__init__()
        self.in_features, self.out_features = stored.in_features, stored.out_features
        self.bias = None if stored.bias is None else stored.bias.detach()
        scales, zeros = stored.group_scales(), stored.group_zeros()  # [out, G]
        self._group_size = stored.in_features // scales.shape[1]
        self._weight = torch.ops.aten._convert_weight_to_int4pack_for_cpu(
            stored.values().int().contiguous(), 1
        )
        both = torch.stack((scales, (_MIDDLE - zeros) * scales), dim=-1)  # [out, G, 2]
        self._scales_and_shifts = both.transpose(0, 1).to(torch.bfloat16).contiguous()

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in] -> [..., out]`."""
        if x.numel() == 0:
            return x.new_empty(*x.shape[:-1], self.out_features)
        out: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(
            x.reshape(-1, self.in_features).contiguous(),
            self._weight,
            self._group_size,
            self._scales_and_shifts,
        )
        if self.bias is not None:
            out = out + self.bias
        return out.view(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"
