"""How this process asks the operating system for memory.

A step allocates the same large buffers as the step before. The C library gives memory back as soon
as it is freed, and each page that is touched anew costs a fault and 4 KiB of zeros: measured, an
eighth of the time of a prompt's step. So it is told to keep what it has.

Weights are read from end to end for each token, and with pages of 4 KiB the processor waits for
their addresses. So they are laid out in pages of 2 MiB where Linux grants these on request.
"""

import ctypes
import mmap
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -3, -4, -8
"""The options of glibc's `mallopt`, from malloc.h."""
_DEFAULT_MMAP_MAX = 2**16
_NEVER = -1
_HUGE_PAGE = 2**21
_ADVISE_HUGE = getattr(mmap, "MADV_HUGEPAGE", None)
LARGEST_KEPT = 2**24
"""Bytes: larger blocks still go straight back to the system. Kept, they leave holes that nothing
fits in: with logits among them, 0.3 GB for 96 requests."""
MOST_KEPT = 2**29
"""Bytes that may lie free at the end of the heap before it shrinks."""


def keep_freed_memory() -> bool:
    """Has freed blocks reused instead of returned to the system, from now on, in this process.

    Threads started later share one heap with this one, so that it is true for them as well.

    Returns:
        Whether the C library understood; only glibc does, and others need it less.
    """
    return _set_options(
        (_M_MMAP_THRESHOLD, LARGEST_KEPT),
        (_M_TRIM_THRESHOLD, MOST_KEPT),
        (_M_ARENA_MAX, 1),
    )


@contextmanager
def huge_pages(num_bytes: int) -> Iterator[None]:
    """Has what is allocated inside, up to a size, lie in huge pages; a wish, not a promise.

    The top of the heap grows by that much and all of it is marked before it is touched; what lies
    free below, after another model perhaps, goes back to the system first. Until the block is left,
    nothing is allocated elsewhere, and the top is not given back.
    """
    if _ADVISE_HUGE is None or not _set_options(
        (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _NEVER), (_M_ARENA_MAX, 1)
    ):
        yield
        return
    try:
        _grow_heap(num_bytes)
        _mark_heap(_ADVISE_HUGE)
        yield
    finally:
        _set_options((_M_MMAP_MAX, _DEFAULT_MMAP_MAX), (_M_TRIM_THRESHOLD, MOST_KEPT))


def _grow_heap(num_bytes: int) -> None:
    """Has at least so many bytes lie free in the heap, none of them touched."""
    libc = ctypes.CDLL(None)
    libc.malloc_trim(ctypes.c_size_t(0))
    libc.malloc.restype = ctypes.c_void_p
    start = libc.malloc(ctypes.c_size_t(num_bytes))
    if start is not None:
        libc.free(ctypes.c_void_p(start))


def _mark_heap(advice: int) -> None:
    """Has all of the heap that is not touched yet be of huge pages once it is."""
    libc = ctypes.CDLL(None)
    maps = Path("/proc/self/maps")
    for line in maps.read_text().splitlines() if maps.exists() else ():
        if line.endswith("[heap]"):
            start, end = (int(bound, 16) for bound in line.split()[0].split("-"))
            first, last = -(-start // _HUGE_PAGE) * _HUGE_PAGE, end // _HUGE_PAGE * _HUGE_PAGE
            if last > first:
                libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), advice)


def _set_options(*wishes: tuple[int, int]) -> bool:
    """Whether the C library is glibc and accepted all of them."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    understood = [mallopt(option, value) == 1 for option, value in wishes]
    return all(understood)
