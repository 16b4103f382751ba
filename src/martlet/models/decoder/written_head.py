"""The LM head written down as calls of compiled functions, and the search for what it says most.

Shapes: M rows, V tokens of the vocabulary.
"""

import numpy as np
import torch
from torch import Tensor

from martlet.models.compiled.threads import WIDTH
from martlet.models.linear.written import WrittenLinear
from martlet.models.openmp import Call


class WrittenHead:
    """A LM head, and where it leaves what it computes.

    Args:
        linear: The head.
        num_rows: As many as there may be. Memory that no row reaches is never touched.
    """

    def __init__(self, linear: WrittenLinear, num_rows: int) -> None:
        self._linear = linear
        self._logits = torch.empty(num_rows, linear.out_features)
        self._token_ids = np.empty(num_rows, dtype=np.int64)
        self._largest = np.empty(num_rows, dtype=np.float32)

    def calls(self, x: int, num_rows: int, scratch: int) -> list[Call] | None:
        """From rows at an address to logits, and to the largest of each row.

        The first argument of the last call belongs to the step: for how many rows to search.

        Args:
            scratch: See `WrittenLinear`.

        Returns:
            None if so many rows, or so many tokens, are not computed by compiled functions.
        """
        from martlet.models.compiled.largest import find_largest

        vocab_size = self._linear.out_features
        product = self._linear.calls(x, self._logits.data_ptr(), num_rows, scratch)
        if product is None or vocab_size % WIDTH:
            return None
        found = self._token_ids.ctypes.data, self._largest.ctypes.data
        own = (0, self._logits.data_ptr(), *found, vocab_size)
        return [*product, Call(find_largest().address, own)]

    def logits(self, num_rows: int) -> Tensor:
        """What was computed of the first rows, `[M, V]`; the next step overwrites it."""
        return self._logits[:num_rows]

    def likeliest(self, num_rows: int) -> tuple[list[int], list[float]]:
        """The tokens with the largest logits of the first rows, and these; NaN is infinite."""
        return self._token_ids[:num_rows].tolist(), self._largest[:num_rows].tolist()
