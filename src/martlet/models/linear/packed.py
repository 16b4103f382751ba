"""A bf16 linear layer whose weight is laid out once for oneDNN.

`F.linear` hands oneDNN a row-major weight, which it rearranges anew in each call. Laid out in
advance, a product with few rows takes a half to a third of the time. This folder is the only place
that touches private operators of PyTorch.
"""

from functools import cached_property

import torch
from torch import Tensor, nn

from martlet.models.compiled.threads import is_wide_enough
from martlet.models.linear.packed_product import PackedProduct, packed_product
from martlet.models.openmp import Call

ROWS_HINT = 4
"""The number of rows that the layout is chosen for. A layout for many rows can be ten times slower
with few; one for few rows costs a few percent with many."""


def can_pack() -> bool:
    """Whether this PyTorch and this CPU multiply packed bf16 matrices."""
    return torch.backends.mkldnn.is_available() and bool(
        torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


class PackedLinear(nn.Module):
    """Computes what the `nn.Linear` that it is made from computes.

    Args:
        linear: A layer with a bf16 weight `[out, in]` on the CPU. It is read, not kept.
        is_compiled: Whether its product is compiled however narrow it is.
    """

    def __init__(self, linear: nn.Linear, *, is_compiled: bool = False) -> None:
        super().__init__()
        self._is_compiled = is_compiled
        self.in_features = linear.in_features
        self.out_features = linear.out_features
        self.weight_packed = torch.ops.mkldnn._reorder_linear_weight(
            linear.weight.detach(), ROWS_HINT
        )
        self.bias = None if linear.bias is None else linear.bias.detach()
        self.out_dtype = torch.bfloat16

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in] -> [..., out]`."""
        if x.numel() == 0:
            return x.new_empty(*x.shape[:-1], self.out_features, dtype=self.out_dtype)
        product = self._product
        if product is not None and product.is_fastest(x.numel() // self.in_features):
            return product.multiply(x, self.out_dtype)
        out: Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self.weight_packed, self.bias, "none", [], ""
        )
        return out.to(self.out_dtype)

    def calls(
        self,
        x: int,
        out: int,
        num_rows: int,
        scratch: int,  # noqa: ARG002 -- part of the signature
    ) -> list[Call] | None:
        """See `WrittenLinear`."""
        product = self._product
        if product is None or not product.has_whole_panels or not product.is_fastest(num_rows):
            return None
        return [product.call(x, out, num_rows, self.out_dtype)]

    @property
    def _product(self) -> PackedProduct | None:
        """The compiled one, from when on it is worth compiling."""
        is_wide = is_wide_enough(min(self.in_features, self.out_features))
        return self.compiled_product if self._is_compiled or is_wide else None

    @cached_property
    def compiled_product(self) -> PackedProduct | None:
        """The compiled one; None where it cannot be had."""
        return packed_product(self.weight_packed, self.bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"
