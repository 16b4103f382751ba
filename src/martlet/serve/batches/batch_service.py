"""Batches from their creation to their end: checked at once, drawn one after the other.

A batch is in the database before anything is done for it, and its journal holds each finished
sample. So whatever ends the process, the next server over the same folder goes on where it was.
"""

import asyncio
import logging
import time
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from sqlite3 import Connection
from typing import Literal, TypeVar
from uuid import uuid4

from martlet.errors import InputError, MartletError, ParameterError, UnavailableError
from martlet.serve.batches.database import Database
from martlet.serve.batches.drawing import Drawing
from martlet.serve.batches.file_store import FileStore, file_body
from martlet.serve.batches.lines import check_lines, error_of
from martlet.serve.batches.record import Batch, Counts, Status
from martlet.serve.batches.results import ResultFile
from martlet.serve.batches.samples_journal import SamplesJournal
from martlet.serve.batches.shelf import BATCHES, FILES, Page
from martlet.serve.service import Service

logger = logging.getLogger("martlet.serve")

_Result = TypeVar("_Result")
Ending = Literal["completed", "cancelled", "expired"]
_ENDING_TO_MESSAGE: Mapping[Ending, str] = {
    "cancelled": "the batch was cancelled before this row was answered",
    "expired": "the completion window of the batch ended before this row was answered",
}
_LOOK_AGAIN_S = 2.0
"""How often a batch whose models are not served looks whether they are."""


