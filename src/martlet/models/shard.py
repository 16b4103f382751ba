"""One safetensors file, known by its header alone: which tensors it holds, and whether it is whole.

The format: 8 bytes with the length of the header (little-endian), the header in JSON, then the
tensors' bytes without holes (https://github.com/huggingface/safetensors). Nothing is loaded here.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from martlet.errors import ModelError

_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100_000_000  # the format's own limit
_LFS_POINTER_START = b"version https://git-lfs"
AGAIN = "download it again"
"""The advice at the end of each error."""


@dataclass(frozen=True, kw_only=True)
class TensorEntry:
    """One tensor of a shard, as the header describes it."""

    name: str
    dtype: str
    """As safetensors spells it: `BF16`, `F32`, `I8`, …"""
    shape: tuple[int, ...]
    offset_bytes: int
    """Where its bytes begin, counted from the start of the file."""
    size_bytes: int

    @property
    def num_values(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A safetensors file whose header agrees with its size."""

    path: Path
    header: bytes
    """The header's own JSON."""
    tensors: tuple[TensorEntry, ...]
    """In the order of their bytes in the file."""
    size_bytes: int
    """Of the whole file."""


def read_shard(path: Path) -> Shard:
    """Reads the header of a safetensors file and checks it against the file's size.

    Raises:
        ModelError: If the file is no safetensors file, is cut short, or contradicts itself.
    """
    size_bytes = path.stat().st_size
    header = _read_header(path, size_bytes)
    data_start = _LENGTH_BYTES + len(header)
    try:
        described = json.loads(header)
        tensors = tuple(sorted(_parse_entries(described, data_start), key=_offset))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path}: the safetensors header cannot be read; {AGAIN}") from error
    _check_layout(path, tensors, data_start, size_bytes)
    return Shard(path=path, header=header, tensors=tensors, size_bytes=size_bytes)


def _read_header(path: Path, size_bytes: int) -> bytes:
    with path.open("rb") as file:
        start = file.read(len(_LFS_POINTER_START))
        if start == _LFS_POINTER_START:
            raise ModelError(f"{path} is a Git LFS pointer, not the weights; run: git lfs pull")
        num_header_bytes = int.from_bytes(start[:_LENGTH_BYTES], "little")
        if len(start) < _LENGTH_BYTES or num_header_bytes > _MAX_HEADER_BYTES:
            raise ModelError(f"{path} is not a safetensors file; {AGAIN}")
        if _LENGTH_BYTES + num_header_bytes > size_bytes:
            raise ModelError(f"{path} is cut short within its header; {AGAIN}")
        file.seek(_LENGTH_BYTES)
        return file.read(num_header_bytes)


def _parse_entries(described: Mapping[str, object], data_start: int) -> list[TensorEntry]:
    return [
        _parse_entry(name, entry, data_start)
        for name, entry in described.items()
        if name != "__metadata__"
    ]


def _parse_entry(name: str, entry: object, data_start: int) -> TensorEntry:
    if not isinstance(entry, dict):
        raise TypeError(f"the entry of {name} is not an object")
    begin, end = (int(offset) for offset in entry["data_offsets"])
    return TensorEntry(
        name=name,
        dtype=str(entry["dtype"]),
        shape=tuple(int(length) for length in entry["shape"]),
        offset_bytes=data_start + begin,
        size_bytes=end - begin,
    )


def _offset(tensor: TensorEntry) -> tuple[int, int]:
    # An empty tensor shares its offset with the next one and comes before it.
    return tensor.offset_bytes, tensor.size_bytes


def _check_layout(
    path: Path, tensors: tuple[TensorEntry, ...], data_start: int, size_bytes: int
) -> None:
    expected_bytes = data_start
    for tensor in tensors:
        if tensor.offset_bytes != expected_bytes or tensor.size_bytes < 0:
            raise ModelError(f"{path}: the header misplaces the tensor {tensor.name}; {AGAIN}")
        expected_bytes += tensor.size_bytes
    if size_bytes < expected_bytes:
        raise ModelError(
            f"{path} is cut short: its header describes {expected_bytes:,} bytes, "
            f"the file has {size_bytes:,}; {AGAIN}"
        )
    if size_bytes > expected_bytes:
        raise ModelError(
            f"{path} is longer than its header describes "
            f"({size_bytes:,} bytes instead of {expected_bytes:,}); {AGAIN}"
        )
