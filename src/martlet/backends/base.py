"""The contract between what asks questions (batch, vote, serve) and what answers them.

A backend turns prompts into token ids and requests into samples. Callers keep it fed with
`submit`, call `poll` until nothing is unfinished, and may `abort` at any time. One request draws
one sample: `n` answers to a row are n requests with the same prompt, whose common work the
engine shares by itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from martlet.engine.params import SamplingParams
from martlet.engine.request import Candidate, FinishReason
from martlet.text.messages import Message
from martlet.text.tool_calls.functions import Tool

if TYPE_CHECKING:
    from martlet.text.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What to answer: exactly one of the three is given."""

    messages: Sequence[Message] | None = None
    """A conversation; the chat template is applied."""
    tools: Sequence[Tool] = ()
    """With `messages`: functions that the model may call, as OpenAI declares them."""
    template_variables: Mapping[str, object] | None = None
    """With `messages`: what else the chat template looks at, such as `enable_thinking`."""
    text: str | None = None
    """Raw text; no template is applied."""
    token_ids: Sequence[int] | None = None
    """Token ids, taken as they are."""


@dataclass(frozen=True, kw_only=True)
class RenderedPrompt:
    """A prompt as the model sees it."""

    text: str
    """The text after the chat template; empty if token ids were given."""
    token_ids: tuple[int, ...]
    """Empty if only a server could tell them; the text then names the prompt."""
    bos_id: int | None = None
    """Begins a text, and stays in front when a prompt is cut; None for models without it."""


@dataclass(frozen=True, kw_only=True)
class ModelIdentity:
    """What answers, precisely enough to tell whether two answers came from the same model."""

    model: str
    """The folder or id, as the user named it."""
    model_hash: str
    """Hash of the configuration and of the weights; empty if a server answers, which tells none."""
    template_hash: str
    """Hash of the chat template; empty if the model has none, or a server keeps it."""
    tokenizer_hash: str
    """Empty if a server keeps the tokenizer."""
    backend: str
    """`native`, `transformers`, `openai`, `vllm`."""
    dtype: str
    """Empty if a server does not tell it."""
    adapter: str | None = None
    """The adapter that answers a whole run, by name; None for the base."""
    adapter_hash: str | None = None
    """Its revision."""
    adapter_proof: str | None = None
    """What was seen when it was loaded: `tensors 224/224, probe KL 0.31`."""


@dataclass(frozen=True, kw_only=True)
class SampleRequest:
    """One sample to draw."""

    request_id: str
    """Unique among the unfinished requests of a backend."""
    prompt_ids: tuple[int, ...]
    """What `render` gave for the prompt, perhaps shortened."""
    params: SamplingParams
    """`n` and `seed` are not looked at here: a request is one sample and carries its own seed."""
    seed: int
    """The draw of a token depends on this and on the token's position alone."""
    adapter: str | None = None
    """Name of a loaded adapter; None for the base. The request keeps the revision that it began
    with."""
    streams: bool = False
    """Whether `take_deltas` reports the reply piece by piece."""
    num_candidates: int = 0
    """With `params.logprobs`: rivals of each drawn token to be followed through the steps before
    the draw. The native backend alone can."""
    prompt: Prompt | None = None
    """What was rendered, unless it was shortened since: a server may want the words themselves."""


@dataclass(frozen=True, kw_only=True)
class TokenLogprob:
    """The log-probability of one token at one position."""

    token_id: int
    logprob: float
    rank: int
    """1 for the most likely token. A server that does not tell a rank lets it be at least this."""
    candidates: tuple[Candidate, ...] = ()
    """Of a drawn token, where they were asked for: what could have been drawn in its place."""


@dataclass(frozen=True, kw_only=True)
class SampleDelta:
    """The next piece of a reply: text that will not be taken back, and its tokens.

    All pieces of a reply joined are its `SampleOutput`. Tokens may come without text (half a
    character), and text without tokens (what was held back at the end).
    """

    request_id: str
    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[Mapping[int, TokenLogprob], ...] | None = None
    """For each of the tokens, as in `SampleOutput`; None unless asked for."""


