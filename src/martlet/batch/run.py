"""A run: keeps a backend fed with samples, journals what finishes, settles question by question.

Samples are submitted in the order of the rows, so that questions about one problem are neighbours
and share its computed prefix; a sample that an open question still wants goes before a new one.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import NamedTuple

from martlet.backends.base import Backend, SampleRequest
from martlet.batch.draw import Draw, Outcome
from martlet.batch.journal import Journal
from martlet.batch.plan import PlannedQuestion
from martlet.batch.policy import SamplePolicy
from martlet.batch.sample import StoredSample
from martlet.errors import EngineError, InputError, Interrupted, ParameterError

_QUEUE_DEPTH = 3
"""Requests submitted for each that the backend computes at once: enough never to let it wait, few
enough that an early decision still spares most of a question's samples."""


@dataclass(kw_only=True)
class Tally:
    """What a run has done so far. Counts of questions include those that needed no drawing."""

    num_questions_done: int = 0
    num_questions_failed: int = 0
    num_samples_drawn: int = 0
    num_samples_reused: int = 0
    """Samples of the result that an earlier run had drawn."""
    num_samples_saved: int = 0
    """Samples that were not needed, because their questions were decided before."""
    num_prompt_tokens: int = 0
    """Of the questions that were drawn in this run, each prompt counted once."""
    num_generated_tokens: int = 0
    """Of the samples that were drawn in this run."""
    num_drafted_tokens: int = 0
    """Guesses at replies that were computed in this run."""
    num_accepted_tokens: int = 0
    """Those of them that were drawn."""
    num_cut_by_length: int = 0
    """Samples of the result that ended at the limit of tokens."""


class _Place(NamedTuple):
    """Orders the queue: by question, then by sample."""

    position: int
    k: int

    @property
    def request_id(self) -> str:
        return f"{self.position}.{self.k}"


