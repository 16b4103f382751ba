"""What a training will take: a trial of some seconds that is thrown away, its end included.

The longest rows come first, so that memory is at its worst; then rows in random order, as they will
come. A step costs a base and so much a token. The trial then keeps a checkpoint, looks at
validation rows, writes what was trained and proves it, as the run will.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

import torch

from martlet.errors import ResourceError
from martlet.forecast.clock import TrialClock
from martlet.forecast.costs import Load
from martlet.forecast.peak import Peak
from martlet.forecast.probe import SECONDS
from martlet.forecast.trial import head_of, length_of, num_tokens_of, rows_of, trial_trainer
from martlet.train.base import keep_start, load_for_training
from martlet.train.config import TrainConfig
from martlet.train.job import MEMORY_ADVICE, TrainJob, open_job, write_trained
from martlet.train.proof import prove
from martlet.train.run_folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class TrainSeconds:
    """What each part of a training takes."""

    load: float
    """Rows and model."""
    steps: float
    validation: float
    checkpoints: float
    proof: float
    """To write the result and prove it."""

    @property
    def total(self) -> float:
        """Of all; less if the training stops early."""
        return self.load + self.steps + self.validation + self.checkpoints + self.proof


@dataclass(frozen=True, kw_only=True)
class TrainForecast:
    """What a training will take."""

    rows: int
    rows_too_long: int
    """Rows of which something is not learned."""
    longest_row: int
    """Tokens."""
    max_length: int
    tokens_per_epoch: int
    tokens_left: float
    """To be computed in the steps that are left."""
    steps: int
    steps_done: int
    """By an earlier process, which kept a checkpoint."""
    steps_probed: int
    trained_values: int
    peak_bytes: int
    """Of memory at the worst moment: the machine's, or the accelerator's if there is one."""
    seconds: TrainSeconds


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
    seconds_to_open: float = 0.0,
    seconds: float = SECONDS,
    show: Callable[[float], None] = lambda _: None,
    asked_to_stop: Callable[[], bool] = lambda: False,
) -> TrainForecast:
    """Tries a run out.

    Args:
        job: Opened by `trial_of`.
        seconds_to_open: What that took; the run's own time begins with it.
        seconds: After which no other step is begun.
        show: Called after each step with the seconds that have passed.
        asked_to_stop: Asked between two steps.

    Raises:
        ResourceError: If memory does not suffice.
        Interrupted: If `asked_to_stop` said so.
    """
    clock = TrialClock(seconds, show, asked_to_stop)
    try:
        trial = _try_out(job, clock)
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise ResourceError(f"memory does not suffice to train: {MEMORY_ADVICE}") from error
    num_done = _steps_done(job.config)
    left = _load_left(job, trial.num_steps - num_done)
    rows = rows_of(job.lessons.training)
    return TrainForecast(
        rows=len(job.lessons.training.examples),
        rows_too_long=len(job.lessons.training.losses),
        longest_row=max(map(length_of, rows)),
        max_length=job.lessons.max_length,
        tokens_per_epoch=num_tokens_of(rows),
        tokens_left=left.tokens,
        steps=trial.num_steps,
        steps_done=num_done,
        steps_probed=len(clock.ends),
        trained_values=trial.num_trained,
        peak_bytes=_peak_bytes(job, clock),
        seconds=_seconds(job.config, clock, trial, left, seconds_to_open),
    )


@dataclass(frozen=True, kw_only=True)
class _Trial:
    """What a trial took, besides its steps."""

    num_steps: int
    """Of the whole run."""
    num_trained: int
    load_s: float
    look_s: float
    """At all validation rows."""
    proof_s: float


@dataclass(kw_only=True)
class _Stopwatch:
    """Seconds since it was last looked at."""

    last: float = field(default_factory=monotonic)

    def lap(self) -> float:
        before, self.last = self.last, monotonic()
        return self.last - before


def _try_out(job: TrainJob, clock: TrialClock) -> _Trial:
    watch = _Stopwatch()
    trained = load_for_training(job.base, job.config, device=job.device, dtype=job.dtype)
    keep_start(trained, job.config, job.folder.path)
    trainer = trial_trainer(job, trained, clock)
    load_s = watch.lap()
    trainer.train()
    watch.lap()
    look_s, validation = 0.0, job.lessons.validation
    if validation:
        trainer.evaluate()
        seen, every = (
            num_tokens_of(rows_of(head_of(validation))),
            num_tokens_of(rows_of(validation)),
        )
        look_s = watch.lap() / seen * every
    write_trained(job, trained)
    prove(job.config, job.lessons, trained, job.folder.path)
    return _Trial(
        num_steps=trainer.state.max_steps,
        num_trained=trained.num_trained,
        load_s=load_s,
        look_s=look_s,
        proof_s=watch.lap(),
    )


def _peak_bytes(job: TrainJob, clock: TrialClock) -> int:
    """At the worst moment of a run that is longer than its trial: see `forecast.memory`."""
    peak = Peak.read(job.device)
    if peak.device_bytes is not None:
        return peak.device_bytes
    return peak.process_bytes + clock.grown_bytes


def _steps_done(config: TrainConfig) -> int:
    checkpoint = RunFolder(path=config.out).last_checkpoint()
    return 0 if checkpoint is None else int(checkpoint.name.split("-")[1])


def _load_left(job: TrainJob, num_left: int) -> Load:
    rows = rows_of(job.lessons.training)
    num_a_epoch = -(-len(rows) // (job.config.steps.batch_size * job.config.steps.accumulation))
    return Load(steps=num_left, tokens=num_tokens_of(rows) * num_left / num_a_epoch)


def _seconds(
    config: TrainConfig, clock: TrialClock, trial: _Trial, left: Load, seconds_to_open: float
) -> TrainSeconds:
    every = config.keep.evaluate_every
    num_looks = left.steps // every if every else config.steps.epochs
    num_checkpoints = left.steps // config.keep.save_every + 1
    return TrainSeconds(
        load=seconds_to_open + trial.load_s,
        steps=clock.costs.seconds(left),
        validation=trial.look_s * num_looks,
        checkpoints=clock.seconds_of_checkpoint * num_checkpoints,
        proof=trial.proof_s,
    )
