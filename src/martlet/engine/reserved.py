"""Memory that is reserved, and paid for page by page when it is first written."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_PAGE = 4096
"""Bytes. Where a pool starts with a page, a block of it does, and its vectors with a cache line."""


def reserved(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeroed memory; on a CPU the operating system zeroes a page when it is first touched.

    It must be zeroed: masked keys have the weight 0, and 0 times whatever was there may be NaN.
    """
    if device.type != "cpu":
        return torch.zeros(tuple(shape), dtype=dtype, device=device)
    num_bytes = math.prod(shape) * dtype.itemsize
    memory = np.zeros(num_bytes + _PAGE, dtype=np.uint8)
    first = -memory.ctypes.data % _PAGE
    return torch.from_numpy(memory[first : first + num_bytes]).view(dtype).view(tuple(shape))
