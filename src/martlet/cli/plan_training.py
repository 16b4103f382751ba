"""What `martlet train --plan` prints."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from time import monotonic
from typing import TYPE_CHECKING

import typer

from martlet.cli.probing import command_to_go, probe_shown
from martlet.cli.progress import clock
from martlet.cli.quiet import quiet_libraries
from martlet.cli.stop import stop_on_signal
from martlet.cli.summary import counted
from martlet.cli.training import examine_rows
from martlet.errors import MissingExtraError
from martlet.forecast.price import TrainingPrice
from martlet.models.memory import GIB
from martlet.train.config import TrainConfig

if TYPE_CHECKING:
    from martlet.forecast.training import TrainForecast


def plan_training(config: TrainConfig, price: TrainingPrice | None, *, as_json: bool) -> None:
    """Tries a training out, and prints what it will take.

    Raises:
        MartletError: As `open_job` and `forecast_training` do.
    """
    started = monotonic()
    quiet_libraries()
    try:
        from martlet.forecast.training import forecast_training, trial_of
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"training ({error.name})", extra="train") from error

    with trial_of(config) as job:
        rows = len(job.lessons.training.examples)
        typer.echo(f"a trial on {rows:,} rows; loading {config.model}", err=True)
        examine_rows(job)
        open_s = monotonic() - started
        with stop_on_signal() as asked_to_stop, _shown() as show:
            forecast = forecast_training(
                job, seconds_to_open=open_s, show=show, asked_to_stop=asked_to_stop
            )
    if as_json:
        priced = {} if price is None else {"price": price.of(forecast.tokens_left)}
        print(json.dumps({**asdict(forecast), **priced, "command": command_to_go()}))
        return
    for name, value in _facts(forecast, price):
        print(f"{name:<9}{value}")


@contextmanager
def _shown() -> Iterator[Callable[[float], None]]:
    with probe_shown("taking steps that are thrown away") as show:
        yield lambda seconds: show(seconds, "training")


def _facts(forecast: "TrainForecast", price: TrainingPrice | None) -> Iterator[tuple[str, str]]:
    yield (
        "rows",
        f"{forecast.rows:,}; {forecast.rows_too_long:,} over the limit of "
        f"{forecast.max_length:,} tokens, the longest has {forecast.longest_row:,}",
    )
    tokens, left = f"{forecast.tokens_per_epoch:,}", f"{forecast.tokens_left:,.0f}"
    yield "tokens", f"{tokens} an epoch, {left} to train on"
    if price is not None:
        yield "price", f"{price.of(forecast.tokens_left):,.4f}"
    done = f", {forecast.steps_done:,} of them done" if forecast.steps_done else ""
    yield "steps", f"{forecast.steps:,}{done}; {forecast.trained_values:,} values are trained"
    yield "memory", f"{forecast.peak_bytes / GIB:.2f} GiB at most"
    parts = ", ".join(f"{name} {clock(each)}" for name, each in asdict(forecast.seconds).items())
    probed = f"{counted(forecast.steps_probed, 'step')} of a trial"
    yield "time", f"{clock(forecast.seconds.total)}: {parts} (by {probed})"
    yield "go", command_to_go()
