"""A four-bit linear layer (W4A16) on a CUDA device: the weight is unpacked as it is read."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from martlet.models.linear.stored import StoredInt4
from martlet.models.linear.words import VALUES_PER_WORD, pack_words, unpack_words

MAX_KERNEL_ROWS = 128
"""With more rows the weight is unpacked once, and multiplied as any other."""
_MIN_ROWS = 16
"""What tensor cores take at least."""
_NUM_OUTPUTS, _NUM_INPUTS = 32, 128
"""Of a program: few outputs, so that a narrow layer too has programs for every multiprocessor."""


def fits_int4_cuda(stored: StoredInt4) -> bool:
    """Whether the kernel computes a layer: whole words, and groups in the inputs' own order."""
    return stored.in_features % VALUES_PER_WORD == 0 and stored.has_groups_in_order


class CudaInt4Linear(nn.Module):
    """Computes what the `StoredInt4` that it is made from computes.

    Args:
        stored: A layer for which `fits_int4_cuda` holds. It is read, not kept.
        dtype: Of its input.
    """

    def __init__(self, stored: StoredInt4, dtype: torch.dtype) -> None:
        super().__init__()
        self.in_features, self.out_features = stored.in_features, stored.out_features
        self.bias = None if stored.bias is None else stored.bias.detach()
        scales, zeros = stored.group_scales(), stored.group_zeros()
        self._group_size = self.in_features // scales.shape[1]
        self._words = pack_words(stored.values())  # [out, in / 8]
        self._scales = scales.to(dtype).contiguous()  # [out, G]
        self._zeros = zeros.to(torch.int8).contiguous()  # [out, G]

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in] -> [..., out]`."""
        rows = x.reshape(-1, self.in_features).contiguous()
        if len(rows) > MAX_KERNEL_ROWS:
            out = F.linear(rows, self._unpacked().to(x.dtype))
        else:
            out = self._multiply(rows)
        if self.bias is not None:
            out = out + self.bias
        return out.view(*x.shape[:-1], self.out_features)

    def _multiply(self, rows: Tensor) -> Tensor:
        import triton

        from martlet.models.kernels.int4 import multiply_int4

        out = rows.new_empty(len(rows), self.out_features)
        num_rows = min(64, max(_MIN_ROWS, triton.next_power_of_2(len(rows))))
        grid = (triton.cdiv(len(rows), num_rows), triton.cdiv(self.out_features, _NUM_OUTPUTS))
        multiply_int4[grid](
            rows,
            self._words,
            self._scales,
            self._zeros,
            out,
            len(rows),
            IN=self.in_features,
            OUT=self.out_features,
            GROUP_SIZE=self._group_size,
            NUM_ROWS=num_rows,
            NUM_OUTPUTS=_NUM_OUTPUTS,
            NUM_INPUTS=_NUM_INPUTS,
            PRECISION="ieee",
        )
        return out

    def _unpacked(self) -> Tensor:
        """The weight, `[out, in]`."""
        groups = unpack_words(self._words).unflatten(1, (-1, self._group_size))
        values = (groups - self._zeros[..., None]).to(self._scales.dtype)
        weight: Tensor = (values * self._scales[..., None]).flatten(1)
        return weight

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"
