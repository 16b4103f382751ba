"""A linear layer of eight or four bits whose product is compiled while the model is loaded."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn

from martlet.models.compiled.writing import Writing, writing
from martlet.models.linear.panels import Panels, lay_out
from martlet.models.linear.stored import SteppedInt4, StoredInt4, StoredInt8
from martlet.models.linear.tokens import (
    LEAST_GROUP,
    RoundedTokens,
    compiled_rounding,
    places,
    round_tokens,
    rounding,
)
from martlet.models.machine_code.kind import ROWS_AT_ONCE, ProductKind, TokenKind
from martlet.models.machine_code.support import can_compile, looks_up_bytes
from martlet.models.openmp import Call, run

if TYPE_CHECKING:
    from martlet.models.machine_code.product import Products

_WIDEST = 2**16
"""The products of more bytes could have a sum beyond 32 bits."""
_LARGEST_GROUP = 256
_COMPILED_DTYPES = (torch.bfloat16, torch.float32)
_FEW_VALUES = 2**15
"""Each thread rounds as many by itself, in the memory of its stack."""
_FEW_PRODUCTS = 2**18
"""As many are computed before another thread is awake."""
_MOST_AT_ONCE = 32
"""Panels that a thread takes at a time, for few tokens."""
_LEAST_TURNS = 2
"""That each thread can take, so that none waits long for the others."""


def can_compute(stored: StoredInt8 | StoredInt4) -> bool:
    """Whether an `IntegerLinear` can take a layer's place, on this machine and in its shape."""
    if isinstance(stored, StoredInt8):
        return can_multiply(stored.weight)
    scales = stored.group_scales()
    size, rest = divmod(stored.in_features, scales.shape[1])
    if rest or size % LEAST_GROUP or size > _LARGEST_GROUP:
        return False
    return can_multiply(stored.values()) and stored.has_groups_in_order


def can_multiply(weight: Tensor) -> bool:
    """Whether an `IntegerLinear` can multiply with a weight `[out, in]` once it is rounded."""
    width = weight.shape[1]
    fits = width % LEAST_GROUP == 0 and width <= _WIDEST
    return fits and weight.device.type == "cpu" and can_compile()


