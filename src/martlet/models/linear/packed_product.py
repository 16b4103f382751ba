"""A packed bf16 weight multiplied with rows by a compiled function.

The function reads oneDNN's packed weight, whose layout is oneDNN's own affair. So it is used only
for a weight with which it was seen to compute what oneDNN computes.
"""

import torch
from torch import Tensor

from martlet.models.compiled.threads import WIDTH, can_compile, has_tiles
from martlet.models.compiled.writing import writing
from martlet.models.openmp import Call, run

FEW_ROWS = 8
"""Rows up to which it is faster than oneDNN where the CPU has tiles (AMX): it uses none."""
_PANEL = 64
"""Outputs; oneDNN pads what is no multiple of it."""


class PackedProduct:
    """The product of a packed weight `[out, in]` and rows.

    A row comes out the same to the last bit, whoever its neighbours are.

    Args:
        weight: As `_reorder_linear_weight` made it; it is kept.
        bias: `[out]`.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        from martlet.models.compiled.product import multiply_rows

        self._multiply = multiply_rows()
        self._weight = weight
        self._address: int = torch.ops.mkldnn.data_ptr(weight)
        self._num_outputs, self._num_inputs = weight.shape
        self._num_panels = -(-self._num_outputs // _PANEL)
        self._bias = torch.zeros(self._num_panels * _PANEL)
        if bias is not None:
            self._bias[: self._num_outputs] = bias

    def is_fastest(self, num_rows: int) -> bool:
        """Whether oneDNN would take longer."""
        return not has_tiles() or num_rows <= FEW_ROWS

    def multiply(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """`[..., in]` in bf16 `-> [..., out]`, in bf16 or fp32."""
        x = x.contiguous()
        out = x.new_empty(*x.shape[:-1], self._num_panels * _PANEL, dtype=dtype)
        run(self.call(x.data_ptr(), out.data_ptr(), x.numel() // self._num_inputs, dtype))
        return out[..., : self._num_outputs]

    @property
    def has_whole_panels(self) -> bool:
        """Whether `call` writes the outputs alone, and not what fills the last panel too."""
        return self._num_outputs % _PANEL == 0

    def call(self, x: int, out: int, num_rows: int, dtype: torch.dtype) -> Call:
        """What multiplies rows at one address, and writes whole panels to another."""
        shape = (num_rows, self._num_panels, self._num_inputs // 2)
        places = (x, self._address, self._bias.data_ptr(), out)
        way = writing(dtype, out, num_rows, self._num_panels * _PANEL)
        return Call(self._multiply.address, (*places, *shape, way))


def packed_product(weight: Tensor, bias: Tensor | None) -> PackedProduct | None:
    """The compiled product of a packed weight, or None where it cannot be had."""
    num_outputs, num_inputs = weight.shape
    if num_inputs % WIDTH or not can_compile():
        return None
    whole_panels = -(-num_outputs // _PANEL) * _PANEL * num_inputs * weight.itemsize
    if torch.ops.mkldnn._nbytes(weight) < whole_panels:
        return None
    candidate = PackedProduct(weight, bias)
    return candidate if _computes_the_same(candidate, weight, bias) else None


def _computes_the_same(candidate: PackedProduct, weight: Tensor, bias: Tensor | None) -> bool:
    generator = torch.Generator(device="cpu").manual_seed(0)
    x = torch.randn(1, weight.shape[1], generator=generator).bfloat16()
    expected = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "").float()
    tolerance = 4 * torch.finfo(torch.bfloat16).eps
    got = candidate.multiply(x, torch.float32)
    return bool((got - expected).norm() <= tolerance * expected.norm())
