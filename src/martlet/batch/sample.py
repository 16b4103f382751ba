"""One finished sample as the journal keeps it: all that a result needs."""

from dataclasses import dataclass

from martlet.backends.base import SampleOutput
from martlet.engine.request import FinishReason


@dataclass(frozen=True, kw_only=True)
class StoredSample:
    """Sample k of a question."""

    index: int
    """k, from 0."""
    text: str
    num_tokens: int
    finish_reason: FinishReason
    cumulative_logprob: float | None
    num_prompt_tokens: int
    num_cached_tokens: int
    """Depends on what was computed beside it, so no result may show it."""
    error: str | None = None
    """Why it failed; it is then drawn again by the next run."""
    tokens: str | None = None
    """The drawn tokens and their scores as JSON, for a result that shows them."""

    @classmethod
    def from_output(cls, index: int, output: SampleOutput) -> "StoredSample":
        """What to keep of a backend's output. Anything but a whole reply counts as failed."""
        is_whole = output.finish_reason in ("stop", "length")
        return cls(
            index=index,
            text=_writable(output.text),
            num_tokens=output.num_tokens,
            finish_reason=output.finish_reason,
            cumulative_logprob=output.cumulative_logprob,
            num_prompt_tokens=output.num_prompt_tokens,
            num_cached_tokens=output.num_cached_tokens,
            error=None if is_whole else output.error or "the backend gave the sample up",
        )

    @classmethod
    def failed(cls, index: int, error: str) -> "StoredSample":
        """A sample that the backend refused to draw."""
        return cls(
            index=index,
            text="",
            num_tokens=0,
            finish_reason="error",
            cumulative_logprob=None,
            num_prompt_tokens=0,
            num_cached_tokens=0,
            error=error,
        )


def _writable(text: str) -> str:
    # A reply that a server cut within an emoji can end in half of a surrogate pair.
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
