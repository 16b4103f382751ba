"""One thread for what may wait for a disk and must not be called from several threads."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_Result = TypeVar("_Result")


class Worker:
    """Runs functions one after the other, off the event loop.

    Args:
        name: The thread's name.
    """

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    async def run(self, function: Callable[[], _Result]) -> _Result:
        """What the function returns or raises; once begun it is done, whoever stops waiting."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function)

    def close(self) -> None:
        """Ends the thread after what it was given."""
        self._pool.shutdown(wait=True)
