"""Whether functions can be compiled for this machine while a model is loaded."""

import ctypes
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

_FEATURES = ("avx512f", "avx512bw", "avx512vl", "avx512vnni")
"""Of the CPU, as LLVM calls them: vectors of 64 bytes, and sums of products of bytes."""
_SHARE_WORK = "GOMP_parallel"
"""The function that a `parallel` region of OpenMP becomes. GNU's library has it, and for the sake
of its programs those of LLVM and Intel."""


@cache
def can_compile() -> bool:
    """Whether llvmlite is installed, and the CPU and PyTorch's OpenMP are those written for."""
    if find_spec("llvmlite") is None or openmp() is None:
        return False
    import llvmlite.binding as llvm

    features = llvm.get_host_cpu_features()
    return all(features.get(name, False) for name in _FEATURES)


@cache
def openmp() -> Any:
    """`GOMP_parallel(function, argument, num_threads, 0)` of the OpenMP that PyTorch runs on, which
    shares its threads with PyTorch; None where there is none."""
    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    if not library.exists():
        return None
    function = getattr(ctypes.CDLL(str(library)), _SHARE_WORK, None)
    if function is not None:
        function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        function.restype = None
    return function
