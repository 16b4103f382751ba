"""The product of two thin matrices, added to what a linear layer computed.

In bf16 on a CPU both are laid out once for oneDNN, as in `packed`, and the second product does the
adding.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from martlet.models.linear.packed import ROWS_HINT, can_pack


class LowRank:
    """Computes `out + (x @ down.T) @ up`, in two steps, between which the caller may mask.

    Args:
        down: `[R, in]`. It is read, not kept, where it can be packed.
        up: `[R, out]`.
    """

    def __init__(self, down: Tensor, up: Tensor) -> None:
        self._is_packed = down.dtype == torch.bfloat16 and down.device.type == "cpu" and can_pack()
        self._down = _packed(down) if self._is_packed else down
        self._up = _packed(up.T.contiguous()) if self._is_packed else up

    def ranks(self, x: Tensor) -> Tensor:
        """`[T, in] -> [T, R]`."""
        if not self._is_packed:
            return F.linear(x, self._down)
        ranks: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._down, None, "none", [], "")
        return ranks

    def add(self, out: Tensor, ranks: Tensor) -> Tensor:
        """`[T, out]` and `[T, R] -> [T, out]`, a new tensor."""
        if not self._is_packed:
            return torch.addmm(out, ranks, self._up)
        added: Tensor = torch.ops.mkldnn._linear_pointwise.binary(ranks, out, self._up, None, "add")
        return added


def _packed(weight: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS_HINT)
    return packed
