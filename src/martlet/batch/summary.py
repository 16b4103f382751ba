"""What a run has done: while it lasts, and at its end."""

from dataclasses import dataclass

from martlet.batch.plan import Plan
from martlet.batch.result import ResultFile
from martlet.batch.run import Tally


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run is."""

    num_rows: int
    num_rows_done: int
    """Rows that are in the partial result."""
    num_questions: int
    num_questions_done: int
    num_samples_drawn: int
    num_generated_tokens: int

    @classmethod
    def of(cls, plan: Plan, result: ResultFile, tally: Tally) -> "Progress":
        """Reads it off a run that goes on."""
        return cls(
            num_rows=result.num_rows,
            num_rows_done=result.num_rows_written,
            num_questions=len(plan.items),
            num_questions_done=tally.num_questions_done + len(plan.unusable),
            num_samples_drawn=tally.num_samples_drawn,
            num_generated_tokens=tally.num_generated_tokens,
        )


@dataclass(frozen=True, kw_only=True)
class JobSummary:
    """What a run did."""

    rows: int
    failed: int
    """Rows with an `error`, their own or that of one of their questions."""
    questions: int
    failed_questions: int
    samples_drawn: int
    samples_saved: int
    """Not needed, because their questions were decided before."""
    samples_reused: int
    """Drawn by an earlier run."""
    prompt_tokens: int
    """Of the questions that were drawn in this run, each prompt counted once."""
    generated_tokens: int
    """Of the samples that were drawn in this run."""
    drafted_tokens: int
    """Guesses at replies that were computed in this run."""
    accepted_tokens: int
    """Those of them that were drawn: generated tokens that took no step of their own."""
    cut_by_length: int
    """Samples of the result that ended at the limit of tokens."""
    truncated_prompts: int
    """Prompts that were cut to fit the model's context."""
    seconds: float
    """Of drawing; reading, planning and loading a model are not in it."""
    tokens_per_second: float
    first_errors: tuple[str, ...]
    """A few of the rows' errors, each with its line."""

    @classmethod
    def of(cls, plan: Plan, result: ResultFile, tally: Tally, *, seconds: float) -> "JobSummary":
        """Reads it off a run that took `seconds` to its end."""
        return cls(
            rows=result.num_rows,
            failed=result.num_rows_failed,
            questions=len(plan.items),
            failed_questions=tally.num_questions_failed + len(plan.unusable),
            samples_drawn=tally.num_samples_drawn,
            samples_saved=tally.num_samples_saved,
            samples_reused=tally.num_samples_reused,
            prompt_tokens=tally.num_prompt_tokens,
            generated_tokens=tally.num_generated_tokens,
            drafted_tokens=tally.num_drafted_tokens,
            accepted_tokens=tally.num_accepted_tokens,
            cut_by_length=tally.num_cut_by_length,
            truncated_prompts=sum(planned.num_dropped_tokens > 0 for planned in plan.asked),
            seconds=seconds,
            tokens_per_second=tally.num_generated_tokens / seconds if seconds > 0 else 0.0,
            first_errors=tuple(result.first_errors),
        )
