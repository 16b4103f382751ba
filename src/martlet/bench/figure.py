"""What was measured, and what several rounds say together."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from martlet.bench.cost import Cost
from martlet.bench.limits import Limits


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One work by one contestant in one round."""

    num_tokens: int
    """Drawn."""
    num_replies: int
    seconds: float
    """From the moment that all requests wait to the last token."""
    first_token_p50_ms: float | None
    """Waiting included. None where the engine does not tell when tokens come, or there is none."""
    first_token_p99_ms: float | None
    between_tokens_p50_ms: float | None
    """From a token of a reply to its next."""
    between_tokens_p99_ms: float | None
    peak_bytes: int
    """Memory of the contestant's processes at their peak, weights and libraries included; 0 where
    the system does not tell."""
    ready_s: float
    """From the first line of the contestant's program, imports included, to a loaded model that has
    answered once."""
    limits: Limits
    """Of the machine, right before."""
    cost: Cost | None
    """What the work takes at the least; None where that is not known."""

    @property
    def tokens_per_second(self) -> float:
        """Drawn tokens over the whole time, prompts included."""
        return self.num_tokens / self.seconds

    @property
    def share_of_limit(self) -> float | None:
        """The part of what the machine gives that was used; None where it is not known."""
        return None if self.cost is None else self.cost.least_seconds(self.limits) / self.seconds


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A number over all rounds."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, figures: Sequence[Figure], read: Callable[[Figure], float]) -> "Spread":
        """The spread of what `read` takes from each of at least one figure."""
        values = [read(figure) for figure in figures]
        return cls(median=statistics.median(values), least=min(values), most=max(values))
