"""What a batch will take: looked at row by row, then probed, before it is run."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from martlet.backends.base import Backend
from martlet.backends.native import NativeBackend
from martlet.backends.opened import OpenedModel
from martlet.batch.job import Job
from martlet.batch.journal import Journal, journal_path
from martlet.batch.plan import Plan
from martlet.batch.refusal import refuse_unusable
from martlet.errors import MartletError
from martlet.forecast.memory import Memory, memory_of
from martlet.forecast.pace import load_of, seconds_by_ends, seconds_by_steps
from martlet.forecast.probe import SECONDS, Look, Probe, probe
from martlet.forecast.work import Amount, Work, measure_work


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The rows of a file, against the model's limits."""

    rows: int
    questions: int
    unusable: int
    """Questions that cannot be asked, those that are too long among them."""
    too_long: int
    """Questions that leave no room for a reply, or whose prompt is cut to make some."""
    longest_prompt: int
    """Tokens; 0 if only a server can count them."""
    max_context_tokens: int


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """What a probe tells about the samples."""

    drawn: Amount
    """In the journal, the probe's samples among them."""
    left: Amount
    """Estimated."""
    seconds_left: float | None
    """To draw that; None if no sample ended in the probe."""
    seconds_probed: float
    num_ended: int
    """Samples of the probe, on which the rest is based."""
    memory: Memory | None
    """None if a server holds the model."""


@dataclass(frozen=True, kw_only=True)
class BatchForecast:
    """What a batch will take."""

    rows: Rows
    drawing: Drawing | None
    """None if the run would be refused: then nothing is drawn."""
    refusal: MartletError | None
    """Why it would."""


def forecast_batch(
    job: Job,
    backend: Backend,
    *,
    opened: OpenedModel | None,
    seconds: float = SECONDS,
    show: Callable[[Look], None] = lambda _: None,
    asked_to_stop: Callable[[], bool] = lambda: False,
) -> BatchForecast:
    """Measures a batch and draws its first samples; writes nothing but its journal.

    Args:
        opened: The model as it was before it was loaded, if it lies in this process.
        seconds: The longest probe.
        show: Called after each step of the probe.
        asked_to_stop: Asked between two of them.

    Raises:
        Interrupted: If `asked_to_stop` said so; what had ended is in the journal.
        MartletError: As `Job.run` does, but for rows that cannot be asked and a result that cannot
            be written: these are the forecast's `refusal`.
    """
    lenient = replace(job, options=replace(job.options, on_bad_row="skip"))
    plan = lenient.plan(backend)
    refusal, drawing = _refusal(job, plan), None
    if refusal is None:
        with Journal.open(journal_path(job.options.out)) as journal:
            seen = probe(
                job.task,
                plan.asked,
                backend=backend,
                journal=journal,
                seconds=seconds,
                show=show,
                asked_to_stop=asked_to_stop,
            )
            work = measure_work(
                job.task,
                plan.asked,
                journal=journal,
                unended=seen.unended,
                max_context_tokens=backend.limits.max_context_tokens,
            )
        drawing = _drawing(backend, opened, seen, work)
    return BatchForecast(rows=_rows(job, plan, backend), drawing=drawing, refusal=refusal)


def _drawing(backend: Backend, opened: OpenedModel | None, seen: Probe, work: Work) -> Drawing:
    load = None
    if isinstance(backend, NativeBackend):
        load = load_of(work, backend.engine.config, share_computed=seen.share_computed)
    seconds_left = seconds_by_ends(work, seen) if load is None else seconds_by_steps(load, seen)
    memory = None
    if opened is not None:
        memory = memory_of(backend, opened, work=work, load=load, probe=seen)
    return Drawing(
        drawn=work.drawn,
        left=work.left,
        seconds_left=seconds_left if work.open_questions else 0.0,
        seconds_probed=seen.seconds,
        num_ended=seen.ends[-1][1] if seen.ends else 0,
        memory=memory,
    )


def _refusal(job: Job, plan: Plan) -> MartletError | None:
    try:
        if job.options.on_bad_row == "error":
            refuse_unusable(job.options.data, plan.unusable)
        job.check(plan)
    except MartletError as error:
        return error
    return None


def _rows(job: Job, plan: Plan, backend: Backend) -> Rows:
    num_cut = sum(planned.num_dropped_tokens > 0 for planned in plan.asked)
    return Rows(
        rows=len(job.row_file.rows),
        questions=len(plan.items),
        unusable=len(plan.unusable),
        too_long=num_cut + sum(each.is_too_long for each in plan.unusable),
        longest_prompt=max((each.num_prompt_tokens for each in plan.asked), default=0),
        max_context_tokens=backend.limits.max_context_tokens,
    )
