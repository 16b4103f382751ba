"""One engine on another node, as the driver sees it."""

from contextlib import suppress
from typing import Any

import ray

from martlet.backends.base import SampleOutput, SampleRequest
from martlet.backends.options import BackendOptions
from martlet.backends.ray.cluster import Seat, ready_of, result_of
from martlet.backends.ray.worker import EngineFacts, Worker
from martlet.engine.params import SamplingParams
from martlet.errors import MartletError

_NUM_CALLS_AHEAD = 2
"""While the answer to one travels, the engine computes the next."""
_QUEUE_DEPTH = 1.5
"""Requests that an engine holds for each that it computes at once: it never waits for the network,
and what it holds too much is not missing elsewhere at the end."""


class RemoteEngine:
    """Starts to load at once. Its requests are kept here until they come back finished.

    Args:
        seat: Where it runs.
        model: As `load_backend` takes it, valid on every node.
        options: Of its backend.
    """

    def __init__(self, seat: Seat, model: str, options: BackendOptions) -> None:
        self.seat = seat
        self.unfinished: dict[str, SampleRequest] = {}
        """By request id, in the order in which they were given."""
        self.calls: list[Any] = []
        """The calls that it has not answered yet, oldest first."""
        self._actor = seat.start(Worker)
        self._arriving = self._actor.arrive.remote()
        self.loading = self._actor.load.remote(model, options)
        self._max_num_requests = 0
        self._unsent: list[SampleRequest] = []
        self._unwanted: list[str] = []

    @property
    def has_arrived(self) -> bool:
        """Whether the node gave it the place that it needs."""
        return bool(ready_of([self._arriving], timeout_s=0))

    @property
    def max_num_requests(self) -> int:
        """Requests that it computes at once; 0 until it is loaded."""
        return self._max_num_requests

    @property
    def load_share(self) -> float:
        """How busy it is: below 1, it would be glad of more."""
        return len(self.unfinished) / (_QUEUE_DEPTH * self._max_num_requests)

    def facts(self) -> EngineFacts:
        """Waits until it is loaded, and returns what it tells of itself.

        Raises:
            MartletError: If it could not load.
            EngineError: If it is gone.
        """
        facts: EngineFacts = result_of(self.loading)
        self._max_num_requests = facts.max_num_requests
        return facts

    def prepare(self, params: SamplingParams) -> None:
        """Asks for `Backend.prepare`, and waits."""
        result_of(self._actor.prepare.remote(params))

    def take(self, request: SampleRequest) -> None:
        """Queues a request; the next call brings it."""
        self.unfinished[request.request_id] = request
        self._unsent.append(request)

    def give_up(self, request_id: str) -> None:
        """Forgets a request; the next call tells the engine so."""
        del self.unfinished[request_id]
        self._unwanted.append(request_id)

    def keep_busy(self) -> None:
        """Sends what is queued, and calls ahead for as long as there is work."""
        while (self.unfinished or self._unwanted) and len(self.calls) < _NUM_CALLS_AHEAD:
            self.calls.append(self._actor.work.remote(self._unsent, self._unwanted))
            self._unsent, self._unwanted = [], []

    def collect(self, call: Any) -> list[SampleOutput]:
        """The samples that a finished call brings, without those given up meanwhile.

        Raises:
            MartletError: If the engine failed, or is gone.
        """
        self.calls.remove(call)
        outputs: list[SampleOutput] = result_of(call)
        return [each for each in outputs if self.unfinished.pop(each.request_id, None) is not None]

    def close(self) -> Any:
        """Asks the backend to close; returns the call."""
        return self._actor.close.remote()

    def end(self) -> None:
        """Ends the actor, whatever it is at."""
        ray.kill(self._actor)
        # Ray prints what a call raised whose answer nobody took.
        for call in ready_of([self.loading, *self.calls], timeout_s=0):
            with suppress(MartletError):
                result_of(call)
