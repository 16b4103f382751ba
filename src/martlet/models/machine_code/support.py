"""Whether functions can be compiled for this machine while a model is loaded."""

from functools import cache
from importlib.util import find_spec

from martlet.models.openmp import has_threads

_FEATURES = ("avx512f", "avx512bw", "avx512vl", "avx512vnni")
"""Of the CPU, as LLVM calls them: vectors of 64 bytes, and sums of products of bytes."""
_AMD = "znver"
"""How LLVM's names of AMD's CPUs begin."""


@cache
def can_compile() -> bool:
    """Whether llvmlite is installed, and the CPU and PyTorch's OpenMP are those written for."""
    if find_spec("llvmlite") is None or not has_threads():
        return False
    return _has(*_FEATURES)


@cache
def looks_up_bytes() -> bool:
    """Whether the CPU looks a byte up, in 128 of them, while it multiplies others.

    AMD's do, measured on Zen 4. Of Intel's is published that a look-up takes three operations, two
    of them on a pipe that multiplies.
    """
    import llvmlite.binding as llvm

    return llvm.get_host_cpu_name().startswith(_AMD) and _has("avx512vbmi")


def _has(*features: str) -> bool:
    import llvmlite.binding as llvm

    known = llvm.get_host_cpu_features()
    return all(known.get(name, False) for name in features)
