"""The rows of one batch, drawn beside live requests.

A row's samples are a function of the batch, its custom_id and its body: order, neighbours and
restarts change nothing. Each finished sample goes to the journal before it counts.
"""

from asyncio import TaskGroup
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from martlet.backends.base import SampleOutput, SampleRequest
from martlet.errors import EngineError, MartletError, UnavailableError
from martlet.serve.batches.lines import BatchLine, read_line, read_lines
from martlet.serve.batches.record import Batch, Counts, Usage
from martlet.serve.batches.results import ResultFile, answered, refused, unasked
from martlet.serve.batches.samples import key_of, restore, store
from martlet.serve.batches.samples_journal import SamplesJournal
from martlet.serve.envelope import envelope_of
from martlet.serve.generation import Stamp, check_context, check_whole, sample_requests
from martlet.serve.prepare import Prepared
from martlet.serve.replies.common import Wording, note_of
from martlet.serve.sample_stream import SampleStream
from martlet.serve.service import Service

_RESERVED_SHARE = 8
"""Of so many samples that the engine computes at once, one place is left to live requests."""


@dataclass(kw_only=True, eq=False)
class _Row:
    """A row whose samples are being drawn."""

    line: BatchLine
    prepared: Prepared[Wording]
    requests: Sequence[SampleRequest]
    key: str
    outputs: dict[int, SampleOutput]
    """The finished samples, by choice."""


class Drawing:
    """Draws a batch, and words its replies.

    Args:
        batch: What to draw; it has been checked.
        path: Its input file.
        service: What answers.
        journal: Holds the samples of earlier runs; gets those of this one.
        output: Gets the lines of rows that have a reply.
        errors: Gets the lines of those that failed.
    """

    def __init__(
        self,
        batch: Batch,
        path: Path,
        service: Service,
        *,
        journal: SamplesJournal,
        output: ResultFile,
        errors: ResultFile,
    ) -> None:
        self.usage = Usage()
        self._batch = batch
        self._path = path
        self._service = service
        self._journal = journal
        self._output = output
        self._errors = errors
        num_lanes = service.engine.backend.limits.max_num_requests
        self._num_lanes = max(1, num_lanes - num_lanes // _RESERVED_SHARE)

    @property
    def counts(self) -> Counts:
        """How far it has come."""
        return Counts(
            total=self._batch.counts.total, completed=len(self._output), failed=len(self._errors)
        )

    async def finish(self, *, draws: bool = True) -> None:
        """Goes through all rows, and returns when each has its line.

        Args:
            draws: Whether samples that the journal does not hold are drawn; without, their rows
                get no line.

        Raises:
            UnavailableError: If the server stops meanwhile; the journal keeps what is finished.
            ResourceError: If the journal or a file cannot be written.
        """
        stopping: UnavailableError | None = None
        try:
            async with TaskGroup() as samples:
                try:
                    for line in self._lines():
                        await self._begin(line, samples if draws else None)
                except UnavailableError as error:
                    stopping = error  # what is being drawn may still finish
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from errors
        if stopping is not None:
            raise stopping

    @property
    def is_complete(self) -> bool:
        """Whether every row has its line."""
        return len(self._output) + len(self._errors) == self._batch.counts.total

    def give_up(self, *, code: str, message: str) -> None:
        """Writes that the rows without a line were not drawn."""
        for line in self._lines():
            if line.number not in self._output and line.number not in self._errors:
                text = unasked(line.reply_id, line.custom_id, code=code, message=message)
                self._errors.put(line.number, text)

    def _lines(self) -> Iterator[BatchLine]:
        limit = self._service.settings.max_body_bytes
        for number, content in read_lines(self._path, max_line_bytes=limit):
            yield read_line(number, content, self._batch, max_line_bytes=limit)

    async def _begin(self, line: BatchLine, samples: TaskGroup | None) -> None:
        """Submits what is missing of a row, waiting for room before each sample."""
        try:
            row = await self._row_of(line)
        except UnavailableError:
            raise
        except MartletError as error:  # right when it was checked: an adapter was dropped, say
            self._fail(line, error)
            return
        self._word_if_complete(row)
        for index, request in enumerate(row.requests):
            if samples is None or line.number in self._errors:
                return
            if index not in row.outputs:
                await self._submit(row, index, request, samples)

    async def _row_of(self, line: BatchLine) -> _Row:
        batch = self._batch
        created = batch.status_to_time.get("in_progress", batch.created_at)
        draws = f"{batch.id}, row {line.custom_id}"
        stamp = Stamp(reply_id=line.reply_id, created=created, draws=draws)
        prepared = await line.prepare(self._service, stamp)
        catalog = self._service.catalog
        check_context(prepared.ask, catalog.max_context_tokens)
        requests = sample_requests(prepared.ask, streams=False)
        adapter = catalog.adapters.get(prepared.ask.adapter or "")
        revision = None if adapter is None else adapter.revision
        key = key_of(requests, catalog.identity, revision=revision)
        known = await self._journal.finished(key)
        outputs = {k: restore(requests[k].request_id, sample) for k, sample in known.items()}
        return _Row(line=line, prepared=prepared, requests=requests, key=key, outputs=outputs)

    async def _submit(
        self, row: _Row, index: int, request: SampleRequest, samples: TaskGroup
    ) -> None:
        # Never more than the engine computes at once: nobody waits in a queue behind a batch.
        await self._service.engine.until_fewer(self._num_lanes)
        try:
            stream = await self._service.engine.submit([request])
        except UnavailableError:
            raise
        except MartletError as error:
            self._fail(row.line, error)
            return
        samples.create_task(self._take(row, index, stream))

    async def _take(self, row: _Row, index: int, stream: SampleStream) -> None:
        try:
            (output,) = await stream.take()
            assert isinstance(output, SampleOutput), "it was not asked to stream"
            check_whole(output)
        except EngineError as error:
            self._fail(row.line, error)
            return
        finally:
            self._service.engine.abort(stream)
        await self._journal.record(row.key, store(index, output))
        row.outputs[index] = output
        self._word_if_complete(row)

    def _word_if_complete(self, row: _Row) -> None:
        if len(row.outputs) < len(row.requests):
            return
        outputs = [row.outputs[index] for index in range(len(row.requests))]
        body = row.prepared.writer.body(outputs)
        if note := note_of(row.prepared.ask):
            body["martlet"] = note
        self._output.put(row.line.number, answered(row.line.reply_id, row.line.custom_id, body))
        first_of_each = outputs[:: row.prepared.ask.effective.params.n]
        self.usage = Usage(
            num_prompt=self.usage.num_prompt + sum(o.num_prompt_tokens for o in first_of_each),
            num_cached=self.usage.num_cached + sum(o.num_cached_tokens for o in first_of_each),
            num_drawn=self.usage.num_drawn + sum(o.num_tokens for o in outputs),
        )

    def _fail(self, line: BatchLine, error: MartletError) -> None:
        if line.number not in self._errors:
            text = refused(
                line.reply_id, line.custom_id, envelope_of(error), status=error.http_status
            )
            self._errors.put(line.number, text)
