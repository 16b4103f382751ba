"""A reservation costs nothing, and of what is written a page at a time."""

import ctypes
import mmap
import sys

import pytest
import torch
from torch import Tensor

from martlet.engine.reserved import reserved

CPU = torch.device("cpu")
MANY = 2**24
"""Bytes; PyTorch and NumPy take them from the heap, or ask for huge pages."""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux")
def test_pages_are_there_when_they_are_written() -> None:
    # The heap has as much lying about, and would hand it out, zeroed there and then.
    freed = [torch.ones(MANY // 4 // 4) for _ in range(8)]
    del freed
    pool = reserved((MANY // 2,), torch.bfloat16, CPU)
    assert num_pages_there(pool) == 0
    pool[MANY // 4] = pool[MANY // 3] = 1
    assert num_pages_there(pool) == 2


def test_it_is_zero_until_it_is_written() -> None:
    pool = reserved((3, 4, 5), torch.float32, CPU)
    assert pool.shape == (3, 4, 5)
    assert not pool.any()
    pool += 1
    assert pool.sum() == 60


def num_pages_there(values: Tensor) -> int:
    """How many of a tensor's pages are in memory."""
    pages = (ctypes.c_uint8 * (values.nbytes // mmap.PAGESIZE))()
    place, size = ctypes.c_void_p(values.data_ptr()), ctypes.c_size_t(values.nbytes)
    assert ctypes.CDLL(None).mincore(place, size, pages) == 0
    return sum(page & 1 for page in pages)
