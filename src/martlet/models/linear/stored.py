"""Quantised linear layers as checkpoints store them, computed in plain PyTorch.

They are what a folder is loaded into, and the oracle of the fast ones in `int8` and `int4`. Their
parameters have the names that the files use, so that transformers fills them without knowing them.

Shapes: G groups of inputs share a scale.
"""

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from martlet.models.linear.rounding import FourBits, FourBitSteps, round_ranges
from martlet.models.linear.turned import turn_tokens
from martlet.models.linear.words import VALUES_PER_WORD, in_awq_order, unpack_words

_MIDDLE = 8
"""The stored value that stands for 0 in a symmetric four-bit layer."""
LARGEST_INT8 = 127


def quantize_tokens(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rounds each token to 8 bits by a scale of its own, so that no neighbour matters.

    Args:
        x: `[T, in]`.

    Returns:
        Whole numbers from -127 to 127 `[T, in]` in fp32, and the scales `[T, 1]` in fp32.
    """
    x = x.float()
    scale = x.abs().amax(dim=-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny * 1e3)
    scale = scale / LARGEST_INT8
    return (x / scale).round_(), scale


class StoredInt8(nn.Module):
    """compressed-tensors `int-quantized`, W8A8: per channel, and dynamically per token.

    Args:
        linear: The layer whose place it takes.
    """

    bias: Tensor | None
    is_turned = False
    """Whether the weight was turned before it was rounded, here and not in a file."""
    weight_zero: Tensor | None = None
    """`[out, 1]` in fp32: the numbers that stand for zero, if it was rounded here so. Then tokens
    have such numbers too."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        shape = (self.out_features, self.in_features)
        self.weight = _stored(*shape, dtype=torch.int8)
        self.weight_scale = _stored(self.out_features, 1, dtype=torch.float32)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in] -> [..., out]`."""
        rows = x.reshape(-1, self.in_features)
        rows = turn_tokens(rows) if self.is_turned else rows.float()
        if self.weight_zero is None:
            rows, scale = quantize_tokens(rows)
            weight = self.weight.float()
        else:
            values, scale, zeros = round_ranges(rows)
            rows, weight = values - zeros, self.weight - self.weight_zero
        out = rows @ weight.T * scale * self.weight_scale.float().T
        if self.bias is not None:
            out = out + self.bias.float()
        return out.to(x.dtype).view(*x.shape[:-1], self.out_features)


class StoredInt4(nn.Module, ABC):
    """Four-bit weights with a scale and a zero for each group of inputs.

    Args:
        linear: The layer whose place it takes.
    """

    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias

    @abstractmethod
    def values(self) -> Tensor:
        """The stored values, 0 to 15, `[out, in]` in uint8."""

    @abstractmethod
    def group_scales(self) -> Tensor:
        """`[out, G]` in fp32."""

    @abstractmethod
    def group_zeros(self) -> Tensor:
        """The stored values that stand for 0, `[out, G]` in fp32."""

    @abstractmethod
    def group_of_input(self) -> Tensor:
        """The group of each input, `[in]`."""

    @property
    def has_groups_in_order(self) -> bool:
        """Whether the groups are stretches of the same length, in the inputs' own order."""
        size, rest = divmod(self.in_features, self.group_scales().shape[1])
        groups = self.group_of_input()
        in_order = torch.arange(self.in_features, device=groups.device) // size
        return rest == 0 and torch.equal(groups, in_order)

    def dequantized(self) -> Tensor:
        """The weight, `[out, in]` in fp32."""
        groups = self.group_of_input()
        return (self.values() - self.group_zeros()[:, groups]) * self.group_scales()[:, groups]

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in] -> [..., out]`."""
        return F.linear(x, self.dequantized().to(x.dtype), self.bias)


class RoundedInt4(StoredInt4):
    """Rounded here, while the model was loaded.

    Args:
        linear: The layer whose place it takes.
        weight: What its weight became.
    """

    def __init__(self, linear: nn.Linear, weight: FourBits) -> None:
        super().__init__(linear)
        self.rounded = nn.Parameter(weight.values, requires_grad=False)
        self.scales = nn.Parameter(weight.scales, requires_grad=False)
        self.multipliers = nn.Parameter(weight.multipliers, requires_grad=False)
        self.zeros = nn.Parameter(weight.zeros, requires_grad=False)

    def values(self) -> Tensor:
        return self.rounded

    def group_scales(self) -> Tensor:
        num_parts = self.multipliers.shape[1] // self.scales.shape[1]
        return self.scales.repeat_interleave(num_parts, dim=1) * self.multipliers

    def group_zeros(self) -> Tensor:
        return self.zeros.float()

    def group_of_input(self) -> Tensor:
        size = self.in_features // self.multipliers.shape[1]
        return torch.arange(self.in_features, device=self.scales.device) // size


class SteppedInt4(nn.Module):
    """Four-bit weights that stand for eight-bit ones, rounded here while the model was loaded.

    Args:
        linear: The layer whose place it takes.
        weight: What its weight became.
        is_turned: Whether it was turned before it was rounded.
    """

    def __init__(self, linear: nn.Linear, weight: FourBitSteps, *, is_turned: bool) -> None:
        super().__init__()
        self.is_turned = is_turned
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.rounded = weight
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in] -> [..., out]`."""
        rows = turn_tokens(x).to(x.dtype) if self.is_turned else x
        return F.linear(rows, self.rounded.dequantized().to(x.dtype), self.bias)


