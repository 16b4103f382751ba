"""What `--plan` prints: what a run will take, and the command that runs it."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from time import monotonic

from rich.console import Console
from rich.table import Table

from martlet.backends.base import Backend
from martlet.backends.load import OpenedModel, load_backend, load_opened, open_model
from martlet.backends.options import BackendOptions, names_server
from martlet.batch.job import Job
from martlet.cli.ask import announce, fitted_job
from martlet.cli.probing import command_to_go, probe_shown
from martlet.cli.progress import clock
from martlet.cli.stop import stop_on_signal
from martlet.cli.summary import counted
from martlet.forecast.batch import BatchForecast, forecast_batch
from martlet.forecast.memory import Memory
from martlet.forecast.price import Price
from martlet.forecast.probe import Look
from martlet.forecast.work import Amount
from martlet.models.memory import GIB


def plan_job(
    job: Job, model: str, options: BackendOptions, price: Price | None, *, as_json: bool
) -> None:
    """Plans a job that was read, and prints what it will take.

    Raises:
        MartletError: As `load_backend` and `forecast_batch` do; the forecast's refusal, after the
            table.
    """
    announce(job)
    started = monotonic()
    backend, opened = _load(model, options)
    try:
        with stop_on_signal() as asked_to_stop, _shown() as show:
            forecast = forecast_batch(
                fitted_job(job, backend.limits),
                backend,
                opened=opened,
                seconds_to_load=monotonic() - started,
                show=show,
                asked_to_stop=asked_to_stop,
            )
    finally:
        backend.close()
    print(_json(forecast, price) if as_json else _text(forecast, price), end="")
    if forecast.refusal is not None:
        raise forecast.refusal


def _load(model: str, options: BackendOptions) -> tuple[Backend, OpenedModel | None]:
    """The backend; of a model that is loaded here, also what was known before."""
    if options.backend in ("openai", "vllm") or names_server(model, options):
        return load_backend(model, options=options), None
    opened = open_model(model, options)
    return load_opened(opened), opened


@contextmanager
def _shown() -> Iterator[Callable[[Look], None]]:
    with probe_shown("drawing first samples, which are kept") as show:
        yield lambda look: show(look.seconds, f"{look.num_samples:,} samples")


def _json(forecast: BatchForecast, price: Price | None) -> str:
    facts = asdict(forecast)
    refusal = forecast.refusal
    facts["refusal"] = None if refusal is None else str(refusal)
    for name, amount in (("drawn", forecast.drawn), ("left", forecast.left)):
        if amount is not None and price is not None:
            facts[name]["price"] = _price_of(amount, price)
    facts["command"] = command_to_go()
    return json.dumps(facts, ensure_ascii=False) + "\n"


def _text(forecast: BatchForecast, price: Price | None) -> str:
    console = Console(width=100, highlight=False)
    with console.capture() as captured:
        if forecast.left is not None:
            console.print(_amounts(forecast.drawn, forecast.left, price))
        for name, value in _facts(forecast):
            console.print(f"{name:<9}{value}", markup=False, soft_wrap=True)
    return captured.get()


def _amounts(drawn: Amount, left: Amount, price: Price | None) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for heading in ("", "in the journal", "left", "together"):
        table.add_column(heading, justify="right" if heading else "left")
    for name in ("questions", "samples", "tokens_in", "tokens_out"):
        known, rest = getattr(drawn, name), getattr(left, name)
        cells = (f"{known:,.0f}", f"{rest:,.0f}", f"{known + rest:,.0f}")
        table.add_row(name.replace("_", " "), *cells)
    if price is not None:
        known, rest = _price_of(drawn, price), _price_of(left, price)
        table.add_row("price", *(f"{each:,.4f}" for each in (known, rest, known + rest)))
    return table


def _price_of(amount: Amount, price: Price) -> float:
    return price.of(tokens_in=amount.tokens_in, tokens_out=amount.tokens_out)


def _facts(forecast: BatchForecast) -> Iterator[tuple[str, str]]:
    rows = forecast.rows
    over = counted(rows.too_long, "question")
    yield (
        "rows",
        f"{rows.rows:,}; {over} over the limit of {rows.max_context_tokens:,} tokens"
        + (f", the longest prompt has {rows.longest_prompt:,}" if rows.longest_prompt else ""),
    )
    if forecast.refusal is not None:
        return
    if forecast.memory is None:
        yield "memory", "not known: the server's own"
    else:
        yield from _facts_of_memory(forecast.memory)
    yield "time", _time(forecast)
    yield "go", command_to_go()


def _facts_of_memory(memory: Memory) -> Iterator[tuple[str, str]]:
    parts = [f"weights {_gib(memory.weights)}"]
    if memory.pool:
        parts.append(f"keys and values up to {_gib(memory.pool)}")
    if memory.adapters:
        parts.append(f"adapters {_gib(memory.adapters)}")
    yield (
        "memory",
        f"{_gib(memory.peak)} at most, of {_gib(memory.available)}: {', '.join(parts)}",
    )
    at_once = counted(memory.requests_at_once, "sample")
    if memory.longest_at_once is None:
        yield "fits", f"{at_once} at once"
        return
    yield "fits", f"{at_once} at once; of the longest, {memory.longest_at_once:,}"


def _time(forecast: BatchForecast) -> str:
    probed = f"{counted(forecast.num_ended, 'sample')} in {forecast.seconds_probed:.0f} s"
    if forecast.seconds_left is None:
        return f"not known: no sample ended in the {forecast.seconds_probed:.0f} s of the probe"
    return (
        f"{clock(forecast.seconds_left)} for what is left, and {clock(forecast.seconds_to_load)} "
        f"to load the model (by a probe: {probed})"
    )


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / GIB:.2f} GiB"
