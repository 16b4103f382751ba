"""What a training will take: a trial of some seconds that is thrown away, its end included.

The longest rows come first, so that memory is at its worst; then rows in random order, as they will
come. A step costs a base and so much a token. The trial then keeps a checkpoint, looks at
validation rows, writes what was trained and proves it, as the run will.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from time import monotonic
from typing import Any, TypeVar

import torch
from transformers import (
    IntervalStrategy,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from martlet.errors import Interrupted, ResourceError
from martlet.forecast.costs import Load, StepCosts
from martlet.forecast.peak import Peak
from martlet.forecast.probe import SECONDS
from martlet.train.base import TrainedModel, keep_start, load_for_training
from martlet.train.config import TrainConfig
from martlet.train.encoding import EncodedExample, EncodedPreference
from martlet.train.job import MEMORY_ADVICE, TrainJob, make_run, open_job, write_trained
from martlet.train.lessons import Lessons, Split
from martlet.train.progress import Reporter
from martlet.train.proof import NUM_ROWS, prove
from martlet.train.run_folder import RunFolder

_Row = EncodedExample | EncodedPreference
_AnyRow = TypeVar("_AnyRow", EncodedExample, EncodedPreference)


@dataclass(frozen=True, kw_only=True)
class TrainForecast:
    """What a training will take."""

    rows: int
    rows_too_long: int
    """Rows of which something is not learned."""
    longest_row: int
    """Tokens."""
    max_length: int
    steps: int
    steps_done: int
    """By an earlier process, which kept a checkpoint."""
    tokens_per_epoch: int
    tokens_left: float
    """To be computed in the steps that are left."""
    trained_values: int
    peak: int
    """Bytes of memory at the worst moment: of the machine, or of the accelerator, if there is one.
    """
    seconds_to_load: float
    seconds_of_steps: float
    seconds_of_checkpoints: float
    seconds_of_validation: float
    seconds_of_proof: float
    """To write the result and prove it."""
    steps_probed: int

    @property
    def seconds(self) -> float:
        """Of all that is left, at most: it may stop early."""
        return (
            self.seconds_to_load
            + self.seconds_of_steps
            + self.seconds_of_checkpoints
            + self.seconds_of_validation
            + self.seconds_of_proof
        )


@contextmanager
def trial_of(config: TrainConfig) -> Iterator[TrainJob]:
    """Opens a run in a folder beside its own, which is removed at the end.

    Raises:
        MartletError: As `open_job` does.
    """
    place = next(each for each in config.out.absolute().parents if each.is_dir())
    with tempfile.TemporaryDirectory(dir=place, prefix="martlet-plan-") as folder:
        yield open_job(config, trial=Path(folder))


def forecast_training(
    job: TrainJob,
    *,
    seconds: float = SECONDS,
    show: Callable[[float], None] = lambda _: None,
    asked_to_stop: Callable[[], bool] = lambda: False,
) -> TrainForecast:
    """Tries a run out.

    Args:
        job: Opened by `trial_of`.
        seconds: After which no other step is begun.
        show: Called after each step with the seconds that have passed.
        asked_to_stop: Asked between two steps.

    Raises:
        ResourceError: If memory does not suffice.
        Interrupted: If `asked_to_stop` said so.
    """
    try:
        return _forecast(job, _Clock(seconds, show, asked_to_stop))
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise ResourceError(f"memory does not suffice to train: {MEMORY_ADVICE}") from error


class _Clock(TrainerCallback):
    """Notes when steps end, and ends the trial when its time is over."""

    def __init__(
        self, seconds: float, show: Callable[[float], None], asked_to_stop: Callable[[], bool]
    ) -> None:
        self.num_tokens: Callable[[], int] = lambda: 0
        self.ends: list[tuple[float, int]] = []
        """When each step ended, and how many tokens had been computed by then."""
        self.seconds_of_checkpoint = 0.0
        self._seconds = seconds
        self._show = show
        self._asked_to_stop = asked_to_stop
        self._started = monotonic()
        self._aside = 0.0
        """Seconds that went into checkpoints, which are counted apart."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._started = monotonic()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if self._asked_to_stop():
            raise Interrupted("stopped in the trial; nothing of it is kept")
        self.ends.append((monotonic() - self._aside, self.num_tokens()))
        self._show(monotonic() - self._started)
        # The first step warms up: two more tell what one costs.
        is_over = monotonic() - self._started > self._seconds and len(self.ends) > 2
        if is_over:
            control.should_save = control.should_training_stop = True

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.seconds_of_checkpoint = monotonic() - self._aside - self.ends[-1][0]
        self._aside += self.seconds_of_checkpoint

    def costs(self) -> StepCosts:
        """What a step costs; the first only if there is no other."""
        pairs = list(zip(self.ends, self.ends[1:], strict=False))
        if not pairs:
            (end, tokens) = self.ends[0]
            return StepCosts.fit([Load(steps=1, tokens=tokens)], [end - self._started])
        return StepCosts.fit(
            [Load(steps=1, tokens=after[1] - before[1]) for before, after in pairs],
            [after[0] - before[0] for before, after in pairs],
        )


