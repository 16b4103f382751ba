"""What one step computes: a value that the scheduler makes and everything after it reads."""

from dataclasses import dataclass

from martlet.engine.request import Request


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """Consecutive tokens of one request that are computed in one step."""

    request: Request
    start: int
    """Position of the first token; everything before it is in the pool."""
    num_tokens: int
    block_ids: tuple[int, ...]
    """The request's blocks up to and including these tokens."""
    samples: bool
    """Whether the chunk reaches the last known token, so that the next one is drawn."""
    scores_prompt: bool
    """Whether the log-probabilities of the prompt's tokens are wanted."""
    draft: tuple[int, ...] = ()
    """The last of the tokens, where they are guesses of what follows the last known one."""

    @property
    def end(self) -> int:
        """Position after the last token."""
        return self.start + self.num_tokens

    @property
    def known_end(self) -> int:
        """Position after the last token that is no guess."""
        return self.end - len(self.draft)

    @property
    def token_ids(self) -> list[int]:
        return [*self.request.token_ids[self.start : self.known_end], *self.draft]


@dataclass(frozen=True, kw_only=True, slots=True)
class StepPlan:
    """The chunks of one step, and what the plan cost those who are not in it."""

    chunks: tuple[Chunk, ...]
    num_admitted: int = 0
    """Requests that began, or began again; the last ones to run."""
    num_preempted: int = 0
    num_cached_tokens: int = 0
    """Tokens of newly admitted requests that were found in the pool."""

    @property
    def num_tokens(self) -> int:
        return sum(chunk.num_tokens for chunk in self.chunks)

    @property
    def num_drafted(self) -> int:
        return sum(len(chunk.draft) for chunk in self.chunks)

    def __bool__(self) -> bool:
        return bool(self.chunks)
