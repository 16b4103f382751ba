"""The disk of a run: room for what it must write, and clear words when it is full."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import disk_usage

from safetensors import SafetensorError

from martlet.errors import ResourceError

_BYTES_A_VALUE = 4 * 4
"""In fp32: a value and AdamW's two moments of it in a checkpoint, and the value in the result."""
_SPARE_BYTES = 16 << 20
_FULL_BYTES = 1 << 20
"""A file that could not be written to its end leaves less."""
_NO_SPACE = os.strerror(errno.ENOSPC)


def check_room(folder: Path, *, num_trained: int = 0) -> None:
    """Checks that the least that a run writes will fit: one checkpoint and the result.

    Args:
        num_trained: Values that move.

    Raises:
        ResourceError: If it will not.
    """
    needed, free = _SPARE_BYTES + _BYTES_A_VALUE * num_trained, disk_usage(folder).free
    if free < needed:
        raise ResourceError(
            f"a checkpoint and the result need {needed / 2**20:,.0f} MiB, and the disk of {folder} "
            f"has {free / 2**20:,.0f} MiB left; free some, or name another --out"
        )


@contextmanager
def full_disk_named(folder: Path) -> Iterator[None]:
    """Tells a write that failed for want of room from other errors.

    Raises:
        ResourceError: If the disk of `folder` is full.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        # safetensors says so and leaves no file, torch.save leaves a file and does not say.
        if _NO_SPACE not in str(error) and disk_usage(folder).free >= _FULL_BYTES:
            raise
        raise ResourceError(
            f"the disk of {folder} is full; make room and run the same command again, which goes "
            "on from the last checkpoint"
        ) from error
