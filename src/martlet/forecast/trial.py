"""The rows of a trial and their order: the longest first, then as they come in the run."""

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import TypeVar

from transformers import IntervalStrategy, Trainer

from martlet.forecast.clock import TrialClock
from martlet.train.base import TrainedModel
from martlet.train.encoding import EncodedExample, EncodedPreference
from martlet.train.job import TrainJob, make_run
from martlet.train.lessons import Lessons, Split
from martlet.train.progress import Reporter
from martlet.train.proof import NUM_ROWS

Row = EncodedExample | EncodedPreference
_AnyRow = TypeVar("_AnyRow", bound=Row)


def trial_trainer(job: TrainJob, trained: TrainedModel, clock: TrialClock) -> Trainer:
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
    return replace(lessons, training=ordered, validation=head_of(lessons.validation))


def _longest_first(rows: Sequence[_AnyRow], num_longest: int) -> list[_AnyRow]:
    ordered = sorted(rows, key=length_of, reverse=True)
    rest = ordered[num_longest:]
    Random(0).shuffle(rest)
    return [*ordered[:num_longest], *rest]


def head_of(split: Split) -> Split:
    """The first rows of a split, of sequences and of pairs."""
    return replace(split, sequences=split.sequences[:NUM_ROWS], pairs=split.pairs[:NUM_ROWS])


def rows_of(split: Split) -> Sequence[Row]:
    """What a split's steps are made of."""
    return split.pairs or split.sequences


def length_of(row: Row) -> int:
    """Tokens that are computed for a row; of a preference, the prompt with either reply."""
    if isinstance(row, EncodedExample):
        return len(row.token_ids)
    return 2 * len(row.prompt_ids) + len(row.chosen_ids) + len(row.rejected_ids)


def num_tokens_of(rows: Sequence[Row]) -> int:
    """Tokens that are computed for rows."""
    return sum(map(length_of, rows))
