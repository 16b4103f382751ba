"""What all ways to reply have in common: the head, the usage, the explanation."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

from martlet.backends.base import SampleDelta, SampleOutput, TokenLogprob
from martlet.serve.catalog import Catalog
from martlet.serve.generation import Ask
from martlet.text.conversation import ContextUse
from martlet.text.tokenizer import Tokenizer

Json = Mapping[str, object]
LEAST_LOGPROB = -9999.0
"""Stands for minus infinity, which JSON cannot say."""


class Wording(Protocol):
    """Puts samples into the words of one endpoint."""

    def body(self, outputs: Sequence[SampleOutput]) -> dict[str, object]:
        """The whole reply; `outputs` in the order of choices."""
        ...


class ReplyWriter(Wording, Protocol):
    """Words the chunks of a stream too."""

    def opening(self, index: int) -> dict[str, object]:
        """The first chunk of a choice in a stream."""
        ...

    def piece(self, index: int, delta: SampleDelta) -> dict[str, object] | None:
        """The chunk for the next piece of a choice; None if it says nothing."""
        ...

    def ending(self, index: int, output: SampleOutput) -> dict[str, object]:
        """The last chunk of a choice."""
        ...

    def usage(self, outputs: Sequence[SampleOutput]) -> dict[str, object]:
        """The chunk behind all choices that counts the tokens."""
        ...


@dataclass(frozen=True, kw_only=True)
class ReplyHead:
    """What every part of a reply repeats."""

    reply_id: str
    kind: str
    """The field `object`."""
    created: int
    model: str
    fingerprint: str

    @classmethod
    def of(cls, ask: Ask, catalog: Catalog, *, prefix: str, kind: str) -> "ReplyHead":
        """The head of the reply to an ask."""
        identity = catalog.identity
        return cls(
            reply_id=f"{prefix}-{ask.stamp.reply_id}",
            kind=kind,
            created=ask.stamp.created,
            model=ask.model,
            fingerprint=f"fp_{identity.model_hash[:12]}",
        )

    def with_choices(self, choices: list[dict[str, object]]) -> dict[str, object]:
        """An object of the reply, with its choices."""
        return {
            "id": self.reply_id,
            "object": self.kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
        }


def usage_of(outputs: Sequence[SampleOutput], *, n: int) -> dict[str, object]:
    """Counts the tokens of a reply; a prompt counts once, however many samples it has.

    Args:
        outputs: In the order of choices.
        n: Samples of each prompt.
    """
    first_of_each = outputs[::n]
    num_prompt = sum(output.num_prompt_tokens for output in first_of_each)
    num_drawn = sum(output.num_tokens for output in outputs)
    num_cached = sum(output.num_cached_tokens for output in first_of_each)
    return {
        "prompt_tokens": num_prompt,
        "completion_tokens": num_drawn,
        "total_tokens": num_prompt + num_drawn,
        "prompt_tokens_details": {"cached_tokens": num_cached},
    }


def note_of(ask: Ask) -> dict[str, object]:
    """What a reply says of itself unasked: what its context policy dropped, unless that is none."""
    if ask.context is None or ask.context.policy == "error":
        return {}
    return {"context": _context_of(ask.context)}


def explanation_of(ask: Ask, catalog: Catalog) -> dict[str, object]:
    """How a reply came about: what `X-Martlet-Explain: 1` asks for."""
    adapter = catalog.adapters.get(ask.adapter) if ask.adapter is not None else None
    return {
        "parameters": ask.effective.as_json(),
        "base_model": catalog.identity.model,
        "model_hash": catalog.identity.model_hash,
        "template_hash": catalog.identity.template_hash,
        "dtype": catalog.identity.dtype,
        "adapter": ask.adapter,
        "adapter_revision": None if adapter is None else adapter.revision,
        "num_prompt_tokens": [len(prompt.token_ids) for prompt in ask.prompts],
        "prompts": [prompt.text for prompt in ask.prompts],
        "context": None if ask.context is None else _context_of(ask.context),
    }


def _context_of(use: ContextUse) -> dict[str, object]:
    return {**asdict(use), "num_room_tokens": use.num_room_tokens}


def token_text(tokenizer: Tokenizer, token_id: int) -> str:
    """A token by itself; bytes that are no text of their own become U+FFFD."""
    return tokenizer.token_bytes(token_id).decode("utf-8", errors="replace")


def most_likely(scores: Mapping[int, TokenLogprob], num_top: int) -> list[TokenLogprob]:
    """The most likely tokens at a position, likeliest first."""
    top = [score for score in scores.values() if score.rank <= num_top]
    return sorted(top, key=lambda score: score.rank)[:num_top]


def finite(logprob: float) -> float:
    """A log-probability that JSON can say."""
    return max(logprob, LEAST_LOGPROB)
