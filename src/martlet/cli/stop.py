"""Ctrl-C while a run lasts: the first asks it to end between two steps, the second ends it."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event
from types import FrameType

import typer


@contextmanager
def stop_on_signal() -> Iterator[Callable[[], bool]]:
    """Takes over SIGINT and SIGTERM for as long as the context lasts.

    Yields:
        Whether a stop was asked for. A second Ctrl-C raises KeyboardInterrupt where it comes.
    """
    asked = Event()

    def take(number: int, _frame: FrameType | None) -> None:
        if asked.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.set()
        typer.echo("stopping after this step; Ctrl-C again stops at once", err=True)

    previous = {number: signal.signal(number, take) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked.is_set
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
