"""Compiled functions on the threads that PyTorch has.

A second pool of threads beside PyTorch's would fight with it for the cores: OpenMP's threads go on
spinning for a while when a product is done. So a function is handed to PyTorch's OpenMP library.
"""

import ctypes
import importlib.util
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

_INSTRUCTIONS = ("avx512f", "avx512bw", "avx512vl", "avx512bf16")


@cache
def can_compile() -> bool:
    """Whether numba is installed, the CPU multiplies pairs of bf16, and threads can be had."""
    if importlib.util.find_spec("numba") is None or _parallel() is None:
        return False
    from llvmlite import binding

    features = binding.get_host_cpu_features()
    return all(features.get(name, False) for name in _INSTRUCTIONS)


def run(function: Any, arguments: Sequence[int]) -> None:
    """Calls a function once on each of PyTorch's threads, and waits for all.

    Args:
        function: Made by `numba.cfunc`, from a pointer to whole numbers to nothing. It shares the
            work out itself, by counting in the number whose address is its first argument.
        arguments: The others.
    """
    parallel = _parallel()
    assert parallel is not None, "callers ask can_compile first"
    taken = ctypes.c_int64(0)
    passed = (ctypes.c_int64 * (len(arguments) + 1))(ctypes.addressof(taken), *arguments)
    parallel(function.address, passed, torch.get_num_threads(), 0)


@cache
def _parallel() -> Any:
    """GNU OpenMP's `GOMP_parallel`, of the library that PyTorch uses; None if it uses another."""
    folder = Path(torch.__file__).parent / "lib"
    for path in sorted(folder.glob("libgomp*.so*")):
        parallel = ctypes.CDLL(str(path)).GOMP_parallel
        parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        parallel.restype = None
        return parallel
    return None
