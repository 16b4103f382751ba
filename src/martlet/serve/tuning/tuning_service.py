"""Tuning jobs: taken, queued, cancelled and told of; one at a time is trained.

A job is in the database before anything is done for it, and its run folder holds its checkpoints.
So whatever ends the process, the next server over the same folders goes on where it was.
"""

import asyncio
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from martlet.errors import (
    InputError,
    MartletError,
    ParameterError,
    UnavailableError,
)
from martlet.serve.batches.database import Database
from martlet.serve.batches.file_store import FileStore
from martlet.serve.batches.shelf import Page
from martlet.serve.catalog import adapters_of
from martlet.serve.schema.tuning import CreateTuning
from martlet.serve.service import Service
from martlet.serve.tuning.folder import JobFolder, name_of
from martlet.serve.tuning.ledger import Ledger
from martlet.serve.tuning.recipe import method_as_json, model_name, options_of, recipe_of
from martlet.serve.tuning.record import Event, TuningJob
from martlet.serve.tuning.tuning_run import TuningRun
from martlet.train.config import TrainConfig

logger = logging.getLogger("martlet.serve")


@dataclass(kw_only=True, eq=False)
class _Turn:
    """A run and its place in the queue."""

    run: TuningRun
    task: asyncio.Task[None] | None = None
    has_come: bool = False


