"""Linear layers whose product can be written down as calls, to be made later."""

from typing import Protocol, runtime_checkable

import torch

from martlet.models.linear.tokens import LEAST_GROUP, num_bytes
from martlet.models.openmp import Call


@runtime_checkable
class WrittenLinear(Protocol):
    """A layer that is a compiled function, or several."""

    in_features: int
    out_features: int
    out_dtype: torch.dtype
    """Of the products of bf16 rows: bf16, or fp32 for who adds to them."""

    def calls(self, x: int, out: int, num_rows: int, scratch: int) -> list[Call] | None:
        """What multiplies bf16 rows at one address, and writes the products to another.

        Args:
            scratch: An address with room for `scratch_bytes`.

        Returns:
            The calls in order, or None where so many rows are not multiplied by them.
        """


def scratch_bytes(num_rows: int, width: int) -> int:
    """What the calls of a layer may need for so many rows of inputs."""
    return num_bytes(num_rows, width, width // LEAST_GROUP)
