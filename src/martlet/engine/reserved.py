"""Memory that is reserved, and paid for page by page when it is first written."""

import math
import mmap
from collections.abc import Sequence

import torch
from torch import Tensor


def reserved(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeroed memory; on a CPU the operating system zeroes a page when it is first touched.

    It must be zeroed: masked keys have the weight 0, and 0 times whatever was there may be NaN.
    """
    if device.type != "cpu":
        return torch.zeros(tuple(shape), dtype=dtype, device=device)
    num_bytes = math.prod(shape) * dtype.itemsize
    # From the C library it might be memory that is zeroed, and so touched, at once, or huge pages.
    mapped = mmap.mmap(-1, num_bytes, access=mmap.ACCESS_COPY)
    return torch.frombuffer(mapped, dtype=dtype).view(tuple(shape))
