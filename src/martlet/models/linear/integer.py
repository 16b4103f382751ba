"""A linear layer of eight or four bits whose product is compiled while the model is loaded."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from martlet.models.linear.panels import by_panel, lay_out
from martlet.models.linear.stored import StoredInt4, StoredInt8
from martlet.models.linear.tokens import LEAST_GROUP, RoundedTokens, places, round_tokens, rounding
from martlet.models.machine_code.kind import ROWS_AT_ONCE, ProductKind
from martlet.models.machine_code.support import can_compile
from martlet.models.openmp import Call, run

if TYPE_CHECKING:
    from martlet.models.machine_code.worker import Worker

_WIDEST = 2**16
"""The products of more bytes could have a sum beyond 32 bits."""
_LARGEST_GROUP = 256
_COMPILED_DTYPES = (torch.bfloat16, torch.float32)
_FEW_VALUES = 2**15
"""Each thread rounds as many by itself, in the memory of its stack."""
_FEW_PRODUCTS = 2**18
"""As many are computed before another thread is awake."""


def can_compute(stored: StoredInt8 | StoredInt4) -> bool:
    """Whether an `IntegerLinear` can take a layer's place, on this machine and in its shape."""
    width = stored.in_features
    if not can_compile() or width % LEAST_GROUP or width > _WIDEST:
        return False
    if isinstance(stored, StoredInt8):
        return stored.weight.device.type == "cpu"
    scales, _ = stored.split_scales()
    size, rest = divmod(width, scales.shape[1])
    if scales.device.type != "cpu" or rest or size % LEAST_GROUP or size > _LARGEST_GROUP:
        return False
    return stored.has_groups_in_order


class IntegerLinear(nn.Module):
    """Computes what the layer computes that it is made from, on tokens of eight bits.

    Weights of eight bits meet tokens that have one scale. Weights of four meet tokens that have a
    scale for each group of weights, and keep their own scales in bf16.

    Args:
        stored: A layer for which `can_compute` holds. It is read, not kept.
    """

    def __init__(self, stored: StoredInt8 | StoredInt4) -> None:
        super().__init__()
        self.in_features, self.out_features = stored.in_features, stored.out_features
        self.bias = None if stored.bias is None else stored.bias.detach()
        self._products: dict[tuple[torch.dtype, bool], Worker] = {}
        self._panels = panels = lay_out(stored)
        self.group_size = panels.group_size
        """Inputs of a token that are rounded by one scale."""
        self._num_groups = self.in_features // panels.group_size
        bias = torch.zeros(self.out_features) if self.bias is None else self.bias.float()
        self._bias_in_panels = by_panel(bias.unsqueeze(1))

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in] -> [..., out]`."""
        return self._multiply_few(x) if self.is_few(x) else self.multiply(self.rounded(x))

    @staticmethod
    def is_few(x: Tensor) -> bool:
        """Whether to round the tokens by themselves, to share them, would take longer."""
        return 0 < x.numel() <= _FEW_VALUES and x.dtype in _COMPILED_DTYPES

    def rounded(self, x: Tensor) -> RoundedTokens:
        """What `multiply` takes; layers of one group size can share it."""
        return round_tokens(x, self.group_size)

    def multiply(self, tokens: RoundedTokens) -> Tensor:
        """`[..., out]`, of what `rounded` gave for `[..., in]`."""
        dtype = torch.bfloat16 if tokens.dtype == torch.bfloat16 else torch.float32
        out = torch.empty(*tokens.shape[:-1], self.out_features, dtype=dtype)
        self._run(self._call(tokens.addresses(), out.data_ptr(), tokens.num_rows, dtype), out)
        return out.to(tokens.dtype)

    def calls(self, x: int, out: int, num_rows: int, scratch: int) -> list[Call] | None:
        """See `WrittenLinear`."""
        if num_rows * self.in_features <= _FEW_VALUES:
            return [self._call_of_few(x, out, num_rows, torch.bfloat16)]
        return [self.rounding_call(x, num_rows, scratch), self.call(scratch, out, num_rows)]

    def rounding_call(self, x: int, num_rows: int, memory: int) -> Call:
        """What rounds bf16 rows for `call`."""
        sizes = (num_rows, self.in_features, self.group_size)
        return rounding(x, memory, *sizes, torch.bfloat16)

    def call(self, memory: int, out: int, num_rows: int) -> Call:
        """What multiplies rounded rows, and writes bf16."""
        tokens = places(memory, num_rows, self.in_features, self._num_groups)
        return self._call(tokens, out, num_rows, torch.bfloat16)

    def _multiply_few(self, x: Tensor) -> Tensor:
        rows, num_rows = x.contiguous(), x.numel() // self.in_features
        out = torch.empty(*x.shape[:-1], self.out_features, dtype=x.dtype)
        self._run(self._call_of_few(rows.data_ptr(), out.data_ptr(), num_rows, x.dtype), out)
        return out

    def _run(self, call: Call, out: Tensor) -> None:
        run(call, alone=out.numel() * self.in_features <= _FEW_PRODUCTS)

    def _call_of_few(self, x: int, out: int, num_rows: int, dtype: torch.dtype) -> Call:
        return self._call((x, self.group_size), out, num_rows, dtype, of_few=True)

    def _call(
        self,
        tokens: Sequence[int],
        out: int,
        num_rows: int,
        dtype: torch.dtype,
        *,
        of_few: bool = False,
    ) -> Call:
        panels = self._panels
        return self._product(dtype, of_few=of_few).call(
            -(-num_rows // ROWS_AT_ONCE) * len(panels.values),
            *tokens,
            *(panels.values.data_ptr(), panels.scales.data_ptr()),
            0 if panels.multipliers is None else panels.multipliers.data_ptr(),
            *(self._bias_in_panels.data_ptr(), out),
            *(num_rows, self.in_features, self.out_features, self._num_groups),
        )

    def _product(self, dtype: torch.dtype, *, of_few: bool = False) -> "Worker":
        """The compiled function for an output of a type."""
        known = self._products.get((dtype, of_few))
        if known is None:
            from martlet.models.machine_code.product import product, product_of_few

            kind = ProductKind(
                bits=self._panels.bits,
                part_size=self._panels.part_size,
                dtype=dtype,
            )
            known = product_of_few(kind) if of_few else product(kind)
            self._products[dtype, of_few] = known
        return known

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"
