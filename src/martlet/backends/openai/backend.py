"""A server behind the backends' contract: what it answers, nobody here computes."""

from collections.abc import Callable, Collection
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
from martlet.backends.openai.body import ask_of
from martlet.backends.openai.courier import Courier, Ticket
from martlet.backends.openai.rendering import Renders, RendersHere
from martlet.backends.openai.server import Server
from martlet.engine.params import SamplingParams
from martlet.errors import (
    InputError,
    MartletError,
    NotFoundError,
    ParameterError,
    PromptTooLongError,
)
from martlet.text.tokenizer import Tokenizer

_POLL_S = 0.02
"""How long a poll waits for news; commands of a server wait as long."""
UNTOLD_CONTEXT = 2**31 - 1
"""Stands for the context of a server that does not tell it: its own refusals are the rows'."""


class OpenAIBackend:
    """Draws samples from a server that speaks OpenAI's API.

    Args:
        server: Who is asked.
        courier: Carries the requests; closed with the backend.
        renders: Turns prompts into token ids.
        identity: What answers.
        default_params: What the model's folder recommends, where it is known.
        adapters: What requests may name in the model's place.
        on_close: Called at the end of `close`.
    """

    def __init__(
        self,
        server: Server,
        courier: Courier,
        renders: Renders,
        *,
        identity: ModelIdentity,
        default_params: DefaultParams | None = None,
        adapters: Collection[str] = (),
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        self.identity = identity
        self.default_params = default_params or DefaultParams()
        self.server = server
        self._courier = courier
        self._renders = renders
        self._adapters = frozenset(adapters)
        self._on_close = on_close
        self._tickets = count()
        self._id_to_ticket: dict[str, Ticket] = {}
        self._ticket_to_id: dict[Ticket, str] = {}
        self._deltas: list[SampleDelta] = []
        self._failure: MartletError | None = None

    @property
    def limits(self) -> BackendLimits:
        """See `Backend.limits`; how many requests the server takes well changes with time."""
        return BackendLimits(
            max_context_tokens=self.server.max_context_tokens or UNTOLD_CONTEXT,
            max_num_requests=self._courier.window,
        )

    @property
    def tokenizer(self) -> Tokenizer:
        """See `Backend.tokenizer`.

        Raises:
            InputError: If nobody gave one.
        """
        if not isinstance(self._renders, RendersHere):
            raise InputError(
                f"this needs the tokenizer of {self.identity.model}, which servers do not hand "
                "out; give its folder with --tokenizer DIR"
            )
        return self._renders.tokenizer

    @property
    def num_unfinished(self) -> int:
        """See `Backend.num_unfinished`."""
        return len(self._id_to_ticket)

    def render(self, prompt: Prompt) -> RenderedPrompt:
        """See `Backend.render`."""
        return self._renders.render(prompt)

    def prepare(self, params: SamplingParams) -> None:
        """Refuses what the server cannot do; see `Backend.prepare`."""
        self.server.can.check(params, server=self.server.described)

    def submit(self, request: SampleRequest) -> None:
        """See `Backend.submit`."""
        if request.request_id in self._id_to_ticket:
            raise ParameterError(f"request id {request.request_id!r} is in use")
        if request.adapter is not None and request.adapter not in self._adapters:
            raise NotFoundError(
                f"{self.server.described} was asked for adapter {request.adapter!r}; known here: "
                f"{', '.join(sorted(self._adapters)) or 'none'}"
            )
        limit = self.limits.max_context_tokens
        if len(request.prompt_ids) >= limit:
            raise PromptTooLongError(
                f"the prompt has {len(request.prompt_ids)} tokens and the context holds {limit}, "
                "the reply included; shorten the prompt"
            )
        renders_here = isinstance(self._renders, RendersHere)
        ask = ask_of(request, self.server, renders_here=renders_here)
        ticket = next(self._tickets)
        self._id_to_ticket[request.request_id] = ticket
        self._ticket_to_id[ticket] = request.request_id
        self._courier.send(ticket, request, ask)

    def abort(self, request_id: str) -> None:
        """See `Backend.abort`."""
        ticket = self._id_to_ticket.pop(request_id, None)
        if ticket is not None:
            del self._ticket_to_id[ticket]
            self._courier.cancel(ticket)

    def poll(self) -> list[SampleOutput]:
        """Returns what has come in, after a short wait if there is nothing.

        Raises:
            MartletError: If the server refuses the whole run, or is gone.
        """
        outputs = []
        for ticket, event in self._courier.collect(timeout_s=_POLL_S):
            if isinstance(event, MartletError):
                self._failure = event
                continue
            if ticket not in self._ticket_to_id:
                continue  # given up meanwhile
            if isinstance(event, SampleDelta):
                self._deltas.append(event)
                continue
            del self._id_to_ticket[self._ticket_to_id.pop(ticket)]
            outputs.append(event)
        if not outputs:  # what was finished before a failure comes first
            self._raise_failure()
        return outputs

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def take_deltas(self) -> list[SampleDelta]:
        """See `Backend.take_deltas`."""
        deltas, self._deltas = self._deltas, []
        return deltas

    def close(self) -> None:
        """See `Backend.close`."""
        try:
            self._courier.close()
            self._renders.close()
        finally:
            self._on_close()
