"""The whole numbers of a step, on the device in one copy.

Everything that changes from step to step is a whole number: tokens, positions, slots, work items,
block tables. They lie behind each other in one tensor, at places that depend on the capacities
alone, so that a recorded graph finds them there again.

Shapes: T rows, N rows whose logits are wanted.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import prod

import torch
from torch import Tensor

from martlet.engine.cuda.shared_runs import Ints


@dataclass(frozen=True, kw_only=True)
class StepArrays:
    """A step's numbers on the host."""

    input_ids: Ints
    """`[T]`."""
    position_ids: Ints
    """`[T]`."""
    slots: Ints
    """`[T]`."""
    logit_rows: Ints
    """`[N]`."""
    first_parts: Ints
    """`[T]`."""
    num_parts: Ints
    """`[T]`."""
    narrow: Ints
    """`[items, fields]`."""
    wide: Ints
    """`[items, fields]`."""
    block_ids: Ints
    """Block tables one behind the other; last, so that no more of them than are used is copied."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {each.name: getattr(self, each.name).shape for each in fields(self)}


class StepBuffer:
    """Room on the device for one step.

    Args:
        shapes: Of each field of `StepArrays`, in its order; a step may have fewer rows.
        device: Where the model is.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], device: torch.device) -> None:
        self._shapes = dict(shapes)
        sizes = [prod(shape) for shape in self._shapes.values()]
        self._whole = torch.empty(sum(sizes), dtype=torch.int64, device=device)
        parts = zip(self._shapes.items(), self._whole.split(sizes), strict=True)
        self._views: dict[str, Tensor] = {name: part.view(shape) for (name, shape), part in parts}

    def __getitem__(self, name: str) -> Tensor:
        return self._views[name]

    def load(self, arrays: StepArrays) -> None:
        """Copies a step in; rows beyond its own are no tokens, and items beyond its own are empty.

        Nothing waits for the copy: the host's memory is kept until it is done.
        """
        num_block_ids = len(arrays.block_ids)
        num_used = len(self._whole) - self._shapes["block_ids"][0] + num_block_ids
        is_cuda = self._whole.device.type == "cuda"
        host = torch.zeros(num_used, dtype=torch.int64, pin_memory=is_cuda)
        numbers = host.numpy()
        first = 0
        for name, shape in self._shapes.items():
            values = getattr(arrays, name).ravel()
            assert len(values) <= prod(shape), f"a step has more {name} than there is room for"
            if name == "slots":
                numbers[first : first + shape[0]] = -1
            numbers[first : first + len(values)] = values
            first += prod(shape)
        self._whole[:num_used].copy_(host, non_blocking=True)
