"""How this process asks the operating system for memory.

A step allocates the same large buffers as the step before. The C library gives memory back as soon
as it is freed, and each page that is touched anew costs a fault and 4 KiB of zeros: measured, an
eighth of the time of a prompt's step. So it is told to keep what it has.
"""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
"""The options of glibc's `mallopt`, from malloc.h."""
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
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    wishes = (
        (_M_MMAP_THRESHOLD, LARGEST_KEPT),
        (_M_TRIM_THRESHOLD, MOST_KEPT),
        (_M_ARENA_MAX, 1),
    )
    understood = [mallopt(option, value) == 1 for option, value in wishes]
    return all(understood)