class TuningService:
    """The tuning jobs of a server. Every method is for the event loop's thread.

    Args:
        service: What answers, and what is tuned.
        root: The folder of the jobs' folders.
        database: Where jobs and events are kept.
        files: What jobs learn from.

    Raises:
        InputError: If what answers takes no adapters.
    """

    def __init__(self, service: Service, root: Path, database: Database, files: FileStore) -> None:
        adapters_of(service.engine.backend)
        self._service = service
        self._root = root.resolve()
        self._files = files
        self._ledger = Ledger(database)
        self._turns: dict[str, _Turn] = {}
        self._queue = asyncio.Lock()

    async def start(self) -> None:
        """Serves what was tuned before, and goes on with what is unfinished."""
        if not self._ledger.exists:
            return
        try:
            jobs = await self._ledger.all()
        except UnavailableError as error:
            logger.warning("no tuning jobs: %s", error)
            return
        for job in jobs:
            if job.is_unfinished or job.status == "succeeded":
                await self._take_up(job)

    async def stop(self) -> None:
        """Leaves unfinished jobs to the next server."""
        tasks = [turn.task for turn in self._turns.values() if turn.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def create(self, body: CreateTuning) -> TuningJob:
        """Takes a job.

        Raises:
            NotFoundError: If there is no such file or model.
            InputError: If a field is out of its range, a file has no rows or was made for
                something else, or the model is none that can be tuned.
            ResourceError: If the disk is full.
        """
        self._check_model(body.model)
        backend = self._service.engine.backend
        template = backend.tokenizer.template
        files = await self._rows_of(body)
        config = recipe_of(
            body, backend.identity, files=[*files], has_template=template is not None
        )
        job = self._job_of(body, config)
        folder = self._folder(job.id)
        await asyncio.to_thread(folder.make, config, files=files, template=template)
        try:
            await self._ledger.write(job, self._arrival(job))
        except MartletError:
            await asyncio.to_thread(folder.remove)
            raise
        self._begin(job, folder)
        return job

    async def get(self, job_id: str) -> TuningJob:
        """The newest state of a job; raises NotFoundError for none."""
        return await self._ledger.get(job_id)

    async def page(self, *, limit: int, after: str | None) -> Page:
        """Some of the jobs, the newest first; see `Shelf.page`."""
        return await self._ledger.page(limit=limit, after=after)

    async def events(self, job_id: str, *, limit: int, after: str | None) -> Page:
        """Some of a job's events, the newest first; raises NotFoundError for no job."""
        return await self._ledger.events(job_id, limit=limit, after=after)

    async def cancel(self, job_id: str) -> TuningJob:
        """Ends a job; its folder stays.

        Raises:
            NotFoundError: If there is none.
            InputError: If it has ended.
        """
        if (turn := self._turns.get(job_id)) is not None and turn.task is not None:
            turn.run.is_cancelled.set()
            if not turn.has_come:
                turn.task.cancel()
            await asyncio.wait({turn.task})
        job = await self.get(job_id)
        if not job.is_unfinished:
            raise InputError(f"the job {job_id} has {job.status} and cannot be cancelled")
        now = time.time()
        cancelled = job.ended("cancelled", now)
        await self._ledger.write(
            cancelled, Event(created_at=int(now), level="warn", message="the job was cancelled")
        )
        return cancelled

    def _folder(self, job_id: str) -> JobFolder:
        return JobFolder(path=self._root / job_id)

    def _check_model(self, model: str) -> None:
        if self._service.catalog.resolve(model) is not None:
            raise ParameterError(
                f"{model!r} is an adapter, and those are not tuned further; tune "
                f"{self._service.catalog.base_names[0]!r}",
                param="model",
            )

    def _job_of(self, body: CreateTuning, config: TrainConfig) -> TuningJob:
        catalog, job_id = self._service.catalog, f"ftjob-{uuid4().hex}"
        return TuningJob(
            id=job_id,
            created_at=int(time.time()),
            model=body.model,
            base_hash=catalog.identity.model_hash,
            will_be=model_name(catalog.base_names[0], body.suffix, job_id[-8:]),
            training_file=body.training_file,
            validation_file=body.validation_file,
            seed=body.seed,
            method=method_as_json(body, config),
            options=options_of(body.martlet),
            metadata=body.metadata,
        )

    async def _rows_of(self, body: CreateTuning) -> dict[str, Path]:
        """The files of training rows and of validation rows, by the names of their copies."""
        given = {"training_file": body.training_file, "validation_file": body.validation_file}
        return {
            await self._name_of_copy(param, file_id): await self._files.path_of(file_id)
            for param, file_id in given.items()
            if file_id is not None
        }

    async def _name_of_copy(self, param: str, file_id: str) -> str:
        file = await self._files.get(file_id)
        if file["purpose"] != "fine-tune":
            raise ParameterError(
                f"{file_id} has the purpose {file['purpose']!r}; upload a file with purpose "
                "'fine-tune'",
                param=param,
            )
        return name_of(param.removesuffix("_file"), str(file["filename"]))

    def _arrival(self, job: TuningJob) -> Event:
        message = "the job was taken"
        if self._turns:
            message += f"; it waits for {', '.join(self._turns)}"
        return Event(created_at=job.created_at, message=message)

    async def _take_up(self, job: TuningJob) -> None:
        """Does for a job of an earlier server what is left to be done."""
        folder = self._folder(job.id)
        if not folder.path.is_dir():
            logger.warning("tuning job %s rests: there is no folder %s", job.id, folder.path)
        elif job.base_hash != self._service.catalog.identity.model_hash:
            logger.warning("tuning job %s rests: its base is not served here", job.id)
        elif job.is_unfinished:
            logger.info("tuning job %s goes on: it is %s", job.id, job.status)
            self._begin(job, folder)
        else:
            try:
                await self._service.load_adapter(job.will_be, folder.run.path)
            except MartletError as error:
                logger.warning("%s is not served: %s", job.will_be, error)

    def _begin(self, job: TuningJob, folder: JobFolder) -> None:
        run = TuningRun(job=job, folder=folder, service=self._service, ledger=self._ledger)
        turn = self._turns[job.id] = _Turn(run=run)
        turn.task = asyncio.create_task(self._go_in_turn(turn))
        turn.task.add_done_callback(lambda _: self._turns.pop(job.id, None))

    async def _go_in_turn(self, turn: _Turn) -> None:
        async with self._queue:
            turn.has_come = True
            await turn.run.go()
