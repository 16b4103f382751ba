"""What makes a start quick."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collections() -> Iterator[None]:
    """No garbage is looked for: imports and loading make a million objects, and nearly all stay."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
