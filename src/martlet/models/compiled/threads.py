"""Compiled functions on the threads that PyTorch has.

A second pool of threads beside PyTorch's would fight with it for the cores: OpenMP's threads go on
spinning for a while when a product is done. So a function is handed to PyTorch's OpenMP library.
"""

import ctypes
import importlib.util
import threading
from collections.abc import Callable, Sequence
from functools import cache, wraps
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

LEAST_WIDTH = 512
"""Of a model that anything is compiled for: compiling takes longer than narrower ones may run."""
WIDTH = 32
"""Of heads, rows and inputs that compiled functions take: a multiple of it."""
_INSTRUCTIONS = ("avx512f", "avx512bw", "avx512vl", "avx512bf16")


@cache
def can_compile() -> bool:
    """Whether numba is installed, the CPU multiplies pairs of bf16, and threads can be had."""
    if importlib.util.find_spec("numba") is None or _parallel() is None:
        return False
    from llvmlite import binding

    features = binding.get_host_cpu_features()
    return all(features.get(name, False) for name in _INSTRUCTIONS)


def is_compiled_for(tensor: Tensor, width: int) -> bool:
    """Whether what is computed with a tensor, in a model of that width, is to be compiled."""
    is_bf16_on_cpu = tensor.dtype == torch.bfloat16 and tensor.device.type == "cpu"
    return is_bf16_on_cpu and width >= LEAST_WIDTH and width % WIDTH == 0 and can_compile()


def once(make: Callable[[], Any]) -> Callable[[], Any]:
    """Makes a function's result at the first call; whoever calls meanwhile waits for it."""
    lock = threading.Lock()
    made = cache(make)

    @wraps(make)
    def get() -> Any:
        with lock:
            return made()

    return get


def compile_ahead() -> None:
    """Begins to compile, in a thread, while the process does what leaves Python's lock free."""

    def compile_all() -> None:
        from martlet.models.compiled import decode, elementwise, few_rows

        # In the order in which they are needed first.
        for make in (few_rows.multiply_rows, elementwise.rms_norm, elementwise.silu_times):
            make()
        decode.attend()

    threading.Thread(target=compile_all, name="martlet-compile", daemon=True).start()


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
