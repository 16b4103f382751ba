"""Tuning jobs and their events, as the server's database keeps them."""

from sqlite3 import Connection

from martlet.serve.batches.database import Database
from martlet.serve.batches.shelf import EVENTS, JOBS, Page
from martlet.serve.tuning.record import Event, TuningJob


class Ledger:
    """The newest state of each job, and all that happened to it.

    Args:
        database: Of the server.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    @property
    def exists(self) -> bool:
        """Whether there may be jobs from an earlier use."""
        return self._database.exists

    async def write(self, job: TuningJob, *events: Event) -> None:
        """Keeps a job's newest state and what happened, both or neither."""

        def keep(connection: Connection) -> None:
            JOBS.put(connection, job.as_body())
            for event in events:
                EVENTS.put(connection, event.as_body(job.id))

        await self._database.do(keep)

    async def get(self, job_id: str) -> TuningJob:
        """A job; raises NotFoundError for none."""
        body = await self._database.do(lambda connection: JOBS.get(connection, job_id))
        return TuningJob.from_body(body)

    async def all(self) -> list[TuningJob]:
        """All jobs, the oldest first."""
        return [*map(TuningJob.from_body, await self._database.do(JOBS.all))]

    async def page(self, *, limit: int, after: str | None) -> Page:
        """Some of the jobs, the newest first; see `Shelf.page`."""
        page = await self._database.do(
            lambda connection: JOBS.page(connection, limit=limit, after=after)
        )
        jobs = map(TuningJob.from_body, page.bodies)
        return Page(bodies=[job.as_json() for job in jobs], has_more=page.has_more)

    async def events(self, job_id: str, *, limit: int, after: str | None) -> Page:
        """Some of a job's events, the newest first; raises NotFoundError for no job."""
        await self.get(job_id)
        return await self._database.do(
            lambda connection: EVENTS.page(
                connection, limit=limit, after=after, where={"fine_tuning_job_id": job_id}
            )
        )
