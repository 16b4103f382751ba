"""The journal of a batch, off the event loop."""

from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

from martlet.batch.journal import Journal
from martlet.batch.sample import StoredSample
from martlet.serve.worker import Worker


class SamplesJournal:
    """Calls a journal in the one thread that opened it."""

    def __init__(self, journal: Journal, worker: Worker) -> None:
        self._journal = journal
        self._worker = worker

    @classmethod
    @asynccontextmanager
    async def open(cls, path: Path) -> "AsyncIterator[SamplesJournal]":
        """Opens or creates a journal for as long as the context lasts; raises as `Journal.open`."""
        worker, stack = Worker("martlet-journal"), ExitStack()
        try:
            journal = await worker.run(lambda: stack.enter_context(Journal.open(path)))
            yield cls(journal, worker)
        finally:
            await worker.run(stack.close)
            worker.close()

    async def finished(self, key: str) -> dict[int, StoredSample]:
        """As `Journal.finished`."""
        return await self._worker.run(lambda: self._journal.finished(key))

    async def record(self, key: str, sample: StoredSample) -> None:
        """As `Journal.record`; the sample is kept when this returns."""

        def keep() -> None:
            self._journal.record(key, sample)
            self._journal.commit()

        await self._worker.run(keep)
