"""Whether functions can be compiled for this machine while a model is loaded."""

from functools import cache
from importlib.util import find_spec

from martlet.models.openmp import has_threads

_FEATURES = ("avx512f", "avx512bw", "avx512vl", "avx512vnni")
"""Of the CPU, as LLVM calls them: vectors of 64 bytes, and sums of products of bytes."""


@cache
def can_compile() -> bool:
    """Whether llvmlite is installed, and the CPU and PyTorch's OpenMP are those written for."""
    if find_spec("llvmlite") is None or not has_threads():
        return False
    import llvmlite.binding as llvm

    features = llvm.get_host_cpu_features()
    return all(features.get(name, False) for name in _FEATURES)