@dataclass(kw_only=True)
class _Stopwatch:
    """Seconds since it was last looked at."""

    last: float = field(default_factory=monotonic)

    def lap(self) -> float:
        now = monotonic()
        seconds, self.last = now - self.last, now
        return seconds


def _forecast(job: TrainJob, clock: _Clock) -> TrainForecast:
    watch = _Stopwatch()
    trained = load_for_training(job.base, job.config, device=job.device, dtype=job.dtype)
    keep_start(trained, job.config, job.folder.path)
    seconds_to_load = watch.lap()
    trainer = _trial_trainer(job, trained, clock)
    trainer.train()
    watch.lap()
    validation_tokens = _num_tokens(_rows(job.lessons.validation))
    seconds_of_look = 0.0
    if validation_tokens:
        trainer.evaluate()
        share = _num_tokens(_rows(_head(job.lessons.validation))) / validation_tokens
        seconds_of_look = watch.lap() / share
    write_trained(job, trained)
    prove(job.config, job.lessons, trained, job.folder.path)
    seconds_of_proof = watch.lap()
    num_steps, num_done = trainer.state.max_steps, _steps_done(job.config)
    left = _load_left(job, num_steps=num_steps, num_left=num_steps - num_done)
    peak = Peak.read(job.device)
    rows = _rows(job.lessons.training)
    return TrainForecast(
        rows=len(job.lessons.training.examples),
        rows_too_long=len(job.lessons.training.losses),
        longest_row=max(map(_length, rows)),
        max_length=job.lessons.max_length,
        steps=num_steps,
        steps_done=num_done,
        tokens_per_epoch=_num_tokens(rows),
        tokens_left=left.tokens,
        trained_values=trained.num_trained,
        peak=peak.process_bytes if peak.device_bytes is None else peak.device_bytes,
        seconds_to_load=seconds_to_load,
        seconds_of_steps=clock.costs().seconds(left),
        seconds_of_checkpoints=clock.seconds_of_checkpoint
        * (left.steps // job.config.keep.save_every + 1),
        seconds_of_validation=seconds_of_look * _num_looks(job.config, left),
        seconds_of_proof=seconds_of_proof,
        steps_probed=len(clock.ends),
    )


def _trial_trainer(job: TrainJob, trained: TrainedModel, clock: _Clock) -> Trainer:
    """The run's own trainer, over rows in the trial's order."""
    keep = replace(job.config.keep, report=(), patience=None, evaluate_every=None)
    rows_at_once = job.config.steps.batch_size * job.config.steps.accumulation
    trial = replace(
        job,
        config=replace(job.config, keep=keep),
        lessons=_in_trial_order(job.lessons, num_longest=rows_at_once),
    )
    reporter = Reporter(lambda _: None, metrics=job.folder.metrics, should_stop=lambda: False)
    trainer = make_run(trial, trained, reporter)
    trainer.args.train_sampling_strategy = "sequential"
    trainer.args.eval_strategy = IntervalStrategy.NO  # validation rows are looked at afterwards
    trainer.add_callback(clock)
    clock.num_tokens = lambda: reporter.num_tokens
    return trainer


def _in_trial_order(lessons: Lessons, *, num_longest: int) -> Lessons:
    training = lessons.training
    ordered = replace(
        training,
        sequences=tuple(_longest_first(training.sequences, num_longest)),
        pairs=tuple(_longest_first(training.pairs, num_longest)),
    )
    return replace(lessons, training=ordered, validation=_head(lessons.validation))


def _longest_first(rows: Sequence[_AnyRow], num_longest: int) -> list[_AnyRow]:
    ordered = sorted(rows, key=_length, reverse=True)
    longest, rest = ordered[:num_longest], ordered[num_longest:]
    Random(0).shuffle(rest)
    return [*longest, *rest]


def _head(split: Split) -> Split:
    """The first rows of a split, of sequences and of pairs."""
    return replace(split, sequences=split.sequences[:NUM_ROWS], pairs=split.pairs[:NUM_ROWS])


def _rows(split: Split) -> Sequence[_Row]:
    return split.pairs or split.sequences


def _length(row: _Row) -> int:
    if isinstance(row, EncodedExample):
        return len(row.token_ids)
    return 2 * len(row.prompt_ids) + len(row.chosen_ids) + len(row.rejected_ids)


def _num_tokens(rows: Sequence[_Row]) -> int:
    return sum(map(_length, rows))


def _steps_done(config: TrainConfig) -> int:
    checkpoint = RunFolder(path=config.out).last_checkpoint()
    return 0 if checkpoint is None else int(checkpoint.name.split("-")[1])


def _load_left(job: TrainJob, *, num_steps: int, num_left: int) -> Load:
    rows = _rows(job.lessons.training)
    per_step = min(len(rows), job.config.steps.batch_size * job.config.steps.accumulation)
    # A last step of an epoch may be smaller: over whole epochs every row counts as often.
    num_a_epoch = -(-len(rows) // per_step)
    return Load(steps=num_left, tokens=_num_tokens(rows) * num_left / num_a_epoch)


def _num_looks(config: TrainConfig, left: Load) -> float:
    every = config.keep.evaluate_every
    return left.steps // every if every else config.steps.epochs
