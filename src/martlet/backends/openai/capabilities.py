"""What each kind of server can do beyond OpenAI's own API, and what it is refused before a run."""

from dataclasses import dataclass
from typing import Literal

from martlet.engine.params import SamplingParams
from martlet.errors import ParameterError
from martlet.text.structured import StructuredOutput

ServerKind = Literal["martlet", "vllm", "llama.cpp", "openai", "unknown"]

_NEUTRAL = SamplingParams()
_EXTRAS = (
    "top_k",
    "min_p",
    "repetition_penalty",
    "min_tokens",
    "stop_token_ids",
    "ignore_eos",
    "skip_special_tokens",
)
"""Parameters that OpenAI's API does not have."""


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What a kind of server does."""

    extras: frozenset[str] = frozenset()
    """Parameters beyond OpenAI's API that it honours under our names."""
    max_stops: int = 4
    """Strings in `stop`."""
    max_logprobs: int = 0
    """Alternatives at each position that it tells by token id; 0 tells the drawn tokens' own
    log-probabilities alone."""
    takes_token_ids: bool = False
    """Whether a completion's prompt may be token ids."""
    tells_token_ids: bool = False
    """Whether a reply can tell its token ids."""
    tokenizes: bool = False
    """Whether it has `/tokenize`, in vLLM's shape."""
    scores_prompts: bool = False
    """Whether it tells the log-probabilities of a prompt's tokens by their ids."""
    structured: frozenset[str] = frozenset({"json_object", "json_schema"})
    """Forms of replies."""
    is_structured_in_chats_only: bool = True
    """Whether completions do not take them."""
    has_structured_outputs: bool = False
    """Whether it knows the field `structured_outputs`."""
    max_tokens_name: str = "max_tokens"
    """What chats call the length of a reply."""
    keeps_seeds: bool = False
    """Whether the same seed draws the same reply, whatever is computed beside it."""
    seed_range: tuple[int, int] = (-(2**63), 2**63 - 1)

    def fold_seed(self, seed: int) -> int:
        """A 64-bit seed in the server's range."""
        lowest, highest = self.seed_range
        return (seed - lowest) % (highest - lowest + 1) + lowest

    def check(self, params: SamplingParams, *, server: str) -> None:
        """Refuses what the server would ignore or misread.

        Args:
            server: Names it, for the message.

        Raises:
            ParameterError: For the first such parameter.
        """
        for name in _EXTRAS:
            value = getattr(params, name)
            if name not in self.extras and value != getattr(_NEUTRAL, name):
                raise _refused(server, name, value, "leave it out, or run the model here")
        if len(params.stop) > self.max_stops:
            raise _refused(server, "stop", params.stop, f"give at most {self.max_stops}")
        if (params.logprobs or 0) > self.max_logprobs:
            raise _refused(server, "logprobs", params.logprobs, f"at most {self.max_logprobs} go")
        if params.prompt_logprobs is not None and not self.scores_prompts:
            raise _refused(server, "prompt_logprobs", params.prompt_logprobs, "leave it out")
        if params.structured is not None:
            kind = kind_of(params.structured)
            if kind not in self.structured:
                known = ", ".join(sorted(self.structured)) or "none"
                raise _refused(server, "structured", kind, f"it knows {known}")


def kind_of(structured: StructuredOutput) -> str:
    """Which form a reply must have: `json_schema`, `regex`, …"""
    names = ("json_object", "json_schema", "regex", "choice", "grammar")
    return next(name for name in names if getattr(structured, name) not in (None, False, ()))


def _refused(server: str, name: str, value: object, advice: str) -> ParameterError:
    return ParameterError(f"{server} cannot honour {name}={value!r}; {advice}", param=name)


MARTLET = Capabilities(
    extras=frozenset(_EXTRAS),
    max_stops=16,
    takes_token_ids=True,
    tokenizes=True,
    structured=frozenset({"json_object", "json_schema", "regex", "choice"}),
    has_structured_outputs=True,
    keeps_seeds=True,
    seed_range=(0, 2**64 - 1),
)
VLLM = Capabilities(
    extras=frozenset(_EXTRAS),
    max_stops=1024,
    max_logprobs=20,
    takes_token_ids=True,
    tells_token_ids=True,
    tokenizes=True,
    scores_prompts=True,
    structured=frozenset({"json_object", "json_schema", "regex", "choice"}),
    is_structured_in_chats_only=False,
    has_structured_outputs=True,
)
LLAMA_CPP = Capabilities(
    extras=frozenset({"top_k", "min_p", "ignore_eos"}),
    takes_token_ids=True,
    seed_range=(0, 2**32 - 1),
)
OPENAI = Capabilities(max_tokens_name="max_completion_tokens")
UNKNOWN = Capabilities()

BY_KIND: dict[ServerKind, Capabilities] = {
    "martlet": MARTLET,
    "vllm": VLLM,
    "llama.cpp": LLAMA_CPP,
    "openai": OPENAI,
    "unknown": UNKNOWN,
}
