"""The one thread that calls the backend, and its door to the event loop.

The loop sends commands through an inbox, which the thread empties between two steps; the thread
hands everything that a step made to the loop in one call. Nobody else touches the backend.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from threading import Thread
from time import perf_counter
from typing import TypeVar, cast

from martlet.backends.base import Backend, SampleDelta, SampleOutput, SampleRequest
from martlet.backends.native import NativeBackend
from martlet.engine.stats import StepStats
from martlet.errors import (
    BusyError,
    DeadlineError,
    EngineError,
    MartletError,
    ParameterError,
    UnavailableError,
)
from martlet.lora.revision import AdapterRevision
from martlet.lora.store import AdapterInfo
from martlet.models.openmp import release_threads
from martlet.serve.catalog import adapters_of
from martlet.serve.meters import Meters
from martlet.serve.sample_stream import SampleStream

logger = logging.getLogger(__name__)

_LONGEST_RETRY_S = 60
_Result = TypeVar("_Result")
_Command = tuple[Future[object], Callable[[Backend], object]]


@dataclass(frozen=True, kw_only=True, slots=True)
class StepReport:
    """What one step made, on its way to the event loop."""

    deltas: Sequence[SampleDelta]
    outputs: Sequence[SampleOutput]
    stats: StepStats | None
    """None for a backend that keeps no such books."""


@dataclass(kw_only=True, slots=True)
class _Sample:
    """A sample that the engine has not finished."""

    stream: SampleStream
    submitted_at: float
    last_token_at: float | None = None


class EngineThread:
    """Runs a backend in a thread of its own. Every method is for the event loop's thread.

    Args:
        backend: Nobody else may call it from `start` until `stop` has returned, but for what its
            class says may be called from any thread.
        max_num_queued: Samples that may wait besides those that the backend computes at once.
        meters: Told what happens.
    """

    def __init__(self, backend: Backend, *, max_num_queued: int, meters: Meters) -> None:
        self.backend = backend
        self.is_draining = False
        self.failure: BaseException | None = None
        """Why the thread ended by itself, if it did."""
        self._capacity = backend.limits.max_num_requests + max_num_queued
        self._meters = meters
        self._inbox: SimpleQueue[_Command] = SimpleQueue()
        self._samples: dict[str, _Sample] = {}
        self._seconds_per_sample = 1.0
        self._is_stopping = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._load_changed = asyncio.Event()
        self._thread = Thread(target=self._run, name="martlet-engine", daemon=True)

    @property
    def num_unfinished(self) -> int:
        """Samples submitted, neither finished nor given up."""
        return len(self._samples)

    def start(self) -> None:
        """Starts the thread; called within the running event loop that it will report to."""
        self._loop = asyncio.get_running_loop()
        # Most often this one loaded the model, and computed doing so.
        release_threads()
        self._thread.start()

    async def stop(self) -> None:
        """Ends the thread after its current step; what is unfinished fails. Twice is once."""
        if not self._thread.is_alive():
            return
        self.give_up()
        self._send(lambda _backend: self._ask_to_stop())
        await asyncio.to_thread(self._thread.join)

    async def drain(self) -> None:
        """Takes no new samples, and waits until those that were taken have finished."""
        self.is_draining = True
        await self._idle.wait()

    async def until_fewer(self, num_samples: int) -> None:
        """Waits until fewer than so many samples are unfinished."""
        while self.num_unfinished >= num_samples:
            self._load_changed.clear()
            await self._load_changed.wait()

    def give_up(self) -> None:
        """Ends what is unfinished with an error."""
        self._fail_all(UnavailableError("the server is stopping; try again later"))

    async def call(self, function: Callable[[Backend], _Result]) -> _Result:
        """Runs a function of the backend between two steps, and returns what it returns.

        Raises:
            Exception: What the function raises.
            UnavailableError: If the thread has ended.
        """
        self._check_alive()
        future = self._send(function)
        if self.failure is not None:  # it ended meanwhile, and nobody empties the inbox
            self._refuse_commands()
        return cast(_Result, await asyncio.wrap_future(future))

    async def submit(
        self, requests: Sequence[SampleRequest], *, timeout_s: float | None = None
    ) -> SampleStream:
        """Takes samples that belong together into the queue: all of them or none.

        Args:
            requests: Samples to draw, with ids that were never used.
            timeout_s: After it the stream fails with a DeadlineError.

        Raises:
            BusyError: If the queue is full.
            UnavailableError: If the server is stopping, or the thread has ended.
            PromptTooLongError, ParameterError: As `Backend.submit`.
        """
        self.check_room(len(requests))
        stream = SampleStream([request.request_id for request in requests])
        now = perf_counter()
        for request in requests:
            self._samples[request.request_id] = _Sample(stream=stream, submitted_at=now)
        self._note_load()
        if timeout_s is not None:
            stream.watch(self._loop.call_later(timeout_s, self._expire, stream, timeout_s))
        try:
            await self._submit(requests)
        except BaseException:
            self.abort(stream)
            raise
        return stream

    async def _submit(self, requests: Sequence[SampleRequest]) -> None:
        """Submits samples; an adapter that was put out of memory is read again first.

        Reading takes seconds, so the engine's thread must not do it: others' tokens would wait.
        """
        while evicted := await self.call(lambda backend: _submit_all(backend, requests)):
            store = adapters_of(self.backend)
            prepared = await asyncio.to_thread(store.prepare, evicted.name, evicted.path)
            await self.call(partial(_install, prepared))

    def check_room(self, num_samples: int) -> None:
        """Raises as `submit` if that many samples would not be taken now."""
        self._check_alive()
        if self.is_draining:
            raise UnavailableError("the server is stopping and takes no new requests")
        if num_samples > self._capacity:
            raise ParameterError(
                f"{num_samples} samples were asked for in one request, and this server holds "
                f"{self._capacity} at most; ask for fewer at a time"
            )
        num_over = self.num_unfinished + num_samples - self._capacity
        if num_over > 0:
            raise BusyError(
                f"the queue is full: {self.num_unfinished} samples are waiting or running, and "
                f"{self._capacity} fit; try again later",
                retry_after=self._retry_after_s(),
            )

    def abort(self, stream: SampleStream) -> None:
        """Gives up what is unfinished of a stream; its blocks are free before the next step."""
        stream.close()
        unfinished = [name for name in stream.request_ids if self._samples.pop(name, None)]
        if unfinished:
            self._send(lambda backend: _abort_all(backend, unfinished))
            self._note_load()

    def _send(self, function: Callable[[Backend], object]) -> Future[object]:
        future: Future[object] = Future()
        self._inbox.put((future, function))
        return future

    def _check_alive(self) -> None:
        if self.failure is not None:
            raise UnavailableError(f"the engine has stopped: {self.failure}; restart the server")
        if self._is_stopping:
            raise UnavailableError("the server is stopping")

    def _retry_after_s(self) -> int:
        """When a place should be free: how long those who wait will take, all lanes busy."""
        num_lanes = self.backend.limits.max_num_requests
        num_waiting = max(1, self.num_unfinished - num_lanes)
        seconds = math.ceil(self._seconds_per_sample * num_waiting / num_lanes)
        return max(1, min(_LONGEST_RETRY_S, seconds))

    def _expire(self, stream: SampleStream, timeout_s: float) -> None:
        if any(name in self._samples for name in stream.request_ids):
            self.abort(stream)
            stream.fail(
                DeadlineError(
                    f"the reply was not finished within {timeout_s:g} s; ask for fewer tokens or "
                    "give a longer timeout"
                )
            )

    def _fail_all(self, error: MartletError) -> None:
        for stream in {sample.stream for sample in self._samples.values()}:
            self.abort(stream)
            stream.fail(error)

    def _note_load(self) -> None:
        self._load_changed.set()
        if self._samples:
            self._idle.clear()
        else:
            self._idle.set()
        self._meters.note_load(self.num_unfinished, self.backend.limits.max_num_requests)

    def _deliver(self, report: StepReport) -> None:
        """On the event loop: hands a step's events to their streams."""
        now = perf_counter()
        for delta in report.deltas:
            if sample := self._samples.get(delta.request_id):
                self._note_token(sample, delta, now)
                sample.stream.put(delta)
        for output in report.outputs:
            if sample := self._samples.pop(output.request_id, None):
                self._note_end(sample, output, now)
                sample.stream.put(output)
        if report.outputs:
            self._note_load()
        if report.stats is not None:
            self._meters.note_step(report.stats)

    def _note_token(self, sample: _Sample, delta: SampleDelta, now: float) -> None:
        num_tokens = len(delta.token_ids)
        if not num_tokens:
            return
        if sample.last_token_at is None:
            self._meters.note_first_token(now - sample.submitted_at)
            self._meters.note_next_tokens(0.0, num_tokens - 1)
        else:
            self._meters.note_next_tokens(now - sample.last_token_at, num_tokens)
        sample.last_token_at = now

    def _note_end(self, sample: _Sample, output: SampleOutput, now: float) -> None:
        seconds = now - sample.submitted_at
        self._seconds_per_sample += 0.1 * (seconds - self._seconds_per_sample)
        self._meters.note_sample(output, seconds)

    # What follows runs in the engine's thread.

    def _run(self) -> None:
        try:
            while not self._is_stopping:
                self._take_commands()
                if self.backend.num_unfinished:
                    self._report(self._step())
        except BaseException as error:  # nobody joins this thread: clients would wait for ever
            logger.critical("the engine's thread has ended", exc_info=error)
            self.failure = error
            self._fail_on_loop(EngineError(f"the engine has stopped: {error}"))
        finally:
            self._refuse_commands()

    def _take_commands(self) -> None:
        """Runs what is in the inbox; waits for something if there is nothing else to do."""
        if not self.backend.num_unfinished:
            _execute(self._inbox.get(), self.backend)
        while not self._inbox.empty():
            _execute(self._inbox.get(), self.backend)

    def _refuse_commands(self) -> None:
        with suppress(Empty):
            while True:
                future, _ = self._inbox.get_nowait()
                if future.set_running_or_notify_cancel():
                    future.set_exception(UnavailableError("the engine has stopped"))

    def _step(self) -> StepReport:
        try:
            outputs = self.backend.poll()
            deltas = self.backend.take_deltas()
        except Exception as error:  # the requests of a step are lost, the server is not
            logger.exception("a step raised; the requests in it fail")
            # Copying a dictionary's keys is one operation, so the loop may change it meanwhile.
            _abort_all(self.backend, list(self._samples))
            self._fail_on_loop(EngineError(f"a step failed: {type(error).__name__}: {error}"))
            return StepReport(deltas=(), outputs=(), stats=None)
        return StepReport(deltas=deltas, outputs=outputs, stats=_last_step(self.backend))

    def _fail_on_loop(self, error: MartletError) -> None:
        with suppress(RuntimeError):  # the event loop may be gone
            self._loop.call_soon_threadsafe(self._fail_all, error)

    def _report(self, report: StepReport) -> None:
        self._loop.call_soon_threadsafe(self._deliver, report)

    def _ask_to_stop(self) -> None:
        self._is_stopping = True


def _last_step(backend: Backend) -> StepStats | None:
    return backend.engine.last_step if isinstance(backend, NativeBackend) else None


def _submit_all(backend: Backend, requests: Sequence[SampleRequest]) -> AdapterInfo | None:
    """Submits all requests, unless an adapter that they name is not in memory: then returns it."""
    for name in {request.adapter for request in requests} - {None}:
        info = adapters_of(backend).get(str(name))
        if not info.is_loaded:
            return info
    for request in requests:
        backend.submit(request)
    return None


def _install(prepared: AdapterRevision, backend: Backend) -> None:
    adapters_of(backend).install(prepared)


def _abort_all(backend: Backend, request_ids: Sequence[str]) -> None:
    for request_id in request_ids:
        backend.abort(request_id)


def _execute(command: _Command, backend: Backend) -> None:
    future, function = command
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(function(backend))
    except Exception as error:  # whoever sent the command gets it
        future.set_exception(error)
