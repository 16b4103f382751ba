"""One tuning job from its turn to its end: trained in a process of its own, proven, served."""

import asyncio
import logging
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from uuid import uuid4

from martlet.errors import BusyError, MartletError, ParityError, UnavailableError
from martlet.lora.provenance import ParityProof
from martlet.serve.envelope import code_of
from martlet.serve.service import Service
from martlet.serve.tuning.folder import JobFolder
from martlet.serve.tuning.ledger import Ledger
from martlet.serve.tuning.metrics import Metrics, data_of, message_of
from martlet.serve.tuning.process import TrainingProcess
from martlet.serve.tuning.record import Checkpoint, Event, JobError, TuningJob

logger = logging.getLogger("martlet.serve")

_LOOK_EVERY_S = 0.5
_GRACE_S = 20.0
"""For a training that the server's end interrupts to write a checkpoint."""


@dataclass(kw_only=True, eq=False)
class TuningRun:
    """A job that this server works at."""

    job: TuningJob
    folder: JobFolder
    service: Service
    ledger: Ledger
    is_cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when somebody cancels it; it ends soon, and is not served."""

    async def go(self) -> None:
        """Trains, proves and serves. What ends the server leaves the job to the next one."""
        try:
            if not self.folder.is_trained:
                await self._train()
            if not self.is_cancelled.is_set():
                await self._serve()
        except UnavailableError as error:
            logger.warning("tuning job %s waits for the next server: %s", self.job.id, error)
        except MartletError as error:
            await self._fail(error)
        except Exception as error:  # a bug of ours ends the job, and its client is told
            logger.exception("tuning job %s failed", self.job.id)
            await self._fail(MartletError(f"internal error: {type(error).__name__}: {error}"))

    async def _train(self) -> None:
        """Runs the training, and tells of it; returns early if the job is cancelled."""
        num_cores, num_threads = _cores(), max(1, _cores() // 2)
        await self._note(
            replace(self.job, status="validating_files"),
            [
                self._beginning(),
                f"sharing this machine with the models that are served: {num_threads} of "
                f"{num_cores} cores, at a low priority; requests go first",
            ],
        )
        process = TrainingProcess(
            self.folder.path,
            recipe=self.folder.recipe,
            log=self.folder.log,
            num_threads=num_threads,
        )
        grace_s = 0.0
        try:
            code = await self._watch(process)
        except asyncio.CancelledError:
            logger.warning("stopping: tuning job %s keeps a checkpoint", self.job.id)
            grace_s = _GRACE_S
            raise
        finally:
            await asyncio.to_thread(process.end, grace_s=grace_s)
        if code:
            raise process.failure()

    async def _watch(self, process: TrainingProcess) -> int | None:
        """Tells of a training while it runs; its exit code, or None if the job is cancelled."""
        while (code := process.exit_code()) is None:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_EVERY_S):
                    await self.is_cancelled.wait()
                return None
            await self._tell_metrics()
        await self._tell_metrics()
        return code

    async def _tell_metrics(self) -> None:
        metrics = await asyncio.to_thread(Metrics.read, self.folder.run.metrics)
        fresh = metrics.lines[self.job.num_metrics :]
        if not fresh:
            return
        now, left = time.time(), metrics.seconds_left
        job = replace(
            self.job,
            status="running",
            num_metrics=len(metrics.lines),
            estimated_finish=None if left is None else int(now + left),
        )
        events = [
            Event(created_at=int(now), message=message_of(line), data=data_of(line))
            for line in fresh
        ]
        await self._write(job, events)

    async def _serve(self) -> None:
        """Puts the adapter beside the other models, if it was proven."""
        proof = await asyncio.to_thread(self._proof)
        await self._note(
            self.job,
            [
                f"what was trained is what is served: loss {proof.trainer_loss:.4f} in training, "
                f"{proof.serving_loss:.4f} served, on {proof.num_tokens:,} tokens of "
                f"{proof.num_rows:,} rows"
            ],
        )
        await self._load()
        now = int(time.time())
        metrics = await asyncio.to_thread(Metrics.read, self.folder.run.metrics)
        checkpoint = Checkpoint(
            id=f"ftckpt-{uuid4().hex}",
            created_at=now,
            step=int(metrics.last("step") or 0),
            train_loss=metrics.last("loss"),
            valid_loss=metrics.last("validation_loss"),
        )
        job = replace(self.job, trained_tokens=metrics.num_tokens, checkpoint=checkpoint)
        await self._note(job.ended("succeeded", now), [f"{job.will_be} answers from now on"])

    def _proof(self) -> ParityProof:
        """That the adapter is served as it was trained; raises ParityError for none."""
        provenance = self.folder.provenance()
        proof = None if provenance is None else provenance.proof
        if proof is None or not proof.passed:
            reason = "nothing says that it was looked at" if proof is None else proof.reason
            raise ParityError(f"what was trained is not what is served: {reason}")
        return proof

    async def _load(self) -> None:
        while True:
            try:
                return await self.service.load_adapter(self.job.will_be, self.folder.run.path)
            except BusyError as error:
                await asyncio.sleep(error.retry_after)

    async def _fail(self, error: MartletError) -> None:
        logger.warning("tuning job %s failed: %s", self.job.id, error)
        code = "server_error" if type(error) is MartletError else code_of(error)
        why = JobError(code=code, message=str(error), param=_param(str(error)))
        now = time.time()
        event = Event(created_at=int(now), level="error", message=f"the job failed: {error}")
        await self._write(self.job.ended("failed", now, error=why), [event])

    def _beginning(self) -> str:
        if not self.folder.run.path.exists():
            return "the rows are read, and then trained on"
        return f"the server was started again; training goes on from step {self.folder.last_step()}"

    async def _note(self, job: TuningJob, messages: Sequence[str]) -> None:
        now = int(time.time())
        await self._write(job, [Event(created_at=now, message=message) for message in messages])

    async def _write(self, job: TuningJob, events: Sequence[Event]) -> None:
        await self.ledger.write(job, *events)
        self.job = job


def _cores() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _param(message: str) -> str | None:
    """The field of the request whose file an error names."""
    files = ("training", "validation")
    return next((f"{name}_file" for name in files if message.startswith(f"{name}.")), None)