@dataclass(frozen=True, kw_only=True)
class SampleOutput:
    """One finished sample."""

    request_id: str
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    stop_reason: int | str | None = None
    """The token id or the string that ended the sample, where one did."""
    cumulative_logprob: float | None = None
    """Sum of the log-probabilities of the drawn tokens, before penalties and temperature; None
    unless the parameters ask for `logprobs` (0 suffices)."""
    logprobs: tuple[Mapping[int, TokenLogprob], ...] | None = None
    """For each drawn token, the token itself and the alternatives asked for."""
    prompt_logprobs: tuple[Mapping[int, TokenLogprob] | None, ...] | None = None
    """For each token of the prompt; None for the first, which nothing precedes."""
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    """Tokens of the prompt that were not computed again because another request had them."""
    num_drafted_tokens: int = 0
    """Guesses at the reply that were computed."""
    num_accepted_tokens: int = 0
    """Those of them that were drawn: tokens of the reply that took no step of their own."""
    error: str | None = None
    """Why the sample failed, if `finish_reason` is `error`."""
    num_untold_tokens: int = 0
    """Tokens of the reply that a server counted without telling their ids."""

    @property
    def num_tokens(self) -> int:
        """Tokens of the reply."""
        return len(self.token_ids) + self.num_untold_tokens


@dataclass(frozen=True, kw_only=True)
class BackendLimits:
    """What a prompt and a reply may measure."""

    max_context_tokens: int
    """Prompt and reply together."""
    max_num_requests: int
    """Requests that the backend computes at once; a few times as many, submitted, keep it fed."""


@dataclass(frozen=True, kw_only=True)
class DefaultParams:
    """Sampling parameters that the model's own folder recommends, by name."""

    values: Mapping[str, object] = field(default_factory=dict)
    source: str = "generation_config.json"


class Backend(Protocol):
    """One engine behind the contract. Not thread-safe: one thread calls it."""

    @property
    def identity(self) -> ModelIdentity: ...

    @property
    def limits(self) -> BackendLimits: ...

    @property
    def default_params(self) -> DefaultParams: ...

    @property
    def tokenizer(self) -> "Tokenizer":
        """The model's tokenizer. Its `token_bytes` may be called from any thread."""
        ...

    def render(self, prompt: Prompt) -> RenderedPrompt:
        """Applies the chat template where there are messages, and tokenizes.

        Raises:
            TemplateError: If the model has no chat template, or it refuses the messages.
            InputError: If the prompt is empty or a token id is not in the vocabulary.
        """
        ...

    def prepare(self, params: SamplingParams) -> None:
        """Compiles what `params.structured` asks for, so that `submit` finds it made.

        Optional, and may be called from any thread: it takes a second at first, then milliseconds.

        Raises:
            ParameterError: If the schema, expression or grammar is not valid or not supported.
            MissingExtraError: If structured output needs a package that is not installed.
        """
        ...

    def submit(self, request: SampleRequest) -> None:
        """Takes a request into the queue.

        Raises:
            PromptTooLongError: If the prompt leaves no room for one token of reply.
            ParameterError: If the backend cannot honour a parameter; the message names it.
            NotFoundError: If no adapter has the name that the request gives.
        """
        ...

    def abort(self, request_id: str) -> None:
        """Gives a request up and frees what it holds; `poll` will not return it.

        Unknown ids are ignored.
        """
        ...

    def poll(self) -> list[SampleOutput]:
        """Advances the work by one step and returns the samples that finished in it.

        A request that fails comes back with `finish_reason` "error"; the others go on.
        """
        ...

    def take_deltas(self) -> list[SampleDelta]:
        """What was drawn since the last call for requests that stream, in order.

        Called after `poll`, before its outputs are handed on: the last piece of a reply is here
        when its output is.
        """
        ...

    @property
    def num_unfinished(self) -> int:
        """Requests submitted, not finished and not aborted."""
        ...

    def close(self) -> None:
        """Frees memory and threads; the backend is not used afterwards."""
        ...
