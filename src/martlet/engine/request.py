"""One sample being drawn: the only object of the engine that changes as it travels."""

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Literal

from martlet.engine.block_pool import BlockKey
from martlet.engine.constraint import TokenConstraint
from martlet.engine.draft import Drafter
from martlet.engine.params import SamplingParams
from martlet.engine.token_counts import TokenCounts

if TYPE_CHECKING:
    # The scheduler, which handles requests, imports no torch.
    from martlet.lora.revision import AdapterRevision

FinishReason = Literal["stop", "length", "abort", "error"]


class RequestStatus(Enum):
    """Where a request stands; only the scheduler moves it."""

    WAITING = auto()
    RUNNING = auto()
    FINISHED = auto()


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A token that could have been drawn, and what each step before the draw made of it."""

    token_id: int
    logit: float
    """As the model gave it."""
    adjusted: float
    """After penalties, bias, bars and the form; minus infinity for what may not be drawn."""
    scaled: float
    """After the temperature too."""
    probability: float
    """Before the filters."""
    draw_probability: float
    """After top_k, top_p and min_p, or for greedy: 0 for what they drop."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenLogprobs:
    """The log-probability of one token, and the most likely tokens at its position."""

    token_id: int
    logprob: float
    rank: int
    """1 for the most likely token."""
    top_ids: tuple[int, ...]
    """Most likely first."""
    top_logprobs: tuple[float, ...]
    candidates: tuple[Candidate, ...] = ()
    """Where they were asked for: the token's rivals and itself."""


@dataclass(kw_only=True, eq=False, slots=True)
class Request:
    """A prompt, how to continue it, and what has been drawn so far.

    A request is caught up when `num_computed_tokens` equals `num_tokens`: then the next token can
    be drawn. Prompt, reply and what preemption undid are all tokens to catch up with.
    """

    request_id: str
    prompt_ids: tuple[int, ...]
    params: SamplingParams
    seed: int
    stop_ids: frozenset[int]
    """Every token id that ends this request: the model's own and the request's."""
    max_num_tokens: int
    """Prompt and reply may reach this length."""
    adapter: "AdapterRevision | None" = None
    """The revision that the request began with; None for the base."""
    namespace: str = ""
    """Adapter and revision: blocks are shared only within one namespace."""
    constraint: TokenConstraint | None = None
    """What may be drawn next, where the reply must have a form."""
    num_candidates: int = 0
    """Rivals of each drawn token that its scores tell of."""

    token_ids: list[int] = field(default_factory=list)
    """Prompt and reply."""
    num_computed_tokens: int = 0
    """Tokens whose keys and values are in the pool."""
    num_cached_tokens: int = 0
    """Tokens of the prompt that were found in the pool when the request first started."""
    num_drafted_tokens: int = 0
    """Guesses that were computed."""
    num_accepted_tokens: int = 0
    """Guesses that were drawn then."""
    num_preemptions: int = 0
    block_table: list[int] = field(default_factory=list)
    block_keys: list[BlockKey] = field(default_factory=list)
    """The prefix keys of the full blocks, in order; computed once and kept over preemptions."""
    status: RequestStatus = RequestStatus.WAITING
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprobs] = field(default_factory=list)
    """For the prompt's tokens from the second on."""
    error: str | None = None
    token_counts: TokenCounts = field(default_factory=TokenCounts)
    """Which tokens the penalties apply to; kept up by the sampler."""
    drafter: Drafter = field(default_factory=Drafter)
    """Guesses what comes next; asked by the scheduler."""

    def __post_init__(self) -> None:
        self.token_ids = list(self.prompt_ids)

    @property
    def num_tokens(self) -> int:
        """Tokens known so far."""
        return len(self.token_ids)

    @property
    def num_prompt_tokens(self) -> int:
        return len(self.prompt_ids)

    @property
    def num_output_tokens(self) -> int:
        return len(self.token_ids) - len(self.prompt_ids)

    @property
    def output_ids(self) -> list[int]:
        """The reply so far, the token that ended it included."""
        return self.token_ids[len(self.prompt_ids) :]

    @property
    def barred_ids(self) -> frozenset[int]:
        """Tokens not to be drawn now: those that would end a reply that is still too short."""
        is_too_short = self.num_output_tokens < self.params.min_tokens
        return self.stop_ids if is_too_short else frozenset()

    @property
    def reached_end(self) -> FinishReason | None:
        """Why nothing can follow the last drawn token; None if something can."""
        is_complete = self.constraint is not None and self.constraint.is_finished
        if self.token_ids[-1] in self.stop_ids or is_complete:
            return "stop"
        return "length" if self.num_tokens >= self.max_num_tokens else None

    def append(self, token_id: int, score: TokenLogprobs | None = None) -> None:
        """Adds a drawn token to the reply."""
        self.token_ids.append(token_id)
        if score is not None:
            self.logprobs.append(score)
        if self.constraint is not None:
            self.constraint.accept(token_id)

    def drop(self, count: int) -> None:
        """Takes back the last tokens of a reply that ended before them."""
        if count:
            del self.token_ids[-count:]
            del self.logprobs[self.num_output_tokens :]

    @property
    def wants_prompt_logprobs(self) -> bool:
        """Whether prompt positions still have to be scored."""
        return (
            self.params.prompt_logprobs is not None
            and len(self.prompt_logprobs) < self.num_prompt_tokens - 1
        )

    @property
    def is_finished(self) -> bool:
        return self.status is RequestStatus.FINISHED