@dataclass(kw_only=True, eq=False)
class _Job:
    """A batch that this server works at."""

    batch: Batch
    is_over: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when somebody cancels it."""
    drawing: Drawing | None = None
    task: asyncio.Task[None] | None = None

    @property
    def newest(self) -> Batch:
        if self.drawing is None:
            return self.batch
        return replace(self.batch, counts=self.drawing.counts)


class BatchService:
    """Files and batches of a server. Every method is for the event loop's thread.

    Args:
        service: What answers.
        database: Where both are kept.
    """

    def __init__(self, service: Service, database: Database) -> None:
        self._service = service
        self._database = database
        self.files = FileStore(database, max_file_bytes=service.settings.max_file_bytes)
        self._id_to_job: dict[str, _Job] = {}
        self._turn = asyncio.Lock()

    async def start(self) -> None:
        """Goes on with what an earlier server left unfinished."""
        if not self._database.exists:
            return
        try:
            bodies = await self._database.do(BATCHES.all)
        except UnavailableError as error:
            logger.warning("no files and no batches: %s", error)
            return
        for batch in map(Batch.from_body, bodies):
            if batch.is_unfinished:
                logger.info("batch %s goes on: it is %s", batch.id, batch.status)
                self._begin(batch)

    async def stop(self) -> None:
        """Leaves unfinished batches to the next server."""
        tasks = [job.task for job in self._id_to_job.values() if job.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def create(
        self,
        *,
        input_file_id: str,
        endpoint: str,
        completion_window: str,
        seconds: int,
        metadata: Mapping[str, str] | None,
    ) -> Batch:
        """Takes a batch.

        Args:
            seconds: How long the completion window lasts.

        Raises:
            NotFoundError: If there is no such file.
            ParameterError: If the file was made for something else.
        """
        file = await self.files.get(input_file_id)
        if file["purpose"] != "batch":
            raise ParameterError(
                f"{input_file_id} has the purpose {file['purpose']!r}; upload a file with purpose "
                "'batch'",
                param="input_file_id",
            )
        now = int(time.time())
        batch = Batch(
            id=f"batch_{uuid4().hex}",
            endpoint=endpoint,
            input_file_id=input_file_id,
            completion_window=completion_window,
            status="validating",
            created_at=now,
            expires_at=now + seconds,
            metadata=metadata,
        )
        await self._database.do(lambda connection: BATCHES.put(connection, batch.as_body()))
        self._begin(batch)
        return batch

    async def get(self, batch_id: str) -> Batch:
        """The newest state of a batch; raises NotFoundError for none."""
        if job := self._id_to_job.get(batch_id):
            return job.newest
        body = await self._database.do(lambda connection: BATCHES.get(connection, batch_id))
        return Batch.from_body(body)

    async def page(self, *, limit: int, after: str | None) -> Page:
        """Some of the batches, the newest first; see `Shelf.page`."""
        page = await self._database.do(
            lambda connection: BATCHES.page(connection, limit=limit, after=after)
        )
        batches = [await self.get(str(body["id"])) for body in page.bodies]
        return replace(page, bodies=[batch.as_json() for batch in batches])

    async def cancel(self, batch_id: str) -> Batch:
        """Ends a batch early; rows that have a reply keep it.

        Raises:
            NotFoundError: If there is none.
            InputError: If it has ended.
        """
        batch = await self.get(batch_id)
        job = self._id_to_job.get(batch_id)
        if job is None or batch.status not in ("validating", "in_progress", "cancelling"):
            raise InputError(f"the batch {batch_id} is {batch.status} and cannot be cancelled")
        await self._save(job, job.batch.came_to("cancelling", time.time()))
        job.is_over.set()
        return job.newest

    def _begin(self, batch: Batch) -> None:
        job = self._id_to_job[batch.id] = _Job(batch=batch)
        if batch.status == "cancelling":
            job.is_over.set()
        job.task = asyncio.create_task(self._run(job))
        job.task.add_done_callback(lambda _: self._id_to_job.pop(batch.id, None))

    async def _save(self, job: _Job, batch: Batch) -> None:
        job.batch = batch  # first, so that nobody builds on what is being replaced
        await self._database.do(lambda connection: BATCHES.put(connection, batch.as_body()))

    async def _run(self, job: _Job) -> None:
        """A batch's life; what ends the server leaves it as it is."""
        try:
            if job.batch.status == "validating":
                await self._check(job)
            if "in_progress" in job.batch.status_to_time:
                await self._answer(job)
            elif job.batch.status == "cancelling":
                await self._save(job, job.batch.came_to("cancelled", time.time()))
        except UnavailableError as error:
            logger.warning("batch %s waits for the next server: %s", job.batch.id, error)
        except MartletError as error:
            logger.warning("batch %s failed: %s", job.batch.id, error)
            batch = replace(job.newest, errors=[error_of(error)])
            await self._save(job, batch.came_to("failed", time.time()))
        except Exception:  # a bug of ours must not fail a batch whose journal is whole
            logger.exception("batch %s waits for the next server", job.batch.id)

    async def _check(self, job: _Job) -> None:
        """Checks the input file in full; nothing is drawn if a line of it is wrong."""
        path = await self.files.path_of(job.batch.input_file_id)
        checking = check_lines(path, job.batch, self._service)
        findings = await _unless_set(job.is_over, checking)
        if findings is None or job.batch.status != "validating":
            return  # it was cancelled meanwhile
        batch = replace(
            job.batch,
            models=sorted(findings.models),
            errors=findings.errors,
            counts=Counts(total=findings.num_lines),
        )
        status: Status = "failed" if findings.errors else "in_progress"
        await self._save(job, batch.came_to(status, time.time()))

    async def _answer(self, job: _Job) -> None:
        """Draws what is missing, and writes the files."""
        path = await self.files.path_of(job.batch.input_file_id)
        folder = self._database.folder / "files"
        with ResultFile(folder) as output, ResultFile(folder) as errors:
            journal_path = self._database.journal_path(job.batch.id)
            async with SamplesJournal.open(journal_path) as journal:
                drawing = job.drawing = Drawing(
                    job.batch, path, self._service, journal=journal, output=output, errors=errors
                )
                ending = await self._draw(job, drawing)
            if message := _ENDING_TO_MESSAGE.get(ending):
                await asyncio.to_thread(drawing.give_up, code=f"batch_{ending}", message=message)
            await self._finalize(job, ending, drawing, output=output, errors=errors)
        await asyncio.to_thread(journal_path.unlink, missing_ok=True)

    async def _draw(self, job: _Job, drawing: Drawing) -> Ending:
        seconds_left = job.batch.expires_at - time.time()
        if job.is_over.is_set() or seconds_left <= 0:
            await drawing.finish(draws=False)
        else:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds_left):
                    await _unless_set(job.is_over, self._draw_in_turn(job, drawing))
        if job.is_over.is_set():
            return "cancelled"
        return "completed" if drawing.is_complete else "expired"

    async def _draw_in_turn(self, job: _Job, drawing: Drawing) -> None:
        await self._until_served(job.batch)
        async with self._turn:
            await drawing.finish()

    async def _until_served(self, batch: Batch) -> None:
        """A batch of another server's models waits for a server that has them."""
        catalog = self._service.catalog
        if missing := [model for model in batch.models if not catalog.knows(model)]:
            logger.warning("batch %s waits for the models %s", batch.id, ", ".join(missing))
        while not all(map(catalog.knows, batch.models)):
            await asyncio.sleep(_LOOK_AGAIN_S)

    async def _finalize(
        self, job: _Job, ending: Ending, drawing: Drawing, *, output: ResultFile, errors: ResultFile
    ) -> None:
        """Makes the files and the end of the batch last, both or neither."""
        batch = replace(job.newest, usage=drawing.usage)
        if ending != "cancelled":
            batch = batch.came_to("finalizing", time.time())
            await self._save(job, batch)
        files = []
        for name, result in (("output", output), ("error", errors)):
            if len(result):
                # The same at a second try, so that no file is left over from the first.
                file_id = f"file-{batch.id.removeprefix('batch_')}-{name}"
                path = self._database.file_path(file_id)
                await asyncio.to_thread(result.write, path)
                filename = f"{batch.id}_{name}.jsonl"
                files.append(file_body(file_id, path, filename=filename, purpose="batch_output"))
                batch = replace(batch, **{f"{name}_file_id": file_id})  # type: ignore[arg-type]
        batch = batch.came_to(ending, time.time())

        def keep(connection: Connection) -> None:
            for body in files:
                FILES.put(connection, body)
            BATCHES.put(connection, batch.as_body())

        await self._database.do(keep)
        job.batch = batch


async def _unless_set(event: asyncio.Event, work: Coroutine[None, None, _Result]) -> _Result | None:
    """Does some work, and gives it up with None once the event is set."""
    working, watching = asyncio.create_task(work), asyncio.create_task(event.wait())
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        working.cancel()
        watching.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)
