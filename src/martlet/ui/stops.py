"""What ends early: by a stop button, or because the page turned to something else."""

import asyncio
from contextlib import suppress

_PATIENCE_S = 5
"""For what was stopped to end."""


class Stop(asyncio.Event):
    """Set when no more is wanted of what a page began."""

    def __init__(self) -> None:
        super().__init__()
        self.is_left = False
        """Whether the page shows something else by now, and nothing of this."""
        self.ended = asyncio.Event()
        """Set when all that came of it is kept."""


class Stops:
    """The stops of one tab, by the page that it is shown in."""

    def __init__(self) -> None:
        self._by_page: dict[str, Stop] = {}

    def begin(self, page: str) -> Stop:
        """What ends that which a page begins now; what it began before is left."""
        self.leave(page)
        stop = self._by_page[page] = Stop()
        return stop

    def press(self, page: str) -> None:
        """Stops what a page began last."""
        if stop := self._by_page.get(page):
            stop.set()

    def leave(self, page: str) -> None:
        """Stops what a page began last, which is shown no more."""
        if stop := self._by_page.pop(page, None):
            stop.is_left = True
            stop.set()

    async def leave_kept(self, page: str) -> None:
        """The same, and waits until what came of it is kept: the page may show that next."""
        stop = self._by_page.get(page)
        self.leave(page)
        if stop is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.ended.wait(), _PATIENCE_S)
