"""Pages of mapped weight files, held only as long as they are read.

safetensors maps a file instead of reading it, so a weight costs memory when it is first touched:
once for the page of the file and once for the packed copy. A page of a file can be dropped at any
time (it would be read again), and dropping it halves the peak of loading.
"""

import ctypes
import mmap
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

_DONT_NEED = getattr(mmap, "MADV_DONTNEED", None)
_SUFFIX = ".safetensors"


@dataclass(frozen=True, order=True, slots=True)
class _Mapping:
    """A range of addresses, and what of which file lies there."""

    start: int
    end: int
    path: Path
    offset: int
    """In the file, of what lies at `start`."""


class MappedPages:
    """The address ranges of this process that are mapped from weight files.

    Where the operating system does not tell (it is not Linux), there are none, and nothing is
    given back.
    """

    def __init__(self) -> None:
        self._mappings = sorted(_mappings(Path("/proc/self/maps")))
        self._starts = [mapping.start for mapping in self._mappings]

    def hold(self, tensor: Tensor) -> bool:
        """Whether a tensor lies in a mapped file."""
        return self.origin(tensor) is not None

    def origin(self, tensor: Tensor) -> tuple[Path, int] | None:
        """The file that a tensor is mapped from, and where in it; None if it is in none."""
        start = tensor.data_ptr()
        index = bisect_right(self._starts, start) - 1
        if index < 0 or start + tensor.nbytes > self._mappings[index].end:
            return None
        mapping = self._mappings[index]
        return mapping.path, mapping.offset + start - mapping.start

    def give_back(self, tensor: Tensor) -> None:
        """Drops the pages that lie wholly inside a tensor, if they are a file's."""
        if _DONT_NEED is None or not self.hold(tensor):
            return
        first = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        end = (tensor.data_ptr() + tensor.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
        if end > first:
            madvise = ctypes.CDLL(None).madvise
            madvise(ctypes.c_void_p(first), ctypes.c_size_t(end - first), _DONT_NEED)


def _mappings(maps: Path) -> Iterator[_Mapping]:
    if not maps.exists():
        return
    for line in maps.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5].endswith(_SUFFIX):
            start, end = (int(address, 16) for address in fields[0].split("-"))
            yield _Mapping(start, end, Path(fields[5]), int(fields[2], 16))
