"""The disk that a result is written to: room beforehand, and clear words when it fails."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import disk_usage

from martlet.errors import InputError, ResourceError

_SPARE_BYTES = 16 * 2**20
_BYTES_A_SAMPLE = 256
"""Of a sample besides its text: key, counts, and SQLite's own."""
_BYTES_A_TOKEN = 6
_MANY_TOKENS = 1024
"""Few replies are longer; a larger limit would refuse runs that fit."""
_NUM_COPIES = 3
"""A text stands in the journal, in its write-ahead log and in the result."""


def bytes_needed(*, num_samples: int, max_tokens: int | None, data_bytes: int) -> int:
    """What journal and result may take up.

    Args:
        num_samples: Samples of all rows.
        max_tokens: The longest reply, where there is a limit.
        data_bytes: Size of the data file, which the result repeats.
    """
    num_tokens = min(max_tokens or _MANY_TOKENS, _MANY_TOKENS)
    sample_bytes = _BYTES_A_SAMPLE + _BYTES_A_TOKEN * num_tokens
    return _SPARE_BYTES + data_bytes + _NUM_COPIES * num_samples * sample_bytes


def check_disk_space(folder: Path, needed_bytes: int) -> None:
    """Checks that a run's files will fit.

    Raises:
        ResourceError: If less than `needed_bytes` is free where `folder` lies.
    """
    free_bytes = disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise ResourceError(
            f"the journal and the result may need {needed_bytes / 2**20:.0f} MiB and the disk of "
            f"{folder} has {free_bytes / 2**20:.0f} MiB left; free some, or choose another --out"
        )


@contextmanager
def disk_errors_named(path: Path) -> Iterator[None]:
    """Names the errors of writing a file.

    Raises:
        InputError: If the file may not be written.
        ResourceError: If the disk is full or fails.
    """
    try:
        yield
    except PermissionError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error
    except OSError as error:
        raise ResourceError(
            f"{path} cannot be written: {error.strerror}; the journal keeps what is finished: "
            "make room and run the same command again"
        ) from error
