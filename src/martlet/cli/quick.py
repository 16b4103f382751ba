"""What makes a start quick."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collections() -> Iterator[None]:
    """No garbage is looked for: what imports and loading make nearly all stays."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
