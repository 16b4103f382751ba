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


def keep_what_there_is() -> None:
    """Garbage is never looked for among what there is now: modules, of which 270,000 objects stay.

    To be called before a model is loaded, which leaves garbage behind that is large.
    """
    gc.freeze()
