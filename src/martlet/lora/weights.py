"""A linear layer's weight as the layer computes it, whatever form it is stored in."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

NUM_COLUMNS_AT_ONCE = 256
_UNIT = 4096.0
"""Stands for 1 in the identity matrix: large, so that a layer that rounds its output to bf16 after
adding its bias does not round the weight away. A power of two, so that it divides out exactly."""


def features(leaf: nn.Module) -> tuple[int, int] | None:
    """A linear leaf's number of inputs and outputs; None for another leaf."""
    if hasattr(leaf, "nx") and hasattr(leaf, "nf"):
        return int(leaf.nx), int(leaf.nf)  # type: ignore[arg-type]  # Conv1D's names for them
    if hasattr(leaf, "in_features") and hasattr(leaf, "out_features"):
        return int(leaf.in_features), int(leaf.out_features)  # type: ignore[arg-type]
    return None


def columns(
    leaf: nn.Module, dtype: torch.dtype, device: torch.device
) -> Iterator[tuple[slice, Tensor]]:
    """The columns of a linear layer's weight in order, some at a time.

    Args:
        leaf: Its `weight` is not looked at: a packed layer has none.
        dtype: Of its input.
        device: Where it computes.

    Yields:
        Which columns, and `[columns, out]` in fp32.
    """
    shape = features(leaf)
    assert shape is not None, "only linear layers have columns"
    bias = leaf.bias
    for first in range(0, shape[0], NUM_COLUMNS_AT_ONCE):
        count = min(NUM_COLUMNS_AT_ONCE, shape[0] - first)
        unit = torch.zeros(count, shape[0], dtype=dtype, device=device)
        unit[torch.arange(count), first + torch.arange(count)] = _UNIT
        out: Tensor = leaf(unit).float()
        if isinstance(bias, Tensor):
            out = out - bias.float()
        yield slice(first, first + count), out / _UNIT
