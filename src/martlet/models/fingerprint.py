"""A hash that tells two models apart without reading 15 GB."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence

from martlet.models.shard import Shard, TensorEntry

PAGE_BYTES = 4096
MAX_NUM_PAGES = 8192
"""Pages read of a model in all (32 MiB), shared evenly by its tensors; each gets at least one."""
WHOLE_FILE_BYTES = 64 * 1024 * 1024
"""A file below this size is hashed whole."""


def fingerprint(config: Mapping[str, object], shards: Sequence[Shard]) -> str:
    """Hashes a model's config, the headers of its shards, and its weights or a sample of them.

    Files below 64 MiB are read whole. Of a larger one, evenly spaced pages of 4 KiB are read from
    every tensor, its first and last among them. Training moves nearly every value of the tensors
    that it touches, so two fine-tunes differ in a page even if they differ in one tensor only.
    A few values changed by hand in a large file can go unseen: this is an identity, no proof
    against forgery. The same weights in other shards have another hash.

    Returns:
        SHA-256 in hexadecimal.

    Raises:
        OSError: If a shard cannot be read.
    """
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    num_tensors = sum(len(shard.tensors) for shard in shards)
    num_pages = max(1, MAX_NUM_PAGES // max(1, num_tensors))
    for shard in shards:
        digest.update(hashlib.sha256(shard.header).digest())
        for chunk in _read_sample(shard, num_pages):
            digest.update(chunk)
    return digest.hexdigest()


def _read_sample(shard: Shard, num_pages: int) -> Iterator[bytes]:
    with shard.path.open("rb") as file:
        if shard.size_bytes < WHOLE_FILE_BYTES:
            yield file.read()
            return
        for tensor in shard.tensors:
            for offset in _page_offsets(tensor, num_pages):
                file.seek(offset)
                yield file.read(min(PAGE_BYTES, tensor.size_bytes))


def _page_offsets(tensor: TensorEntry, num_pages: int) -> list[int]:
    last = max(0, tensor.size_bytes - PAGE_BYTES)
    if num_pages == 1:
        return [tensor.offset_bytes + last // 2]
    steps = num_pages - 1
    return sorted({tensor.offset_bytes + last * step // steps for step in range(num_pages)})
