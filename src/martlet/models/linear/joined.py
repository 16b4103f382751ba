"""Linear layers that see the same input, computed as one product.

Query, key and value of a token are three products of which two are so thin that starting them costs
more than computing them. Model code calls three layers; the first of them that is called computes
all, and the others hand out their columns. Each keeps its name, so that adapters find it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class _Computed:
    """What was computed of an input, until every part was handed out."""

    x: Tensor
    outs: Sequence[Tensor]
    missing: set[int]


class JoinedLinear:
    """One product for several layers.

    Args:
        product: Computes the outputs of all of them, side by side.
        widths: Of each output.
    """

    def __init__(self, product: nn.Module, widths: Sequence[int]) -> None:
        self.product = product
        self._widths = list(widths)
        self._computed: _Computed | None = None

    def part(self, index: int, x: Tensor) -> Tensor:
        """The output of one of the layers, a view of the output of all.

        That an input is the same tensor tells that it is the same: nobody changes it between two
        layers that both see it. Threads may meet here; then each computes for itself.
        """
        computed = self._computed
        if computed is None or computed.x is not x:
            outs = self.product(x).split_with_sizes(self._widths, dim=-1)
            computed = _Computed(x, outs, set(range(len(outs))))
            self._computed = computed
        computed.missing.discard(index)
        if not computed.missing and self._computed is computed:
            self._computed = None
        return computed.outs[index]


class LinearPart(nn.Module):
    """One of the layers of a `JoinedLinear`, in its own place."""

    def __init__(self, linear: nn.Linear, joined: JoinedLinear, index: int) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = None if linear.bias is None else linear.bias.detach()
        self.joined = joined
        self._index = index

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in] -> [..., out]`."""
        return self.joined.part(self._index, x)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"


def join(
    layers: Sequence[nn.Module], faster: Callable[[Callable[[], nn.Linear]], nn.Module | None]
) -> tuple[LinearPart, ...]:
    """The layers that take the places of several that see the same input.

    Args:
        layers: They are read, not kept.
        faster: Makes a fast layer of a plain one, if it can; it gets what makes the plain one.

    Returns:
        One for each, in order; none if they cannot be joined, or would be no faster.
    """
    linears = [layer for layer in layers if type(layer) is nn.Linear]
    kinds = {(each.in_features, each.weight.dtype, each.bias is None) for each in linears}
    if len(linears) != len(layers) or len(kinds) != 1:
        return ()
    product = faster(lambda: _side_by_side(linears))
    if product is None:
        return ()
    joined = JoinedLinear(product, [linear.out_features for linear in linears])
    return tuple(LinearPart(linear, joined, index) for index, linear in enumerate(linears))


def _side_by_side(linears: Sequence[nn.Linear]) -> nn.Linear:
    first = linears[0]
    num_outputs = sum(linear.out_features for linear in linears)
    joined = nn.Linear(first.in_features, num_outputs, bias=False, device="meta")
    weight = torch.cat([linear.weight.detach() for linear in linears])
    joined.weight = nn.Parameter(weight, requires_grad=False)
    if first.bias is not None:
        bias = torch.cat([linear.bias.detach() for linear in linears])
        joined.bias = nn.Parameter(bias, requires_grad=False)
    return joined
