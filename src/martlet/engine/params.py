"""How one request is sampled: the parameters, their ranges, and nothing about any model."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import isfinite
from typing import TypeVar

from martlet.errors import ParameterError

MAX_LOGPROBS = 20
"""The largest number of alternatives a request may ask for at each position (OpenAI's limit)."""


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """What to draw and when to stop. The names and defaults are vLLM's where vLLM has them.

    Raises:
        ParameterError: On construction, if a value is of the wrong type or outside its range.
    """

    n: int = 1
    """Number of samples to draw for a prompt."""
    temperature: float = 1.0
    """Divides the logits before sampling; 0 takes the most likely token (greedy)."""
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

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop", _as_tuple(self.stop, str))
        object.__setattr__(self, "stop_token_ids", _as_tuple(self.stop_token_ids, int))
        if self.top_k == -1:
            object.__setattr__(self, "top_k", 0)
        for name, lowest, highest in _INTEGER_RANGES:
            _check_number(name, getattr(self, name), lowest, highest, is_integer=True)
        for name, low, high in _FLOAT_RANGES:
            _check_number(name, getattr(self, name), low, high, is_integer=False)
        for name in ("ignore_eos", "skip_special_tokens"):
            if not isinstance(getattr(self, name), bool):
                raise ParameterError(f"{name} must be true or false, not {getattr(self, name)!r}")
        self._check_top_p_and_penalty()
        self._check_stops_and_bias()

    def _check_top_p_and_penalty(self) -> None:
        if self.top_p == 0:
            raise ParameterError(
                "top_p must be above 0 and at most 1, not 0; use temperature=0 for greedy"
            )
        if self.repetition_penalty == 0:
            raise ParameterError("repetition_penalty must be above 0, not 0; 1 switches it off")
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise ParameterError(
                f"min_tokens={self.min_tokens} must not exceed max_tokens={self.max_tokens}"
            )

    def _check_stops_and_bias(self) -> None:
        if any(text == "" for text in self.stop):
            raise ParameterError("stop must not hold an empty string")
        if any(token_id < 0 for token_id in self.stop_token_ids):
            raise ParameterError("stop_token_ids must not be negative")
        for token_id, bias in (self.logit_bias or {}).items():
            _check_number("a token id of logit_bias", token_id, 0, None, is_integer=True)
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


_INTEGER_RANGES: tuple[tuple[str, int, int | None], ...] = (
    ("n", 1, None),
    ("top_k", 0, None),
    ("min_tokens", 0, None),
    ("max_tokens", 1, None),
    ("seed", -(2**63), 2**64 - 1),
    ("logprobs", 0, MAX_LOGPROBS),
    ("prompt_logprobs", 0, MAX_LOGPROBS),
)
_FLOAT_RANGES: tuple[tuple[str, float, float | None], ...] = (
    ("temperature", 0, None),
    ("top_p", 0, 1),
    ("min_p", 0, 1),
    ("repetition_penalty", 0, None),
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


def _check_number(
    name: str, value: object, low: float, high: float | None, *, is_integer: bool
) -> None:
    if value is None and name in _OPTIONAL:
        return
    kinds = (int,) if is_integer else (int, float)
    allowed = f"at least {low:g}" if high is None else f"from {low:g} to {high:g}"
    kind_name = "an integer" if is_integer else "a number"
    if isinstance(value, bool) or not isinstance(value, kinds) or not isfinite(value):
        raise ParameterError(f"{name} must be {kind_name} {allowed}, not {value!r}")
    if value < low or (high is not None and value > high):
        raise ParameterError(f"{name} must be {allowed}, not {value!r}")
