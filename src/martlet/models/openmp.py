"""The threads that PyTorch has, for functions that Martlet compiles.

A second pool of threads beside PyTorch's would fight with it for the cores: OpenMP's threads go on
spinning for a while when a product is done. So a function is handed to PyTorch's OpenMP library.
"""

import ctypes
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

_SHARE_WORK, _MEET = "GOMP_parallel", "GOMP_barrier"
"""The functions that a `parallel` region of OpenMP becomes, and a `barrier` in it. GNU's library
has them, and for the sake of its programs those of LLVM and Intel."""
_END_THREADS, _SOFT = "omp_pause_resource_all", 1
"""From OpenMP 5.0 on: this thread's are ended, and what was set stays set."""


class Call(NamedTuple):
    """A compiled function, and what it is to be called with.

    It takes the address of whole numbers. The first of them is the address of a number, at first
    zero, in which threads count what they took: they share the work out themselves.
    """

    function: int
    """Its address."""
    arguments: tuple[int, ...]
    """The other numbers."""
    waits: bool = True
    """Whether it reads what the call before it writes."""


def run(call: Call, *, alone: bool = False) -> None:
    """Calls a function once on each of PyTorch's threads, and waits for all.

    Args:
        alone: Whether to call it on this thread only: others take a few microseconds to wake.
    """
    taken = ctypes.c_int64(0)
    numbers = (ctypes.c_int64 * (len(call.arguments) + 1))(ctypes.addressof(taken), *call.arguments)
    run_at(call.function, ctypes.addressof(numbers), alone=alone)


def run_at(function: int, argument: int, *, alone: bool = False) -> None:
    """As `run`, of a function whose numbers lie at an address."""
    if alone or torch.get_num_threads() == 1:
        _callable(function)(argument)
    else:
        run_on_all_threads(function, argument)


def has_threads() -> bool:
    """Whether PyTorch's threads can be had."""
    return _share_work() is not None and _function(_MEET) is not None


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


def release_threads() -> None:
    """Ends the threads that this thread computes with. Its next product would start new ones.

    For a thread that leaves computing to another: while more of them live than there are cores,
    one that waits for its neighbours sleeps at once, and to wake takes longer than a small product.
    """
    pause = _function(_END_THREADS)
    if pause is not None:
        pause(_SOFT)


def barrier_address() -> int:
    """Of a function without arguments at which threads in one call wait for each other."""
    function = _function(_MEET)
    assert function is not None, "callers ask has_threads first"
    address = ctypes.cast(function, ctypes.c_void_p).value
    assert address is not None
    return address


@cache
def _callable(function: int) -> Callable[[int], None]:
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(function)


@cache
def _share_work() -> Callable[[int, int, int, int], None] | None:
    """`GOMP_parallel(function, argument, num_threads, flags)` of PyTorch's OpenMP."""
    function: Any = _function(_SHARE_WORK)
    if function is not None:
        function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        function.restype = None
    return function  # type: ignore[no-any-return]  # ctypes has no type for it


def _function(name: str) -> Any:
    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    return getattr(ctypes.CDLL(str(library)), name, None) if library.exists() else None
