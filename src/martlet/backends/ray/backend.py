"""Many engines behind the backends' contract: whoever has room computes the next request."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import count

from martlet.backends.base import (
    BackendLimits,
    DefaultParams,
    ModelIdentity,
    Prompt,
    RenderedPrompt,
    SampleDelta,
    SampleOutput,
    SampleRequest,
)
from martlet.backends.openai.rendering import RendersHere
from martlet.backends.ray.cluster import ready_of
from martlet.backends.ray.crew import Crew
from martlet.backends.ray.remote import RemoteEngine
from martlet.backends.ray.worker import failed
from martlet.engine.params import SamplingParams
from martlet.errors import (
    EngineError,
    MartletError,
    NotFoundError,
    ParameterError,
    PromptTooLongError,
)
from martlet.text.tokenizer import Tokenizer

_POLL_S = 0.1
"""The longest that a poll waits for news."""
_MOST_LOSSES = 3
"""A request that was lost with as many engines may well be what ends them."""


class RayBackend:
    """Draws samples on every engine of a cluster.

    A request belongs to the driver until its sample is here: what an engine took with it when it
    died is handed to the others. Since a draw depends on the request's own seed, nobody can see who
    drew it.

    Args:
        crew: Assembled; closed with the backend.
        renders: Turns prompts into token ids.
        identity: What answers, on every engine.
        default_params: What the model's folder recommends.
        on_close: Called at the end of `close`.
    """

    def __init__(
        self,
        crew: Crew,
        renders: RendersHere,
        *,
        identity: ModelIdentity,
        default_params: DefaultParams,
        on_close: Callable[[], None],
    ) -> None:
        self.identity = identity
        self.default_params = default_params
        self.crew = crew
        self._renders = renders
        self._on_close = on_close
        self._tickets = count()
        self._waiting: dict[str, SampleRequest] = {}
        self._id_to_ticket: dict[str, str] = {}
        self._ticket_to_id: dict[str, str] = {}
        self._outputs: list[SampleOutput] = []
        """Under their tickets."""
        self._num_losses = Counter[str]()
        self._prepared: SamplingParams | None = None

    @property
    def limits(self) -> BackendLimits:
        """See `Backend.limits`; what the engines hold at once changes as they come and go."""
        num_requests = sum(engine.max_num_requests for engine in self.crew.engines)
        return BackendLimits(
            max_context_tokens=self.crew.facts.max_context_tokens,
            max_num_requests=max(1, num_requests),
        )

    @property
    def tokenizer(self) -> Tokenizer:
        """See `Backend.tokenizer`."""
        return self._renders.tokenizer

    @property
    def num_unfinished(self) -> int:
        """See `Backend.num_unfinished`."""
        return len(self._id_to_ticket)

    def render(self, prompt: Prompt) -> RenderedPrompt:
        """See `Backend.render`."""
        return self._renders.render(prompt)

    def prepare(self, params: SamplingParams) -> None:
        """Asks an engine; see `Backend.prepare`."""
        if params == self._prepared:
            return
        while True:
            self.crew.look_around()
            for engine in self.crew.engines[:1]:
                try:
                    engine.prepare(params)
                except EngineError as error:
                    self._lose(engine, error)
                else:
                    self._prepared = params
                    return

    def submit(self, request: SampleRequest) -> None:
        """See `Backend.submit`.

        What an engine alone can refuse comes back from `poll` as an error.
        """
        if request.request_id in self._id_to_ticket:
            raise ParameterError(f"request id {request.request_id!r} is in use")
        if request.streams:
            raise ParameterError("a cluster answers files and does not stream; leave --ray out")
        if request.adapter not in (None, self.identity.adapter):
            raise NotFoundError(
                f"no adapter {request.adapter!r} is loaded; the cluster runs "
                f"{self.identity.adapter or 'none'}"
            )
        limit = self.limits.max_context_tokens
        if len(request.prompt_ids) >= limit:
            raise PromptTooLongError(
                f"the prompt has {len(request.prompt_ids)} tokens and the context holds {limit}, "
                "the reply included; shorten the prompt or raise --max-context"
            )
        # An id may come again after it was given up, when its first sample is still under way.
        ticket = str(next(self._tickets))
        self._id_to_ticket[request.request_id] = ticket
        self._ticket_to_id[ticket] = request.request_id
        self._waiting[ticket] = replace(request, request_id=ticket, prompt=None)

    def abort(self, request_id: str) -> None:
        """See `Backend.abort`."""
        ticket = self._id_to_ticket.get(request_id)
        if ticket is None:
            return
        self._forget(ticket)
        self._waiting.pop(ticket, None)
        for engine in self.crew.engines:
            if ticket in engine.unfinished:
                engine.give_up(ticket)

    def poll(self) -> list[SampleOutput]:
        """Hands requests out and returns what has come in, after a short wait for it.

        Raises:
            EngineError: If no engine is left.
        """
        self.crew.look_around()
        self._deal()
        for engine in self.crew.engines:
            engine.keep_busy()
        self._collect()
        outputs, self._outputs = self._outputs, []
        return [replace(each, request_id=self._forget(each.request_id)) for each in outputs]

    def take_deltas(self) -> list[SampleDelta]:
        """Nothing streams."""
        return []

    def close(self) -> None:
        """See `Backend.close`."""
        try:
            self.crew.close()
        finally:
            self._on_close()

    def _deal(self) -> None:
        """Gives what waits to whoever is least busy, requests of one prompt together."""
        previous: tuple[int, ...] | None = None
        engine: RemoteEngine | None = None
        for ticket, request in list(self._waiting.items()):
            if request.prompt_ids != previous or engine is None:
                engine = min(self.crew.engines, key=lambda each: each.load_share, default=None)
                if engine is None or engine.load_share >= 1:
                    return
            del self._waiting[ticket]
            engine.take(request)
            previous = request.prompt_ids

    def _collect(self) -> None:
        call_to_engine = {call: each for each in self.crew.engines for call in each.calls}
        for call in ready_of(list(call_to_engine), timeout_s=_POLL_S):
            engine = call_to_engine[call]
            if call not in engine.calls:
                continue  # lost since
            try:
                self._outputs += engine.collect(call)
            except MartletError as error:
                self._lose(engine, error)

    def _lose(self, engine: RemoteEngine, error: MartletError) -> None:
        """Lets others compute what an engine had, but for what was lost too often."""
        self.crew.lose(engine, error)
        lost, engine.unfinished, engine.calls = engine.unfinished, {}, []
        self._num_losses.update(lost.keys())
        spared = {
            ticket: request
            for ticket, request in lost.items()
            if self._num_losses[ticket] < _MOST_LOSSES
        }
        self._waiting = {**spared, **self._waiting}
        reason = f"{_MOST_LOSSES} engines ended while they computed it; the last: {error}"
        self._outputs += [failed(lost[ticket], reason) for ticket in lost.keys() - spared.keys()]

    def _forget(self, ticket: str) -> str:
        """The request's own id."""
        self._num_losses.pop(ticket, None)
        request_id = self._ticket_to_id.pop(ticket)
        del self._id_to_ticket[request_id]
        return request_id
