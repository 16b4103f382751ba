"""How compiled products write what comes out."""

from enum import IntEnum

import torch

_LINE_BYTES = 64
_CACHED_BYTES = 2**23
"""Of results that whoever reads them may still find in a cache."""


class Writing(IntEnum):
    """What becomes of a product's sums, which are in fp32."""

    ROUNDED = 0
    """They are rounded to bf16."""
    WIDE = 1
    """They stay as they are."""
    PAST_CACHES = 2
    """They stay as they are, and go to memory: else each line of it is read before it is written.
    Lines are written whole."""


def writing(dtype: torch.dtype, out: int, num_rows: int, num_outputs: int) -> Writing:
    """How to write results of a type, bf16 or fp32, to an address."""
    if dtype == torch.bfloat16:
        return Writing.ROUNDED
    row_bytes = num_outputs * dtype.itemsize
    has_whole_lines = out % _LINE_BYTES == row_bytes % _LINE_BYTES == 0
    is_far = has_whole_lines and num_rows * row_bytes > _CACHED_BYTES
    return Writing.PAST_CACHES if is_far else Writing.WIDE


ROUNDED, WIDE = int(Writing.ROUNDED), int(Writing.WIDE)
"""For functions that numba compiles."""
