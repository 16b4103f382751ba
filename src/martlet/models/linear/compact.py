"""A bf16 linear layer whose weight takes twelve bits for each value, without loss.

A token of one request reads every weight from memory, and waits for it. Three quarters of the bytes
are three quarters of the time, see `martlet.models.compiled.compact`.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Self

import torch
from torch import Tensor, nn

from martlet.models.compiled.threads import WIDTH, can_compile, has_tiles, is_wide_enough
from martlet.models.compiled.writing import Writing, writing
from martlet.models.openmp import Call, run

BYTES_A_VALUE = 1.5
_PANEL = 64
_FEW_ROWS = 4
_BYTES_AT_ONCE = 2**21
_LEAST_TURNS = 2
"""That each thread can take, so that none waits long for the others."""
_NO_LAYER = (0,) * 5
_MOST_EXCEPTIONS = 1 / 512
"""Of the values of a weight: with more, single rows would wait for them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CompactWeight:
    """A weight `[out, in]` in P panels, as `compiled/compact` lays it out."""

    steps: Tensor
    """`[P, in / 2, 192]` in uint8."""
    tables: Tensor
    """`[P, 32]` in int16: the exponents that codes stand for, twice."""
    exceptions: Tensor
    """`[E + 1]` in int64."""
    firsts: Tensor
    """`[P]` in int64: the number of each panel's first exception."""

    @classmethod
    def of(cls, weight: Tensor) -> Self | None:
        """Lays a bf16 weight out; None for one with too many exceptions."""
        from martlet.models.compiled.compact import EXPONENT_SHIFT, NUM_CODES, STEP_BYTES
        from martlet.models.compiled.compact_layout import pack, survey

        weight = weight.detach().contiguous()
        num_panels, width = weight.shape[0] // _PANEL, weight.shape[1]
        leasts, counts = torch.empty(2, num_panels, dtype=torch.int64)
        sizes = (num_panels, width)
        places = (weight.data_ptr(), leasts.data_ptr(), counts.data_ptr())
        run(Call(survey().address, (*places, *sizes)))
        ends = counts.cumsum(0)
        if ends[-1] > _MOST_EXCEPTIONS * weight.numel():
            return None
        made = cls(
            steps=torch.empty(num_panels, width // 2, STEP_BYTES, dtype=torch.uint8),
            tables=torch.zeros(num_panels, 2, NUM_CODES + 1, dtype=torch.int16),
            exceptions=torch.full((int(ends[-1]) + 1,), -1),
            firsts=ends - counts,
        )
        exponents = leasts[:, None] + torch.arange(NUM_CODES)
        made.tables[:, :, 1:] = (exponents << EXPONENT_SHIFT)[:, None].short()
        own = (weight, leasts, made.firsts, made.steps, made.exceptions)
        run(Call(pack().address, (*(tensor.data_ptr() for tensor in own), *sizes)))
        return made


class CompactLinear(nn.Module):
    """Computes what the `nn.Linear` computes whose weight it has.

    A row comes out the same to the last bit, whoever its neighbours are.

    Args:
        weight: Of a layer for which `can_compact` holds.
        bias: `[out]`.
    """

    def __init__(self, weight: CompactWeight, bias: Tensor | None) -> None:
        from martlet.models.compiled.compact_product import multiply_compact

        super().__init__()
        num_panels, num_pairs, _ = weight.steps.shape
        self.in_features, self.out_features = 2 * num_pairs, num_panels * _PANEL
        self.bias = None if bias is None else bias.detach()
        self.compact_weight, self._multiply = weight, multiply_compact()
        self.out_dtype = torch.bfloat16
        zeros = torch.zeros(self.out_features)
        self._shift = zeros if bias is None else bias.detach().float().contiguous()

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in]` in bf16 `-> [..., out]`."""
        x = x.contiguous()
        out = x.new_empty(*x.shape[:-1], self.out_features, dtype=self.out_dtype)
        run(self._call(x.data_ptr(), out.data_ptr(), x.numel() // self.in_features))
        return out

    def calls(
        self,
        x: int,
        out: int,
        num_rows: int,
        scratch: int,  # noqa: ARG002 -- part of the signature
    ) -> list[Call] | None:
        """See `WrittenLinear`."""
        return [self._call(x, out, num_rows)]

    def gated(self, other: Self, x: Tensor) -> Tensor:
        """`silu(self(x)) * other(x)` in bf16.

        Args:
            other: A layer that `is_like` this one.
        """
        x = x.contiguous()
        out = x.new_empty(*x.shape[:-1], self.out_features)
        run(self._gated_call(other, x.data_ptr(), out.data_ptr(), x.numel() // self.in_features))
        return out

    def gated_calls(
        self,
        other: object,
        x: int,
        out: int,
        num_rows: int,
        scratch: int,  # noqa: ARG002 -- part of the signature
    ) -> list[Call] | None:
        """As `calls`, of `silu(self(x)) * other(x)`; None for few rows, or layers that differ."""
        if self.is_few(num_rows) or not isinstance(other, CompactLinear) or not self.is_like(other):
            return None
        return [self._gated_call(other, x, out, num_rows)]

    def is_like(self, other: "CompactLinear") -> bool:
        """Whether `gated` can be had with a layer."""
        return self.compact_weight.steps.shape == other.compact_weight.steps.shape

    @staticmethod
    def is_few(num_rows: int) -> bool:
        """Whether so few rows wait for memory, which gives most to who reads on where he is."""
        return num_rows <= _FEW_ROWS

    def _call(self, x: int, out: int, num_rows: int) -> Call:
        way = writing(self.out_dtype, out, num_rows, self.out_features)
        return self._call_of((self._addresses(), _NO_LAYER), x, out, num_rows, way)

    def _gated_call(self, other: "CompactLinear", x: int, out: int, num_rows: int) -> Call:
        layers = self._addresses(), other._addresses()
        return self._call_of(layers, x, out, num_rows, Writing.ROUNDED)

    def _call_of(
        self, layers: Iterable[tuple[int, ...]], x: int, out: int, num_rows: int, way: Writing
    ) -> Call:
        shape = (num_rows, *self.compact_weight.steps.shape[:2])
        sizes = (x, out, *shape, self._panels_at_once(num_rows), way)
        return Call(self._multiply.address, (*sizes, *chain.from_iterable(layers)))

    def _addresses(self) -> tuple[int, ...]:
        """Of what a product needs of the layer."""
        weight = self.compact_weight
        own = (weight.steps, weight.tables, weight.exceptions, weight.firsts, self._shift)
        return tuple(tensor.data_ptr() for tensor in own)

    def _panels_at_once(self, num_rows: int) -> int:
        """That a thread takes at a time."""
        if not self.is_few(num_rows):
            return 1
        num_panels, *step = self.compact_weight.steps.shape
        for_all_threads = num_panels // (_LEAST_TURNS * torch.get_num_threads())
        return max(1, min(_BYTES_AT_ONCE // math.prod(step), for_all_threads))

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"


def compact(linear: nn.Linear) -> CompactLinear | None:
    """A layer that computes what another does, which is read and not kept; None if there is none.

    It is there for CPUs that multiply pairs of bf16 by vectors. Those that have tiles for it (AMX)
    multiply many rows faster by them.
    """
    weight = CompactWeight.of(linear.weight) if can_compact(linear) else None
    return None if weight is None else CompactLinear(weight, linear.bias)


def can_compact(linear: nn.Linear) -> bool:
    """Whether a layer's weight can be laid out so, on this machine and in its shape."""
    weight = linear.weight
    num_outputs, num_inputs = weight.shape
    fits = num_outputs % _PANEL == 0 and num_inputs % WIDTH == 0
    is_bf16_on_cpu = weight.dtype == torch.bfloat16 and weight.device.type == "cpu"
    is_worth_it = is_wide_enough(min(num_outputs, num_inputs))
    return fits and is_bf16_on_cpu and is_worth_it and multiplies_compact()


def multiplies_compact() -> bool:
    """Whether this machine's products are faster with twelve bits."""
    return can_compile() and not has_tiles()
