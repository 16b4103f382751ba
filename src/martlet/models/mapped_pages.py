"""Pages of mapped weight files, held only as long as they are read.

safetensors maps a file instead of reading it, so a weight costs memory when it is first touched:
once for the page of the file and once for the packed copy. A page of a file can be dropped at any
time (it would be read again), and dropping it halves the peak of loading. An embedding stays
mapped, and with each row that is looked up the system maps the sixteen pages around it.
"""

import ctypes
import mmap
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

_DONT_NEED = getattr(mmap, "MADV_DONTNEED", None)
_SUFFIX = ".safetensors"


class MappedPages:
    """The address ranges of this process that are mapped from weight files.

    Where the operating system does not tell (it is not Linux), there are none, and nothing is
    given back.
    """

    def __init__(self) -> None:
        self._ranges = sorted(_mapped_ranges(Path("/proc/self/maps")))

    def give_back(self, tensor: Tensor) -> None:
        """Drops the pages that lie wholly inside a tensor, if they are a file's."""
        start = tensor.data_ptr()
        end = start + tensor.nbytes
        if _DONT_NEED is None or not self._is_mapped(start, end):
            return
        first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
        num_bytes = end // mmap.PAGESIZE * mmap.PAGESIZE - first
        if num_bytes > 0:
            madvise = ctypes.CDLL(None).madvise
            madvise(ctypes.c_void_p(first), ctypes.c_size_t(num_bytes), _DONT_NEED)

    def _is_mapped(self, start: int, end: int) -> bool:
        index = bisect_right(self._ranges, (start, end)) - 1
        candidates = self._ranges[max(index, 0) : index + 2]
        return any(low <= start and end <= high for low, high in candidates)


def _mapped_ranges(maps: Path) -> Iterator[tuple[int, int]]:
    if not maps.exists():
        return
    for line in maps.read_text(encoding="utf-8", errors="replace").splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5].endswith(_SUFFIX):
            low, high = fields[0].split("-")
            yield int(low, 16), int(high, 16)