class Run:
    """Draws the samples of questions until each is decided or failed."""

    def __init__(
        self,
        *,
        backend: Backend,
        journal: Journal,
        questions: Iterable[PlannedQuestion],
        policy_of: Callable[[PlannedQuestion], SamplePolicy],
        on_outcome: Callable[[Outcome], None],
    ) -> None:
        """Does nothing yet.

        Args:
            backend: Used by nobody else while the run lasts.
            journal: Holds the samples of earlier runs; gets those of this one.
            questions: In the order in which they are to be asked.
            policy_of: Makes the policy of a question.
            on_outcome: Called once for each question, in the order in which they are settled.
        """
        self.tally = Tally()
        self._backend = backend
        self._journal = journal
        self._unopened = iter(questions)
        self._policy_of = policy_of
        self._on_outcome = on_outcome
        self._draws: dict[int, Draw] = {}
        self._queue: list[_Place] = []
        self._in_flight: dict[str, _Place] = {}

    def finish(
        self, *, on_step: Callable[[Tally], None], stop_requested: Callable[[], bool]
    ) -> Tally:
        """Runs to the end, calling `on_step` after each step of the backend.

        Raises:
            Interrupted: If `stop_requested` says so between two steps and work is left.
            ParameterError: If the backend cannot honour a parameter of the run.
            EngineError: If the backend fails as a whole.
            ResourceError: If the journal cannot be written.
        """
        try:
            while self._keep_fed():
                if stop_requested():
                    raise Interrupted(
                        f"stopped; what is finished is kept in {self._journal.path}; "
                        "run the same command again to go on"
                    )
                self._step()
                on_step(self.tally)
        finally:
            self._give_up_unfinished()
        return self.tally

    def _keep_fed(self) -> bool:
        """Submits until the backend has enough; whether there is anything to wait for."""
        depth = _QUEUE_DEPTH * self._backend.limits.max_num_requests
        while self._backend.num_unfinished < depth:
            place = self._next_place()
            if place is None:
                break
            self._submit(place)
        self._journal.commit()
        return bool(self._in_flight)

    def _next_place(self) -> _Place | None:
        while True:
            while self._queue:
                place = heappop(self._queue)
                draw = self._draws.get(place.position)
                # A place may have lost its question, or its use, since it was queued.
                is_wanted = draw is not None and place.k in draw.missing
                if is_wanted and place.request_id not in self._in_flight:
                    return place
            if not self._open_next():
                return None

    def _open_next(self) -> bool:
        planned = next(self._unopened, None)
        if planned is None:
            return False
        known = self._journal.finished(planned.key)
        draw = Draw(planned, self._policy_of(planned), known)
        self._draws[planned.position] = draw
        if draw.missing:
            self.tally.num_prompt_tokens += planned.num_prompt_tokens
        self._settle_or_queue(draw)
        return True

    def _submit(self, place: _Place) -> None:
        draw = self._draws[place.position]
        request = SampleRequest(
            request_id=place.request_id,
            prompt_ids=draw.planned.prompt_ids,
            params=draw.planned.params,
            seed=draw.planned.seed_of(place.k),
            adapter=self._backend.identity.adapter,
            prompt=None if draw.planned.num_dropped_tokens else draw.planned.question.prompt,
        )
        try:
            self._backend.submit(request)
        except InputError as error:
            if isinstance(error, ParameterError) and not draw.planned.question.overrides:
                raise  # Every row would fail alike: the run's own parameters are wrong.
            self._take(draw, [StoredSample.failed(place.k, str(error))])
            return
        self._in_flight[place.request_id] = place

    def _step(self) -> None:
        position_to_samples: dict[int, list[StoredSample]] = {}
        for output in self._backend.poll():
            place = self._in_flight.pop(output.request_id)
            sample = StoredSample.from_output(place.k, output)
            position_to_samples.setdefault(place.position, []).append(sample)
            self.tally.num_drafted_tokens += output.num_drafted_tokens
            self.tally.num_accepted_tokens += output.num_accepted_tokens
        for position, samples in position_to_samples.items():
            self._take(self._draws[position], samples)
        self._journal.commit()
        if self._in_flight and self._backend.num_unfinished == 0:
            raise EngineError(f"the backend lost {len(self._in_flight)} requests")

    def _take(self, draw: Draw, samples: list[StoredSample]) -> None:
        if not draw.planned.packed_prompt and draw.num_finished == 0:
            # Nobody but the server knew how long the prompt is.
            self.tally.num_prompt_tokens += max(sample.num_prompt_tokens for sample in samples)
        for sample in samples:
            self._journal.record(draw.planned.key, sample)
            draw.requested.discard(sample.index)
            if sample.error is None:
                self.tally.num_samples_drawn += 1
                self.tally.num_generated_tokens += sample.num_tokens
        draw.take(samples)
        self._give_up_unwanted(draw)
        self._settle_or_queue(draw)

    def _settle_or_queue(self, draw: Draw) -> None:
        if not draw.missing:
            self._settle(draw)
            return
        for k in draw.missing - draw.requested:
            heappush(self._queue, _Place(draw.planned.position, k))
            draw.requested.add(k)

    def _settle(self, draw: Draw) -> None:
        outcome = draw.outcome()
        del self._draws[draw.planned.position]
        tally = self.tally
        tally.num_questions_done += 1
        tally.num_samples_reused += outcome.num_reused
        tally.num_cut_by_length += sum(s.finish_reason == "length" for s in outcome.samples)
        if outcome.error is None:
            tally.num_samples_saved += max(0, draw.planned.params.n - draw.num_finished)
        else:
            tally.num_questions_failed += 1
        self._on_outcome(outcome)

    def _give_up_unwanted(self, draw: Draw) -> None:
        for k in draw.requested - draw.missing:
            draw.requested.discard(k)
            self._abort(_Place(draw.planned.position, k).request_id)

    def _give_up_unfinished(self) -> None:
        for request_id in list(self._in_flight):
            self._abort(request_id)

    def _abort(self, request_id: str) -> None:
        if self._in_flight.pop(request_id, None) is not None:
            self._backend.abort(request_id)