class IntegerLinear(nn.Module):
    """Computes what the layer computes that it is made from, on tokens of eight bits.

    Weights of eight bits meet tokens that have one scale, weights of four tokens that have a scale
    for each group of inputs. Scales that stored weights have for each group are kept in bf16.

    Args:
        panels: The weight.
        out_features: Outputs; the last panel may be wider.
        bias: `[out]`.
    """

    def __init__(self, panels: Panels, *, out_features: int, bias: Tensor | None) -> None:
        super().__init__()
        self.in_features, self.out_features = panels.num_inputs, out_features
        self.bias = bias
        self.out_dtype = torch.bfloat16
        self._products: dict[torch.dtype, Products] = {}
        self.panels = panels
        self.group_size = panels.group_size
        """Inputs of a token that are rounded by one scale."""
        self._num_groups = self.in_features // panels.group_size

    @classmethod
    def of(cls, stored: StoredInt8 | StoredInt4 | SteppedInt4) -> Self:
        """Lays a layer out for which `can_compute` holds, or `can_multiply` for its weight.

        It is read, not kept.
        """
        bias = None if stored.bias is None else stored.bias.detach()
        return cls(lay_out(stored), out_features=stored.out_features, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in] -> [..., out]`."""
        return self._multiply_few(x) if self.is_few(x) else self.multiply(self.rounded(x))

    @staticmethod
    def is_few(x: Tensor) -> bool:
        """Whether to round the tokens by themselves, to share them, would take longer."""
        return 0 < x.numel() <= _FEW_VALUES and x.dtype in _COMPILED_DTYPES

    def rounded(self, x: Tensor) -> RoundedTokens:
        """What `multiply` takes; layers of one group size can share it."""
        kind = self._token_kind(_compiled_dtype(x.dtype))
        return round_tokens(x, self.group_size, kind)

    def multiply(self, tokens: RoundedTokens) -> Tensor:
        """`[..., out]`, of what `rounded` gave for `[..., in]`."""
        dtype = _compiled_dtype(tokens.dtype)
        out = torch.empty(*tokens.shape[:-1], self.out_features, dtype=self._out_dtype(dtype))
        call = self._call_of_many(tokens.addresses(), out.data_ptr(), tokens.num_rows, dtype)
        self._run(call, out)
        return out if tokens.dtype == dtype else out.to(tokens.dtype)

    def calls(self, x: int, out: int, num_rows: int, scratch: int) -> list[Call] | None:
        """See `WrittenLinear`."""
        if num_rows * self.in_features <= _FEW_VALUES:
            return [self._call_of_few(x, out, num_rows, torch.bfloat16)]
        return [self.rounding_call(x, num_rows, scratch), self.call(scratch, out, num_rows)]

    def rounding_call(self, x: int, num_rows: int, memory: int) -> Call:
        """What rounds bf16 rows for `call`."""
        sizes = (num_rows, self.in_features, self.group_size)
        return rounding(x, memory, *sizes, self._token_kind(torch.bfloat16))

    def call(self, memory: int, out: int, num_rows: int) -> Call:
        """What multiplies rounded rows that were in bf16."""
        tokens = places(memory, num_rows, self.in_features, self._num_groups)
        return self._call_of_many(tokens, out, num_rows, torch.bfloat16)

    def is_like(self, other: object) -> bool:
        """Whether a layer multiplies the same rounded tokens, and `gated` can be had with it."""
        return isinstance(other, IntegerLinear) and self._likeness == other._likeness

    @property
    def _likeness(self) -> tuple[object, ...]:
        kind = self._kind(torch.bfloat16)
        return self.in_features, self.out_features, self.group_size, kind

    def gated(self, other: "IntegerLinear", tokens: RoundedTokens) -> Tensor:
        """`silu(self(x)) * other(x)`, of what `rounded` gave for x in bf16.

        Args:
            other: A layer that `is_like` this one.
        """
        out = torch.empty(*tokens.shape[:-1], self.out_features, dtype=torch.bfloat16)
        memory = tokens.memory.data_ptr()
        self._run(self._gated_call(other, memory, out.data_ptr(), tokens.num_rows), out)
        return out

    def gated_calls(
        self, other: object, x: int, out: int, num_rows: int, scratch: int
    ) -> list[Call] | None:
        """As `calls`, of `silu(self(x)) * other(x)`; None for few rows, or layers that differ."""
        if num_rows * self.in_features <= _FEW_VALUES or not isinstance(other, IntegerLinear):
            return None
        if not self.is_like(other):
            return None
        gated = self._gated_call(other, scratch, out, num_rows)
        return [self.rounding_call(x, num_rows, scratch), gated]

    def _gated_call(self, other: "IntegerLinear", memory: int, out: int, num_rows: int) -> Call:
        tokens = places(memory, num_rows, self.in_features, self._num_groups)
        weights = (*self._addresses(), *other._addresses())
        gated = self.compiled_for(torch.bfloat16).gated()
        sizes = self._sizes(num_rows)
        way = Writing.ROUNDED
        return gated.call(self._num_items(num_rows), *tokens, *weights, out, way, *sizes)

    def _multiply_few(self, x: Tensor) -> Tensor:
        rows, num_rows = x.contiguous(), x.numel() // self.in_features
        out = torch.empty(*x.shape[:-1], self.out_features, dtype=self._out_dtype(x.dtype))
        self._run(self._call_of_few(rows.data_ptr(), out.data_ptr(), num_rows, x.dtype), out)
        return out

    def _run(self, call: Call, out: Tensor) -> None:
        run(call, alone=out.numel() * self.in_features <= _FEW_PRODUCTS)

    def _call_of_few(self, x: int, out: int, num_rows: int, dtype: torch.dtype) -> Call:
        num_items = self._num_items(num_rows)
        at_once = num_items // (_LEAST_TURNS * torch.get_num_threads())
        at_once = max(1, min(at_once, _MOST_AT_ONCE))
        tokens = (x, self.group_size, at_once)
        way = writing(self._out_dtype(dtype), out, num_rows, self.out_features)
        places = *tokens, *self._addresses(), out, way
        product = self.compiled_for(dtype).of_few
        return product.call(-(-num_items // at_once), *places, *self._sizes(num_rows))

    def _call_of_many(
        self, tokens: Sequence[int], out: int, num_rows: int, dtype: torch.dtype
    ) -> Call:
        way = writing(self._out_dtype(dtype), out, num_rows, self.out_features)
        places = *tokens, *self._addresses(), out, way
        product = self.compiled_for(dtype).product
        return product.call(self._num_items(num_rows), *places, *self._sizes(num_rows))

    def _out_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """What tokens of a type become."""
        return self.out_dtype if dtype == torch.bfloat16 else torch.float32

    def _num_items(self, num_rows: int) -> int:
        """Panels, for as many rows as go through at once."""
        return -(-num_rows // ROWS_AT_ONCE) * len(self.panels.values)

    def _addresses(self) -> tuple[int, ...]:
        """Of the weights, as products take them."""
        panels = self.panels
        tensors = (panels.values, panels.group_scales, panels.codes, panels.ends)
        return tuple(0 if tensor is None else tensor.data_ptr() for tensor in tensors)

    def _sizes(self, num_rows: int) -> tuple[int, ...]:
        return num_rows, self.in_features, self.out_features, self._num_groups

    def compile_for(self, dtype: torch.dtype) -> None:
        """Compiles what tokens of a type will need, so that none of them waits for it."""
        dtype = _compiled_dtype(dtype)
        compiled_rounding(self._token_kind(dtype))
        self.compiled_for(dtype)

    def compiled_for(self, dtype: torch.dtype) -> "Products":
        """The functions for an output of a type; the first layer of a kind waits for them."""
        known = self._products.get(dtype)
        if known is None:
            from martlet.models.machine_code.product import products

            known = self._products[dtype] = products(self._kind(dtype))
        return known

    def _kind(self, dtype: torch.dtype) -> ProductKind:
        return ProductKind(
            part_size=self.panels.part_size,
            has_group_scales=self.panels.group_scales is not None,
            tokens=self._token_kind(dtype),
            looks_up=looks_up_bytes(),
        )

    def _token_kind(self, dtype: torch.dtype) -> TokenKind:
        panels = self.panels
        return TokenKind(dtype=dtype, is_turned=panels.is_turned, has_zeros=panels.has_zeros)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"


def _compiled_dtype(dtype: torch.dtype) -> torch.dtype:
    """As what functions take tokens of a type."""
    return torch.bfloat16 if dtype == torch.bfloat16 else torch.float32
