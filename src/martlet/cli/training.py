"""What `martlet train` shows: the run before it starts, its progress, and what came of it."""

import json
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import typer

from martlet.cli.progress import clock
from martlet.cli.quick import without_collections
from martlet.cli.quiet import quiet_libraries
from martlet.cli.stop import stop_on_signal
from martlet.errors import DataError, MissingExtraError
from martlet.lora.provenance import TEMPLATE_NAME
from martlet.train.config import TrainConfig

if TYPE_CHECKING:
    from martlet.train.job import TrainJob
    from martlet.train.lessons import Split
    from martlet.train.progress import Progress

_SECONDS_BETWEEN_LINES = 5.0


def run_training(config: TrainConfig, *, as_json: bool) -> None:
    """Opens a run, trains, and tells what came of it."""
    quiet_libraries()
    try:
        with without_collections():
            from martlet.train.job import open_job, run_job
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"training ({error.name})", extra="train") from error

    job = open_job(config)
    num_rows = len(job.lessons.training.examples)
    num_validation = len(job.lessons.validation.examples)
    verb = "going on with" if job.resumes else "training on"
    _tell(f"{verb} {num_rows:,} rows, {num_validation:,} for validation; loading {config.model}")
    examine_rows(job)
    for split in (job.lessons.training, job.lessons.validation):
        tell_losses(split)
    with stop_on_signal() as should_stop, _shown() as watch:
        result = run_job(job, watch=watch, should_stop=should_stop)
    if result.proof is None:  # another process of the run tells
        return
    speed = result.num_tokens / result.seconds if result.seconds else 0.0
    _tell(
        f"{result.num_steps:,} steps, {result.num_trained_values:,} values trained, "
        f"{result.num_tokens:,} tokens in {clock(result.seconds)} ({speed:,.0f} tokens/s)"
    )
    proof = result.proof
    typer.secho(
        f"proof: loss {proof.trainer_loss:.4f} in training, {proof.serving_loss:.4f} served, on "
        f"{proof.num_tokens:,} tokens of {proof.num_rows:,} rows",
        fg=typer.colors.GREEN,
        err=True,
    )
    if proof.whole_base_loss is not None:
        _tell(
            f"       loss {proof.whole_base_loss:.4f} un-merged on the base as it is stored; "
            "martlet merge keeps the one that training saw"
        )
    _tell(f"adapter  {result.folder}")
    _tell(f"curve    {job.folder.curve}")
    if not config.tuner.full:
        _tell(f"next     {serving_command(config)}")
    if as_json:
        print(json.dumps({**asdict(result), "folder": str(result.folder)}))


def serving_command(config: TrainConfig) -> str:
    """Serves the adapter of a run beside its base, and as it was trained."""
    name = config.out.name
    if name == Path(config.model).resolve().name:  # which the base answers to
        name = f"{name}-tuned"
    words = ["martlet", "serve", config.model, "--adapter", f"{name}={config.out}"]
    if config.chat_template is not None:
        words += ["--chat-template", str(config.out / TEMPLATE_NAME)]
    return shlex.join(words)


def _tell(line: str) -> None:
    typer.echo(line, err=True)


def examine_rows(job: "TrainJob") -> None:
    """Shows what the doctor finds; what would spoil the run ends it.

    Raises:
        DataError: If something would.
    """
    from rich.console import Console

    from martlet.cli.examination import table_of
    from martlet.train.doctor import examine

    lessons = job.lessons
    diagnosis = examine(
        lessons.training_sources,
        lessons.validation_sources,
        job.tokenizer,
        max_length=lessons.max_length,
    )
    # Long rows were dealt with as the user said.
    findings = [each for each in diagnosis.findings if not each.is_length]
    if findings:
        Console(stderr=True).print(table_of(findings))
    if stopping := [each.kind for each in findings if each.stops]:
        raise DataError(
            f"these rows would spoil the training: {', '.join(stopping)}; martlet check names them"
        )


def tell_losses(split: "Split") -> None:
    """Says what the over-length policy left out: a red line, since the user must know."""
    if split.losses:
        rows = ", ".join(f"{each.origin} (-{each.num_tokens})" for each in split.losses[:5])
        more = ", …" if len(split.losses) > 5 else ""
        typer.secho(
            f"too long: {sum(each.num_tokens for each in split.losses):,} tokens of "
            f"{len(split.losses):,} rows are not learned: {rows}{more}",
            fg=typer.colors.RED,
            err=True,
        )


@contextmanager
def _shown() -> Iterator[Callable[["Progress"], None]]:
    """Shows reports for as long as the context lasts: a bar in a terminal, lines elsewhere."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Display

    columns = (BarColumn(bar_width=24), TextColumn("{task.description}"))
    with Display(*columns, console=Console(stderr=True), transient=True) as display:
        task = display.add_task("starting", total=None)
        yield lambda now: display.update(
            task, total=now.num_steps, completed=now.step, description=described(now)
        )


class _Lines:
    """Writes a line every few seconds."""

    def __init__(self) -> None:
        self._next = monotonic()

    def __call__(self, now: "Progress") -> None:
        if now.validation_loss is None and monotonic() < self._next:
            return
        self._next = monotonic() + _SECONDS_BETWEEN_LINES
        _tell(described(now))


def described(now: "Progress") -> str:
    """A report in one line: step, loss, speed, time left."""
    parts = [f"step {now.step:,}/{now.num_steps:,}", f"epoch {now.epoch:.2f}"]
    if now.loss is not None:
        parts.append(f"loss {now.loss:.4f}")
    if now.validation_loss is not None:
        parts.append(f"validation loss {now.validation_loss:.4f}")
    parts.append(f"{now.tokens_per_second:,.0f} tokens/s")
    left = now.seconds_left
    parts.append("time left unknown" if left is None else f"{clock(left)} left")
    return " · ".join(parts)
