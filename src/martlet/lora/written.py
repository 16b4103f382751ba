"""What adapters add to linear layers, written down as calls of compiled functions."""

from collections.abc import Collection, Sequence

import torch

from martlet.lora.revision import AdapterRevision
from martlet.models.linear.compiled_low_rank import CompiledLowRank
from martlet.models.openmp import Call


def can_write(adapter: AdapterRevision, leaves: Collection[str], others: Collection[str]) -> bool:
    """Whether calls can be written for all that an adapter changes.

    Args:
        leaves: The linear layers that calls are written for, by name.
        others: The leaves that are computed as modules, and so may be changed in any way.
    """
    return all(
        name in others or (name in leaves and delta.panels is not None and delta.only_adds_rank)
        for name, delta in adapter.deltas.items()
    )


class WrittenAdapters:
    """The low-rank parts of several adapters in the layers of a model.

    Args:
        adapters: Those for which `can_write` holds; their matrices are kept.
    """

    def __init__(self, adapters: Sequence[AdapterRevision]) -> None:
        self._adapters = adapters
        self._products: list[CompiledLowRank] = []  # The calls point into them.

    def calls(
        self,
        leaf: str,
        places: tuple[int, int],
        row_bytes: tuple[int, int],
        shape: tuple[int, int],
        out_dtype: torch.dtype,
    ) -> list[Call]:
        """What adds to the output of a layer; see `CompiledLowRank.call`."""
        deltas = [adapter.deltas.get(leaf) for adapter in self._adapters]
        if not any(deltas):
            return []
        product = CompiledLowRank([None if delta is None else delta.panels for delta in deltas])
        self._products.append(product)
        return [product.call(places, row_bytes, shape, out_dtype)]
