"""The threads that PyTorch has, for functions that Martlet compiles.

A second pool of threads beside PyTorch's would fight with it for the cores: OpenMP's threads go on
spinning for a while when a product is done. So a function is handed to PyTorch's OpenMP library.
"""

import ctypes
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch

_SHARE_WORK = "GOMP_parallel"
"""The function that a `parallel` region of OpenMP becomes. GNU's library has it, and for the sake
of its programs those of LLVM and Intel."""


def has_threads() -> bool:
    """Whether PyTorch's threads can be had."""
    return _share_work() is not None


def run_on_all_threads(function: int, argument: int) -> None:
    """Calls a function once on each of PyTorch's threads, and waits for all.

    There are always as many as PyTorch has: OpenMP ends those that it has too many of.

    Args:
        function: The address of machine code that takes a pointer and returns nothing. It shares
            the work out itself.
        argument: The pointer.
    """
    share_work = _share_work()
    assert share_work is not None, "callers ask has_threads first"
    share_work(function, argument, torch.get_num_threads(), 0)


def run_here(function: int, argument: int) -> None:
    """Calls a function on this thread alone: others take a few microseconds to wake."""
    _callable(function)(argument)


@cache
def _callable(function: int) -> Callable[[int], None]:
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(function)


@cache
def _share_work() -> Callable[[int, int, int, int], None] | None:
    """`GOMP_parallel(function, argument, num_threads, flags)` of PyTorch's OpenMP."""
    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    if not library.exists():
        return None
    function = getattr(ctypes.CDLL(str(library)), _SHARE_WORK, None)
    if function is not None:
        function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        function.restype = None
    return function
