"""How one request is sampled: the parameters, their ranges, and nothing about any model."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TypeVar

from martlet.errors import ParameterError
from martlet.text.structured import StructuredOutput

MAX_LOGPROBS = 20
"""The largest number of alternatives a request may ask for at each position (OpenAI's limit)."""
LEAST_TEMPERATURE = 1e-3
"""Below it, logits divided by the temperature leave the range of fp32."""


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """What to draw and when to stop. The names and defaults are vLLM's where vLLM has them.

    Raises:
        ParameterError: On construction, if a value is of the wrong type or outside its range.
    """

    n: int = 1
    """Number of samples to draw for a prompt."""
    temperature: float = 1.0
    """Divides the logits before sampling, 0.001 to 1000; 0 takes the likeliest token (greedy)."""
    top_p: float = 1.0
    """Keeps the smallest set of most likely tokens whose probabilities add up to this."""
    top_k: int = 0
    """Keeps this many most likely tokens; 0 (or -1, as in vLLM) keeps all."""
    min_p: float = 0.0
    """Drops tokens less likely than this fraction of the most likely one."""
    repetition_penalty: float = 1.0
    """Above 1, makes every token seen in the prompt or the reply less likely."""
    presence_penalty: float = 0.0
    """Subtracted once from the logit of every token already in the reply."""
    frequency_penalty: float = 0.0
    """Subtracted from a token's logit for each time that it is in the reply."""
    logit_bias: Mapping[int, float] | None = None
    """Added to the logits of the named token ids."""
    min_tokens: int = 0
    """No stop token, and no stop string, ends a reply shorter than this."""
    max_tokens: int | None = None
    """The longest reply, in tokens; None means the room that is left in the model's context."""
    stop: tuple[str, ...] = ()
    """Strings that end the reply; they are not part of it. One string or several."""
    stop_token_ids: tuple[int, ...] = ()
    """Token ids that end the reply, besides the model's own."""
    ignore_eos: bool = False
    """Goes on after the model's own end tokens (for benchmarks)."""
    seed: int | None = None
    """Fixes the draws; None derives a seed from the run and the row."""
    logprobs: int | None = None
    """Reports the log-probability of each drawn token and of this many alternatives."""
    prompt_logprobs: int | None = None
    """The same for the tokens of the prompt."""
    skip_special_tokens: bool = True
    """Leaves special tokens out of the text."""
    structured: StructuredOutput | None = None
    """The form that the reply must have; a mapping, as JSON gives it, will do."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop", _as_tuple(self.stop, str))
        object.__setattr__(self, "stop_token_ids", _as_tuple(self.stop_token_ids, int))
        if isinstance(self.structured, Mapping):
            structured = StructuredOutput.from_mapping(self.structured)
            object.__setattr__(self, "structured", structured)
        if self.top_k == -1:
            object.__setattr__(self, "top_k", 0)
        for name, lowest, highest in _INTEGER_RANGES:
            _check_number(name, getattr(self, name), lowest, highest, is_integer=True)
        for name, low, high in _FLOAT_RANGES:
            _check_number(name, getattr(self, name), low, high, is_integer=False)
        for name in ("ignore_eos", "skip_special_tokens"):
            if not isinstance(getattr(self, name), bool):
                raise ParameterError(f"{name} must be true or false, not {getattr(self, name)!r}")
        if not isinstance(self.structured, StructuredOutput | None):
            raise ParameterError(f"structured must be a mapping, not {self.structured!r}")
        self._check_top_p_and_penalty()
        self._check_stops_and_bias()

    def _check_top_p_and_penalty(self) -> None:
        if 0 < self.temperature < LEAST_TEMPERATURE:
            raise ParameterError(
                f"temperature must be 0 or at least {LEAST_TEMPERATURE}, not {self.temperature!r}"
            )
        if self.top_p == 0:
            raise ParameterError(
                "top_p must be above 0 and at most 1, not 0; use temperature=0 for greedy"
            )
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise ParameterError(
                f"min_tokens={self.min_tokens} must not exceed max_tokens={self.max_tokens}"
            )

    def _check_stops_and_bias(self) -> None:
        if any(text == "" for text in self.stop):
            raise ParameterError("stop must not hold an empty string")
        if any(token_id < 0 for token_id in self.stop_token_ids):
            raise ParameterError("stop_token_ids must not be negative")
        if not isinstance(self.logit_bias, Mapping | None):
            raise ParameterError(
                f"logit_bias must map token ids to numbers, not {self.logit_bias!r}"
            )
        for token_id, bias in (self.logit_bias or {}).items():
            _check_number("a token id of logit_bias", token_id, 0, _MAX_COUNT, is_integer=True)
            _check_number(f"logit_bias[{token_id}]", bias, -100, 100, is_integer=False)

    @property
    def is_greedy(self) -> bool:
        """Whether the most likely token is taken, with no draw."""
        return self.temperature == 0

    @classmethod
    def from_mapping(cls, given: Mapping[str, object]) -> "SamplingParams":
        """Builds parameters from a mapping, refusing unknown names.

        Raises:
            ParameterError: If a name is unknown (the message lists the known ones) or a value bad.
        """
        known = [field.name for field in fields(cls)]
        for name in given:
            if name not in known:
                raise ParameterError(f"unknown parameter {name!r}; known: {', '.join(known)}")
        return cls(**given)  # type: ignore[arg-type]  # every value is checked on construction


_MAX_COUNT = 2**31 - 1
_INTEGER_RANGES: tuple[tuple[str, int, int], ...] = (
    ("n", 1, _MAX_COUNT),
    ("top_k", 0, _MAX_COUNT),
    ("min_tokens", 0, _MAX_COUNT),
    ("max_tokens", 1, _MAX_COUNT),
    ("seed", -(2**63), 2**64 - 1),
    ("logprobs", 0, MAX_LOGPROBS),
    ("prompt_logprobs", 0, MAX_LOGPROBS),
)
_FLOAT_RANGES: tuple[tuple[str, float, float], ...] = (
    ("temperature", 0, 1000),
    ("top_p", 0, 1),
    ("min_p", 0, 1),
    ("repetition_penalty", 0.01, 100),
    ("presence_penalty", -2, 2),
    ("frequency_penalty", -2, 2),
)
_Item = TypeVar("_Item")
_OPTIONAL = ("max_tokens", "seed", "logprobs", "prompt_logprobs")


def _as_tuple(value: object, kind: type[_Item]) -> tuple[_Item, ...]:
    if value is None:
        return ()
    if isinstance(value, kind):
        return (value,)
    if isinstance(value, (list, tuple, set, frozenset)) and all(isinstance(v, kind) for v in value):
        return tuple(value)
    raise ParameterError(f"expected {kind.__name__} or a list of {kind.__name__}, not {value!r}")


def _check_number(name: str, value: object, low: float, high: float, *, is_integer: bool) -> None:
    if value is None and name in _OPTIONAL:
        return
    is_kind = isinstance(value, int if is_integer else (int, float)) and not isinstance(value, bool)
    # NaN compares false with everything, so it is refused with what is out of range.
    if not is_kind or not low <= value <= high:  # type: ignore[operator]  # a number by now
        kind = "" if is_kind else "an integer " if is_integer else "a number "
        raise ParameterError(f"{name} must be {kind}from {low} to {high}, not {value!r}")
