"""What a step did and what an engine has done: plain numbers for progress, metrics and tests."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class StepStats:
    """One step."""

    num_tokens: int
    """Tokens that went through the model."""
    num_drawn: int
    """Tokens that were drawn."""
    num_drafted: int
    """Guesses that were computed."""
    num_accepted: int
    """Guesses that were drawn then: steps that were saved, request by request."""
    num_running: int
    """Requests that hold blocks, after the step."""
    num_waiting: int
    num_preempted: int
    num_free_blocks: int
    seconds: float


@dataclass(kw_only=True, slots=True)
class EngineStats:
    """Everything since the engine was built."""

    num_steps: int = 0
    num_tokens: int = 0
    num_drawn: int = 0
    num_drafted: int = 0
    num_accepted: int = 0
    num_preempted: int = 0
    num_failed_steps: int = 0
    num_cached_tokens: int = 0
    """Tokens that were found in the pool instead of being computed, when a request was admitted."""
    seconds: float = 0.0

    def add(self, step: StepStats) -> None:
        self.num_steps += 1
        self.num_tokens += step.num_tokens
        self.num_drawn += step.num_drawn
        self.num_drafted += step.num_drafted
        self.num_accepted += step.num_accepted
        self.num_preempted += step.num_preempted
        self.seconds += step.seconds
