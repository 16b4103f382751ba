"""Noticing that a client has left, so that nobody computes for nobody."""

import asyncio
from collections.abc import Coroutine
from typing import TypeVar

from starlette.types import Receive

from martlet.errors import Interrupted

_Result = TypeVar("_Result")


async def until_gone(receive: Receive) -> None:
    """Waits until the client closes the connection; its body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_gone(receive: Receive, work: Coroutine[None, None, _Result]) -> _Result:
    """Does some work, and cancels it if the client leaves meanwhile.

    Raises:
        Interrupted: If the client left first.
    """
    working, watching = asyncio.create_task(work), asyncio.create_task(until_gone(receive))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise Interrupted("the client left before its reply was finished")
    finally:
        working.cancel()
        watching.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)
