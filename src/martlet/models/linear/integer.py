"""A linear layer of eight or four bits whose product is compiled while the model is loaded."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from martlet.models.linear.panels import by_panel, lay_out
from martlet.models.linear.stored import StoredInt4, StoredInt8
from martlet.models.linear.tokens import RoundedTokens, TokenFormat, round_tokens
from martlet.models.machine_code.kind import ROWS_AT_ONCE, ProductKind
from martlet.models.machine_code.support import can_compile

if TYPE_CHECKING:
    from martlet.models.machine_code.worker import Worker

_WIDTH_UNIT = 16
_WIDEST = 2**16
"""The products of more bytes could have a sum beyond 32 bits."""
_LARGEST_GROUP = 256
_FEW_PRODUCTS = 2**18
"""As many are computed before another thread is awake."""


def can_compute(stored: StoredInt8 | StoredInt4) -> bool:
    """Whether an `IntegerLinear` can take a layer's place, on this machine and in its shape."""
    width = stored.in_features
    if not can_compile() or width % _WIDTH_UNIT or width > _WIDEST:
        return False
    if isinstance(stored, StoredInt8):
        return stored.weight.device.type == "cpu"
    scales = stored.group_scales()
    size, rest = divmod(width, scales.shape[1])
    if scales.device.type != "cpu" or rest or size % _WIDTH_UNIT or size > _LARGEST_GROUP:
        return False
    return torch.equal(stored.group_of_input(), torch.arange(width) // size)


class IntegerLinear(nn.Module):
    """Computes what the layer computes that it is made from, on tokens of eight bits.

    Weights of eight bits meet tokens that have one scale. Weights of four meet tokens that have a
    scale for each group of weights, and have their own scales in bf16.

    Args:
        stored: A layer for which `can_compute` holds. It is read, not kept.
    """

    def __init__(self, stored: StoredInt8 | StoredInt4) -> None:
        super().__init__()
        self.in_features, self.out_features = stored.in_features, stored.out_features
        self.bias = None if stored.bias is None else stored.bias.detach()
        self._products: dict[torch.dtype, Worker] = {}
        self._panels = panels = lay_out(stored)
        self.token_format = TokenFormat(
            group_size=panels.group_size or self.in_features, middle=panels.middle
        )
        bias = torch.zeros(self.out_features) if self.bias is None else self.bias.float()
        self._bias_in_panels = by_panel(bias.unsqueeze(1), panels.bits)
        tensors = (panels.values, panels.scales, panels.zeros, self._bias_in_panels)
        self._addresses = [0 if tensor is None else tensor.data_ptr() for tensor in tensors]

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in] -> [..., out]`."""
        return self.multiply(self.rounded(x))

    def rounded(self, x: Tensor) -> RoundedTokens:
        """What `multiply` takes; layers of one token format can share it."""
        return round_tokens(x, self.token_format)

    def multiply(self, tokens: RoundedTokens) -> Tensor:
        """`[..., out]`, of what `rounded` gave for `[..., in]`."""
        dtype = torch.bfloat16 if tokens.dtype == torch.bfloat16 else torch.float32
        out = torch.empty(*tokens.shape[:-1], self.out_features, dtype=dtype)
        num_rows = tokens.num_rows
        self._product(dtype)(
            -(-num_rows // ROWS_AT_ONCE) * len(self._panels.values),
            *tokens.addresses(),
            *self._addresses,
            out.data_ptr(),
            *(num_rows, self.in_features, self.out_features, tokens.num_groups),
            alone=num_rows * self.in_features * self.out_features <= _FEW_PRODUCTS,
        )
        return out.to(tokens.dtype)

    def _product(self, dtype: torch.dtype) -> "Worker":
        """The compiled function for an output of a type."""
        if dtype not in self._products:
            from martlet.models.machine_code.product import product

            kind = ProductKind(
                bits=self._panels.bits,
                group_size=self._panels.group_size,
                has_zeros=self._panels.zeros is not None,
                dtype=dtype,
            )
            self._products[dtype] = product(kind)
        return self._products[dtype]

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"
