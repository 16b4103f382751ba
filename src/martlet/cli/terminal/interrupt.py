"""Ctrl-C while a reply is drawn: the first stops the reply, and not the program."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event
from types import FrameType


@contextmanager
def reply_stoppable() -> Iterator[Callable[[], bool]]:
    """Takes over SIGINT for as long as the context lasts.

    Yields:
        Whether a stop was asked for. A second Ctrl-C raises KeyboardInterrupt where it comes.
    """
    asked = Event()

    def take(_number: int, _frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    previous = signal.signal(signal.SIGINT, take)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, previous)
