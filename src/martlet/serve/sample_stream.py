"""The samples of one call, as they arrive on the event loop."""

import asyncio
from collections import deque
from collections.abc import Sequence

from martlet.backends.base import SampleDelta, SampleOutput
from martlet.errors import MartletError

SampleEvent = SampleDelta | SampleOutput


class SampleStream:
    """Events of one or more samples, in order of arrival. Lives on the event loop.

    What nobody takes is kept, so a reader that stops reading costs at most the length of its
    replies.

    Args:
        request_ids: The samples.
    """

    def __init__(self, request_ids: Sequence[str]) -> None:
        self.request_ids = tuple(request_ids)
        self._missing = set(request_ids)
        self._events: deque[SampleEvent] = deque()
        self._error: MartletError | None = None
        self._arrived = asyncio.Event()
        self._deadline: asyncio.TimerHandle | None = None

    @property
    def is_complete(self) -> bool:
        """Whether all that will ever come was taken."""
        return not self._missing and not self._events

    def put(self, event: SampleEvent) -> None:
        """Adds what the engine reported."""
        if isinstance(event, SampleOutput):
            self._missing.discard(event.request_id)
            if not self._missing:
                self.close()
        self._events.append(event)
        self._arrived.set()

    def watch(self, deadline: asyncio.TimerHandle) -> None:
        """Keeps a timer until the stream has ended."""
        self._deadline = deadline

    def close(self) -> None:
        """Nothing more is expected."""
        if self._deadline is not None:
            self._deadline.cancel()

    def fail(self, error: MartletError) -> None:
        """Ends the stream: the next `take` raises."""
        self._error = self._error or error
        self.close()
        self._arrived.set()

    async def take(self, *, timeout_s: float | None = None) -> list[SampleEvent]:
        """Waits for news and returns all there is; nothing after `timeout_s` of silence.

        Raises:
            MartletError: If the stream was ended by an error.
        """
        if not self._arrived.is_set():
            try:
                async with asyncio.timeout(timeout_s):
                    await self._arrived.wait()
            except TimeoutError:
                return []
        if self._error is not None:
            raise self._error
        self._arrived.clear()
        events = list(self._events)
        self._events.clear()
        return events
