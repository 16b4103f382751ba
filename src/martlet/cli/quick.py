"""What makes a start quick, and an end."""

import atexit
import gc
import logging
import os
import sys
from collections.abc import Iterator, Sequence
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


@contextmanager
def leaving_at_once() -> Iterator[None]:
    """The process of a program that loaded a model ends where the program does.

    The interpreter would take modules and weights apart one by one: 0.2 to 0.4 s. What matters at
    the end is done as ever: threads are waited for, what `atexit` was told runs, and what was
    printed is flushed. An error that nobody caught ends the process the usual way. So does a
    program that loaded no model: that takes no time, and libraries that train may count on it.
    """
    ended: list[int] = []
    # Told first, it is called last.
    atexit.register(_leave, ended)
    try:
        yield
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            ended.append(end.code or 0)
        raise


def _leave(ended: Sequence[int]) -> None:
    if not ended or not gc.get_freeze_count():
        return
    logging.shutdown()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):  # nobody reads any more; the interpreter says so
        return
    os._exit(ended[0])