class PackQuantized(StoredInt4):
    """compressed-tensors `pack-quantized`, W4A16.

    Args:
        linear: The layer whose place it takes.
        num_groups: G.
        has_zeros: Whether it is asymmetric.
        has_group_index: Whether inputs were put into groups in another order than their own.
    """

    def __init__(
        self, linear: nn.Linear, *, num_groups: int, has_zeros: bool, has_group_index: bool
    ) -> None:
        super().__init__(linear)
        num_words = -(-self.in_features // VALUES_PER_WORD)
        self.weight_packed = _stored(self.out_features, num_words, dtype=torch.int32)
        self.weight_scale = _stored(self.out_features, num_groups, dtype=torch.float32)
        self.weight_shape = _stored(2, dtype=torch.int64)
        self.weight_zero_point = self.weight_g_idx = None
        if has_zeros:
            rows = -(-self.out_features // VALUES_PER_WORD)
            self.weight_zero_point = _stored(rows, num_groups, dtype=torch.int32)
        if has_group_index:
            self.weight_g_idx = _stored(self.in_features, dtype=torch.int32)

    def values(self) -> Tensor:
        return unpack_words(self.weight_packed)[:, : self.in_features]

    def group_scales(self) -> Tensor:
        return self.weight_scale.float()

    def group_zeros(self) -> Tensor:
        if self.weight_zero_point is None:
            return torch.full_like(self.group_scales(), _MIDDLE)
        return unpack_words(self.weight_zero_point.T).T[: self.out_features].float()

    def group_of_input(self) -> Tensor:
        if self.weight_g_idx is not None:
            return self.weight_g_idx.long()
        size = self.in_features // self.weight_scale.shape[1]
        return torch.arange(self.in_features, device=self.weight_scale.device) // size


class Gptq(StoredInt4):
    """GPTQ as AutoGPTQ and gptqmodel store it (arXiv:2210.17323), transposed to the others.

    Args:
        linear: The layer whose place it takes.
        num_groups: G.
        zero_offset: What is added to a stored zero: 1 in the first format, 0 in the second.
    """

    def __init__(self, linear: nn.Linear, *, num_groups: int, zero_offset: int) -> None:
        super().__init__(linear)
        self._zero_offset = zero_offset
        num_in, num_out = self.in_features, self.out_features
        self.qweight = _stored(num_in // VALUES_PER_WORD, num_out, dtype=torch.int32)
        self.qzeros = _stored(num_groups, num_out // VALUES_PER_WORD, dtype=torch.int32)
        self.scales = _stored(num_groups, num_out, dtype=torch.float32)
        self.g_idx = _stored(num_in, dtype=torch.int32)

    def values(self) -> Tensor:
        return unpack_words(self.qweight.T)

    def group_scales(self) -> Tensor:
        return self.scales.float().T

    def group_zeros(self) -> Tensor:
        # The first format stores a zero less one, modulo 16.
        return ((unpack_words(self.qzeros) + self._zero_offset) & 15).T.float()

    def group_of_input(self) -> Tensor:
        return self.g_idx.long()


class Awq(StoredInt4):
    """AWQ as AutoAWQ's `gemm` version stores it (arXiv:2306.00978): words lie along the outputs.

    Args:
        linear: The layer whose place it takes.
        num_groups: G.
    """

    def __init__(self, linear: nn.Linear, *, num_groups: int) -> None:
        super().__init__(linear)
        num_words = self.out_features // VALUES_PER_WORD
        self.qweight = _stored(self.in_features, num_words, dtype=torch.int32)
        self.qzeros = _stored(num_groups, num_words, dtype=torch.int32)
        self.scales = _stored(num_groups, self.out_features, dtype=torch.float32)

    def values(self) -> Tensor:
        return in_awq_order(unpack_words(self.qweight)).T

    def group_scales(self) -> Tensor:
        return self.scales.float().T

    def group_zeros(self) -> Tensor:
        return in_awq_order(unpack_words(self.qzeros)).T.float()

    def group_of_input(self) -> Tensor:
        size = self.in_features // self.scales.shape[0]
        return torch.arange(self.in_features, device=self.scales.device) // size


def _stored(*shape: int, dtype: torch.dtype) -> nn.Parameter:
    return nn.Parameter(torch.empty(*shape, dtype=dtype, device="meta"), requires_grad=False)
